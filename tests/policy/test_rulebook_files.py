"""What rulebook files may say; the built-in ones set everything that matters."""

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from smtpproxy.policy import rulebooks
from smtpproxy.policy.model import Basis, Condition, Dealing, Origin, Reason, Rulebook, Source
from smtpproxy.policy.periods import Period, Unit, months, years
from smtpproxy.policy.rulebooks import (
    BUILTIN_NAMES,
    PARAMETERS,
    RulebookError,
    builtin,
    parse_rulebook,
)
from smtpproxy.policy.rules import tables
from tests.policy.rulebook_values import LISTS, matters
from tests.policy.rulebook_values import table as table_of_values

DOCUMENT = (Path(__file__).parents[2] / "docs" / "rulebooks.md").read_text("utf-8")
FR = builtin("fr")


def _own(text: str, extends: str = "fr") -> Rulebook:
    return parse_rulebook(f'name = "own"\nextends = "{extends}"\n{text}')


def test_unset_parameters_come_from_the_extended_rulebook() -> None:
    ca = builtin("ca")
    own = _own('customer_period = "1 year"', "ca")
    assert own.name == "own"
    assert own.customer_period == years(1)
    assert (own.inquiry_period, own.bases, own.law) == (months(6), ca.bases, ca.law)


def test_without_extends_values_are_those_of_fr_except_its_lists() -> None:
    own = parse_rulebook('name = "own"')
    assert own == Rulebook("own")
    for parameter in PARAMETERS:
        if parameter not in (*LISTS, "law"):
            assert getattr(own, parameter) == getattr(FR, parameter), parameter


PERIODS = [
    ('customer_period = "3 years"', years(3)),
    ('customer_period = "1 year"', years(1)),
    ('customer_period = "18 months"', months(18)),
    ('customer_period = "90 days"', Period(90, Unit.DAYS)),
    ('customer_period = "unlimited"', None),
    ("customer_years = 2", years(2)),
    ("customer_months = 18", months(18)),
    ("customer_days = 90", Period(90, Unit.DAYS)),
]


@pytest.mark.parametrize(("text", "expected"), PERIODS)
def test_how_periods_are_written(text: str, expected: Period | None) -> None:
    assert _own(text).customer_period == expected


def test_how_other_values_are_written() -> None:
    own = _own(
        """
bases = ["consent", "existing_customer", "opt_out"]
customer_requires = ["notice", "similar_product"]
dealings = ["sale", "account"]
charity_since = 2026-02-05
record_required = false
longest_chain = 2
honour_within = "10 business days"
lifted_by_consent = ["unsubscribe", "objection"]
disclosed_sources = ["partner"]
"""
    )
    assert own.bases == (Basis.CONSENT, Basis.EXISTING_CUSTOMER, Basis.OPT_OUT)
    assert own.customer_requires == (Condition.NOTICE, Condition.SIMILAR_PRODUCT)
    assert own.dealings == {Dealing.SALE, Dealing.ACCOUNT}
    assert str(own.charity_since) == "2026-02-05 00:00:00+00:00"
    assert (own.record_required, own.longest_chain) == (False, 2)
    assert own.honour_within == Period(10, Unit.BUSINESS_DAYS)
    assert own.lifted_by_consent == {Origin.UNSUBSCRIBE, Origin.OBJECTION}
    assert own.disclosed_sources == {Source.PARTNER}


def test_lists_can_be_added_to_and_removed_from() -> None:
    own = _own(
        """
[add]
consumer_domains = ["mail.example"]
accepted_sources = ["unknown"]
[remove]
role_local_parts = ["team"]
"""
    )
    assert own.consumer_domains == FR.consumer_domains | {"mail.example"}
    assert own.role_local_parts == FR.role_local_parts - {"team"}
    assert own.accepted_sources == {Source.DIRECT, Source.UNKNOWN}


FAULTS = [
    (
        'extends = "eu"',
        'extends: "eu" is not a built-in rulebook: one of fr, uk, de, us, ca, eu-strict',
    ),
    (
        'extends = "eu-strickt"',
        'extends: "eu-strickt" is not a built-in rulebook; did you mean eu-',
    ),
    ("extends = 1", "extends: 1 is not a built-in rulebook: one of fr, uk, de, us, ca, eu-st"),
    ("consent_yaers = 2", "consent_yaers: not a key of a rulebook; did you mean consent_years?"),
    ("colour = 2", "colour: not a key of a rulebook: one of name, extends, bases, "),
    (
        'consent_period = "3 moons"',
        'consent_period: must be a period such as "2 years", "2 months", "2 days" or'
        ' "unlimited", not "3 moons"',
    ),
    ("consent_period = 3", "consent_period: must be a period such as"),
    ('consent_period = "0 years"', "consent_period: must be a whole number from 1 to 100, not 0"),
    ('consent_period = "2 hours"', "consent_period: must be a period such as"),
    ('consent_years = "two"', 'consent_years: must be a whole number from 1 to 100, not "two"'),
    (
        'consent_years = 2\nconsent_period = "1 year"',
        "consent_period: consent_period is set already: write it once",
    ),
    ('honour_within = "unlimited"', "honour_within: must be a period such as"),
    ('bases = ["consent", "optout"]', 'bases: "optout" is not allowed here; did you mean opt_out?'),
    ('bases = ["consent", "consent"]', 'bases: "consent" is listed twice'),
    ('bases = ["consent", "transactional"]', 'bases: "transactional" is not allowed here'),
    ("bases = []", 'bases: "consent" is missing'),
    ('bases = ["consent", "generic_address"]', 'bases: "generic_address" must come first'),
    ('bases = ["opt_out", "consent"]', 'bases: "opt_out" must come last'),
    (
        'professional_requires = ["similar_product"]',
        'professional_requires: "similar_product" is not allowed here: one of direct_source,',
    ),
    (
        'accepted_sources = ["wbe"]',
        'accepted_sources: "wbe" is not allowed here; did you mean web?',
    ),
    (
        'accepted_sources = ["direct", "web"]',
        'forbidden_sources: "web" is in accepted_sources too: it can be in one only',
    ),
    (
        'accepted_sources = ["direct", "partner"]',
        'disclosed_sources: "partner" is in accepted_sources too: it can be in one only',
    ),
    (
        'disclosed_sources = ["web"]',
        'forbidden_sources: "web" is in disclosed_sources too: it can be in one only',
    ),
    ('lifted_by_consent = ["bounce"]', 'lifted_by_consent: "bounce" is not allowed here'),
    ('required_evidence = ["hash"]', 'required_evidence: "hash" is not allowed here'),
    ('record_required = "no"', 'record_required: must be true or false, without quotes, not "no"'),
    ("longest_chain = 0", 'longest_chain: must be a whole number from 1, or "unlimited", not 0'),
    (
        "longest_chain = true",
        'longest_chain: must be a whole number from 1, or "unlimited", not true',
    ),
    ('charity_since = "2026-02-05"', "charity_since: must be a date without quotes, like 2026"),
    ("charity_since = 2026-02-05T00:00:00Z", "charity_since: must be a date without quotes"),
    ("[law]\nconsnt = 'x'", 'law: "consnt" is not one of its keys; did you mean consent?'),
    ("[law]\nconsent = 1", "law: consent: must be text"),
    ("[law]\nconsent = ' '", "law: consent: must be text"),
    ('law = "CPCE"', "law: must be a table of texts"),
    ("add = 1", "add: must be a table: [add] with lists"),
    ("[add]\nbases = ['opt_out']", "add.bases: not a list of a rulebook"),
    ("[add]\nconsumer_domains = ['A.example']", 'add.consumer_domains: "A.example" must be writt'),
    ("[remove]\nrole_local_parts = ['jeanne']", 'remove.role_local_parts: "jeanne" is not in it'),
    ("[sources]\nconsent_yaers = 'x'", "sources.consent_yaers: not a parameter; did you mean"),
]


@pytest.mark.parametrize(("text", "said"), FAULTS)
def test_a_fault_says_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(RulebookError) as caught:
        parse_rulebook('name = "x"\n' + text)
    assert [fault for fault in caught.value.faults if fault.startswith(said)], caught.value


def test_every_fault_is_named_once_in_the_order_of_the_file() -> None:
    with pytest.raises(RulebookError) as caught:
        parse_rulebook(
            """
extends = "uk"
valid_methods = ["signed_form", "implied"]
recrod_required = true
customer_years = 0
accepted_sources = ["direct", "wbe", "harvseted"]
[add]
role_local_parts = ["Info"]
[sources]
consent_years = 3
"""
        )
    assert [fault.partition(": ")[0] for fault in caught.value.faults] == [
        "name",
        "recrod_required",
        "customer_years",
        "accepted_sources",
        "accepted_sources",
        "add.role_local_parts",
        "sources.consent_years",
        "preticked_methods",
    ]


@pytest.mark.parametrize("name", BUILTIN_NAMES)
def test_a_built_in_rulebook_sets_and_sources_everything_that_matters(name: str) -> None:
    text = resources.files(rulebooks).joinpath(f"{name}.toml").read_text("utf-8")
    document = tomllib.loads(text)
    said = set(document) & set(PARAMETERS)
    book = builtin(name)
    for parameter in PARAMETERS:
        if matters(parameter, book) and (name, parameter) != ("uk", "consumer_domains"):
            assert parameter in said, parameter
    assert set(document["sources"]) == said
    assert all(len(source) > 2 for source in document["sources"].values())
    # the marks of sources in the digest
    assert "Not verified:" in text
    assert all(mark in text for mark in ("[P]", "[S]", "[M]"))


@pytest.mark.parametrize("name", BUILTIN_NAMES)
def test_a_built_in_rulebook_names_the_law_of_every_rule_that_it_has(name: str) -> None:
    book = builtin(name)
    asked = {rule.name for rule in tables.recipient_rules(book.bases)}
    messages = {"sender", "unsubscribe_present", "unsubscribe_usable"}
    messages |= {"body_optout", "imprint", "subject"}
    if book.permission_window is not None:
        asked |= {"permission", "confirm_link"}
    named = set(book.law) - (set(Reason) - {"no_record"})  # `no_record` is the name of a rule too
    assert named == asked | messages | {"source_announced", "tracking"}


def test_only_one_built_in_rulebook_allows_mail_without_a_record() -> None:
    lenient = [name for name in BUILTIN_NAMES if not builtin(name).record_required]
    assert lenient == ["us"]
    assert [n for n in BUILTIN_NAMES if Basis.OPT_OUT in builtin(n).bases] == ["us"]


def test_no_built_in_rulebook_treats_a_free_account_as_a_sale() -> None:
    assert [n for n in BUILTIN_NAMES if Dealing.ACCOUNT in builtin(n).dealings] == []


# docs/rulebooks.md


def _section(title: str) -> str:
    return DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_exactly_the_existing_parameters_are_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \| [a-z, ]+ \| [A-Z]", _section("The parameters"), re.M)
    assert sorted([*explained, "law"]) == sorted(PARAMETERS)
    assert "`[law]`" in DOCUMENT


def test_the_table_of_values_matches_the_files() -> None:
    """`python -m tests.policy.rulebook_values` prints the right table."""
    assert DOCUMENT.endswith(table_of_values())


def test_every_built_in_rulebook_is_introduced() -> None:
    introduced = re.findall(r"^\| `([a-z-]+)` \| ", DOCUMENT.partition("\n## ")[0], re.M)
    assert tuple(introduced) == BUILTIN_NAMES


def test_the_example_of_a_custom_rulebook_is_valid() -> None:
    example = re.search(r"^```toml\n(name = .*?)^```", DOCUMENT, re.M | re.S)
    assert example
    own = parse_rulebook(example[1])
    assert own.customer_period == years(2)
    assert "team" not in own.role_local_parts


def test_the_faults_shown_in_the_document_are_the_real_ones() -> None:
    for text in ("consent_yaers = 2", 'forbidden_sources = ["wbe"]'):
        with pytest.raises(RulebookError) as caught:
            _own(text)
        assert f"shop.toml: {caught.value.faults[0]}\n" in DOCUMENT
