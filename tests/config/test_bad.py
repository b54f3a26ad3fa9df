"""Each bad/NAME.toml gives the faults in bad/NAME.expected."""

from pathlib import Path

import pytest

from smtpproxy.config import ConfigError, load, parse

BAD = sorted((Path(__file__).parent / "bad").glob("*.toml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_every_fault_is_reported_in_file_order(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(path.read_text("utf-8"), path.name)
    expected = path.with_suffix(".expected").read_text("utf-8").splitlines()
    assert list(caught.value.faults) == expected


def test_every_bad_file_has_its_expected_faults() -> None:
    assert len(BAD) > 30
    assert {p.stem for p in BAD} == {p.stem for p in BAD[0].parent.glob("*.expected")}


def test_a_password_is_never_shown() -> None:
    for path in BAD:
        assert "secret" not in path.with_suffix(".expected").read_text("utf-8")


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml")
    assert caught.value.faults == (
        f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory",
    )


def test_a_file_that_is_not_utf_8_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[server]\nhostname = "caf\xe9.example"\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.faults == (f"{path}: line 2: is not UTF-8; save it as UTF-8",)


def test_a_file_nested_too_deeply_is_a_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("server = " + "[" * 100_000, "deep.toml")
    assert caught.value.faults == ("deep.toml: TOML that is nested too deeply",)


@pytest.mark.parametrize(
    ("number", "where"),
    [
        ("9" * 5000, "line 2: a whole number of more than 64 bits"),
        ("9" * 30, "server: a whole number in it has more than 64 bits"),
        ("0x" + "f" * 5000, "server: a whole number in it has more than 64 bits"),
        ("[[-9223372036854775809]]", "server: a whole number in it has more than 64 bits"),
    ],
)
@pytest.mark.parametrize("key", ["workers", "data_size_limit", "hostname", "drain_timeout"])
def test_a_number_beyond_toml_is_a_fault(key: str, number: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[server]\n{key} = {number}\n", "huge.toml")
    assert caught.value.faults == (f"huge.toml: {where}",)


def test_a_wrong_key_in_a_rulebook_file_is_a_fault(tmp_path: Path) -> None:
    rulebook = tmp_path / "own.toml"
    rulebook.write_text('name = "own"\nconsent_yaers = 2\n')
    good = (Path(__file__).parent / "good" / "smallest.toml").read_text()
    with pytest.raises(ConfigError) as caught:
        parse(good + f'[policy]\nrulebook = "{rulebook}"\n', "x.toml")
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(f"x.toml: policy.rulebook: {rulebook}: ")
    assert "consent_yaers" in caught.value.faults[0]


def test_the_faults_of_a_rulebook_file_are_reported_once(tmp_path: Path) -> None:
    rulebook = tmp_path / "own.toml"
    rulebook.write_text('name = "own"\nconsent_yaers = 2\n')
    good = (Path(__file__).parent / "good" / "smallest.toml").read_text()
    streams = "".join(
        f'[[stream]]\nname = "s{n}"\nclass = "transactional"\nrulebook = "{path}"\n'
        for n, path in enumerate([rulebook, rulebook, "/nowhere/r.toml", "/nowhere/r.toml"])
    )
    with pytest.raises(ConfigError) as caught:
        parse(good + streams, "x.toml")
    places = [line.partition(".rulebook: ")[0] for line in caught.value.faults]
    assert places == [f'x.toml: stream "{name}"' for name in ("s0", "s2", "s3")]
