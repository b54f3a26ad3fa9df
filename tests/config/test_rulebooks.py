"""Rulebooks named in the settings: built-in ones and custom files."""

from pathlib import Path

import pytest

from smtpproxy.config import ConfigError, parse
from smtpproxy.config import read_rulebook as read
from smtpproxy.config.warnings import warnings
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, RulebookError, builtin

SMALLEST = (Path(__file__).parent / "good" / "smallest.toml").read_text("utf-8")


def _stream(name: str, rulebook: str) -> str:
    return (
        f'[[stream]]\nname = "{name}"\nclass = "marketing"\npurpose = "{name}"\n'
        f'rulebook = "{rulebook}"\n'
    )


@pytest.mark.parametrize("name", BUILTIN_NAMES)
def test_every_built_in_rulebook_can_be_named(name: str) -> None:
    settings = parse(f'{SMALLEST}\n[policy]\nrulebook = "{name}"\n', "x.toml")
    assert settings.streams["default"].rulebook == name
    assert settings.rulebooks == {name: builtin(name)}


def test_each_stream_may_have_its_own_rulebook(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nextends = "uk"\nconsent_years = 2\n')
    text = SMALLEST + _stream("deals", "us") + _stream("news", str(own))
    settings = parse(text, "x.toml")
    assert {name: stream.rulebook for name, stream in settings.streams.items()} == {
        "default": "fr",
        "deals": "us",
        "news": "own",
    }
    assert set(settings.rulebooks) == {"fr", "us", "own"}
    assert settings.rulebooks["own"].inquiry_period is None


def test_faults_of_a_rulebook_file_are_faults_of_the_configuration(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "own"\nconsent_yaers = 2\ncustomer_period = "3 moons"\n[add]\nbases=[]\n'
    )
    with pytest.raises(ConfigError) as caught:
        parse(SMALLEST + _stream("news", str(own)), "x.toml")
    where = f'x.toml: stream "news".rulebook: {own}: '
    assert [fault.removeprefix(where).partition(":")[0] for fault in caught.value.faults] == [
        "consent_yaers",
        "customer_period",
        "add.bases",
    ]


UNREADABLE = [
    (b"name = x\n", "line 1, column 8: not TOML: invalid value; text goes in double quotes"),
    (b"name = " + b"[" * 100_000, "nested too deeply"),
    (b'name = "caf\xe9"', "is not UTF-8; save it as UTF-8"),
    (b'name = "us"', 'name: "us" is taken by a built-in rulebook: choose another'),
]


@pytest.mark.parametrize(("content", "said"), UNREADABLE)
def test_an_unusable_rulebook_file_is_a_fault(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(RulebookError) as caught:
        read(str(path))
    (fault,) = caught.value.faults
    assert fault.startswith(str(path))
    assert said in fault


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "own"\n')
    assert read(str(path)).name == "own"


def test_mail_that_needs_no_consent_gives_a_warning() -> None:
    settings = parse(SMALLEST + _stream("deals", "us") + _stream("news", "uk"), "x.toml")
    told = [warning for warning in warnings(settings) if "opt_out" in warning]
    assert told == [
        'stream "deals".rulebook: "us" has the basis opt_out, so mail passes to everyone'
        " who has not objected"
    ]
