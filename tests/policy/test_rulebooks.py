"""The built-in rulebooks, and reading a custom one."""

import tomllib
from importlib import resources

import pytest

from smtpproxy.mail.address import canonical
from smtpproxy.policy import rulebooks
from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.periods import years
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, RulebookError, parse_rulebook

FR_TEXT = resources.files(rulebooks).joinpath("fr.toml").read_text("utf-8")
FR = parse_rulebook(FR_TEXT)


@pytest.mark.parametrize("name", BUILTIN_NAMES)
def test_every_built_in_rulebook_exists_under_its_name(name: str) -> None:
    text = resources.files(rulebooks).joinpath(f"{name}.toml").read_text("utf-8")
    assert parse_rulebook(text).name == name


def test_the_clocks_and_methods_of_france() -> None:
    assert {FR.customer_period, FR.consent_period, FR.activity_period} == {years(3)}
    assert FR.valid_methods == {"unticked_box", "double_opt_in", "signed_form", "verbal_recorded"}
    assert FR.preticked_methods == {"preticked_box", "implied", "silence"}


def test_every_parameter_of_france_has_its_source() -> None:
    sources = tomllib.loads(FR_TEXT)["sources"]
    assert set(sources) == set(Rulebook.__struct_fields__) - {"name"}


def test_roles_are_departments_and_not_persons() -> None:
    assert FR.role_local_parts >= {
        "contact", "info", "recrutement", "accueil", "commandes", "sales", "support", "jobs",
    }  # fmt: skip
    assert not FR.role_local_parts & {
        "jeanne", "paul", "france", "victoire", "pdg", "ceo", "directeur", "president", "me",
        "moi", "mail", "abuse", "postmaster", "noreply", "no-reply", "root", "test",
    }  # fmt: skip


def test_consumer_providers_of_france_and_of_the_world() -> None:
    assert FR.consumer_domains >= {
        "gmail.com", "orange.fr", "wanadoo.fr", "free.fr", "laposte.net", "sfr.fr", "bbox.fr",
        "hotmail.com", "hotmail.fr", "outlook.com", "outlook.fr", "live.fr", "yahoo.fr",
        "yahoo.com", "icloud.com", "gmx.fr", "gmx.de", "web.de", "t-online.de", "proton.me",
    }  # fmt: skip
    assert not FR.consumer_domains & {"example.com", "gouv.fr", "com", "fr"}


def test_the_lists_are_in_canonical_form() -> None:
    for local in FR.role_local_parts:
        assert canonical(f"{local}@example.com") == f"{local}@example.com"
    for domain in FR.consumer_domains:
        assert canonical(f"a@{domain}") == f"a@{domain}"


def test_unset_parameters_have_defaults_and_no_address_is_generic() -> None:
    own = parse_rulebook('name = "own"\ncustomer_years = 2\n')
    assert own == Rulebook("own", customer_period=years(2))
    assert own.role_local_parts == frozenset()


FAULTS = [
    ("", "name: must be a word"),
    ("name = 1", "name: must be a word"),
    ('name = "two words"', "name: must be a word"),
    ('name = ""', "name: must be a word"),
    ("name", "line 1, column 5: not TOML: expected = between key and value"),
    ('name = "x"\nconsent_yaers = 2', "consent_yaers: not a key of a rulebook"),
    ('name = "x"\nconsent_years = 0', "consent_years: must be a whole number from 1"),
    ('name = "x"\nconsent_years = 101', "consent_years: must be a whole number from 1"),
    ('name = "x"\nconsent_years = true', "consent_years: must be a whole number from 1"),
    ('name = "x"\nconsent_years = 2.5', "consent_years: must be a whole number from 1"),
    ('name = "x"\nvalid_methods = "signed_form"', "valid_methods: must be a list of texts"),
    ('name = "x"\nvalid_methods = [1]', "valid_methods: must be a list of texts"),
    ('name = "x"\nvalid_methods = [""]', "valid_methods: must be a list of texts"),
    ('name = "x"\nvalid_methods = ["silence"]', 'preticked_methods: "silence" is in valid'),
    ('name = "x"\nrole_local_parts = ["a b"]', 'role_local_parts: "a b" is not a local part'),
    ('name = "x"\nrole_local_parts = ["Info"]', 'role_local_parts: "Info" must be written "info"'),
    ('name = "x"\nconsumer_domains = ["a@b"]', 'consumer_domains: "a@b" is not a domain'),
    (
        'name = "x"\nconsumer_domains = ["é.fr"]',
        'consumer_domains: "é.fr" must be written "xn--9ca.fr"',
    ),
    ('name = "x"\nsources = "law"', "sources: must be a table"),
    ('name = "x"\n[sources]\nyears = "A9"', "sources.years: not a parameter"),
    ('name = "x"\n[sources]\nconsent_years = 3', "sources.consent_years: must be text"),
]


@pytest.mark.parametrize(("text", "said"), FAULTS)
def test_a_fault_names_the_key_and_a_valid_value(text: str, said: str) -> None:
    with pytest.raises(RulebookError) as caught:
        parse_rulebook(text)
    assert str(caught.value).startswith(said)
