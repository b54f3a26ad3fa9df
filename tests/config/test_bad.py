"""Every file of bad/ beside the faults it must be answered with: NAME.toml, NAME.expected."""

from pathlib import Path

import pytest

from smtpproxy.config import ConfigError, load, parse

BAD = sorted((Path(__file__).parent / "bad").glob("*.toml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_every_fault_is_named_in_the_order_of_the_file(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(path.read_text("utf-8"), path.name)
    expected = path.with_suffix(".expected").read_text("utf-8").splitlines()
    assert list(caught.value.faults) == expected


def test_there_are_bad_files_and_none_lacks_its_answer() -> None:
    assert len(BAD) > 30
    assert {p.stem for p in BAD} == {p.stem for p in BAD[0].parent.glob("*.expected")}


def test_a_password_is_never_shown() -> None:
    for path in BAD:
        assert "secret" not in path.with_suffix(".expected").read_text("utf-8")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml")
    assert caught.value.faults == (
        f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory",
    )


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[server]\nhostname = "caf\xe9.example"\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.faults == (f"{path}: line 2: is not UTF-8; save it as UTF-8",)


def test_a_file_that_is_nested_too_deeply() -> None:
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
def test_a_number_that_is_none_of_toml(key: str, number: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[server]\n{key} = {number}\n", "huge.toml")
    assert caught.value.faults == (f"huge.toml: {where}",)


def test_a_rulebook_file_with_a_wrong_key(tmp_path: Path) -> None:
    rulebook = tmp_path / "own.toml"
    rulebook.write_text('name = "own"\nconsent_yaers = 2\n')
    good = (Path(__file__).parent / "good" / "smallest.toml").read_text()
    with pytest.raises(ConfigError) as caught:
        parse(good + f'[policy]\nrulebook = "{rulebook}"\n', "x.toml")
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(f"x.toml: policy.rulebook: {rulebook}: ")
    assert "consent_yaers" in caught.value.faults[0]


def test_the_faults_of_a_rulebook_file_are_named_once(tmp_path: Path) -> None:
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
