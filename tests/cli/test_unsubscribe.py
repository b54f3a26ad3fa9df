"""`smtpproxy unsubscribe`: listing, adding and retiring link keys."""

import json
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import link_keys, main
from smtpproxy.store.key_files import load_keys, replacing
from smtpproxy.store.link_keys import LINK_KEY_FILE, LinkKey, add_link_key, load_link_keys
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "smtpproxy.toml"
    path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:10025")))
    return path


def invoke(config: Path, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["unsubscribe", *arguments, "--config", str(config)])
    return done.exit_code, done.stdout, done.stderr


def test_the_first_key_and_the_next(config: Path) -> None:
    state = config.parent / "state"
    code, out, _ = invoke(config, "rekey")
    assert (code, len(load_link_keys(state))) == (0, 1)
    assert "key 1" in out
    assert "seals new links" in out
    assert "uses key 1 for new links only after smtpproxy reload" in out
    code, out, _ = invoke(config, "rekey", "--json")
    told = json.loads(out)
    assert (code, told["newest"]) == (0, 2)
    assert [key["version"] for key in told["keys"]] == [1, 2]
    code, out, _ = invoke(config, "keys")
    assert code == 0
    assert out.splitlines()[0].endswith("reads links made with it")
    secret = load_link_keys(state)[2].secret.hex()
    assert secret not in out, "a key must never be shown"


def test_two_machines_making_a_key_at_once_end_with_one(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = config.parent / "state"
    assert invoke(config, "rekey")[0] == 0

    def both(state_dir: Path, today: date) -> LinkKey:
        other = "INSERT INTO link_key (version, fingerprint, used_from) VALUES (2, 'bbbb0002', 1)"
        with closing(sqlite3.connect(state / "smtpproxy.db")) as store, store:
            store.execute(other)
        return add_link_key(state_dir, today)

    with monkeypatch.context() as patch:
        patch.setattr(link_keys, "add_link_key", both)
        code, _, err = invoke(config, "rekey", "--force")
    assert code == 1
    assert "key 2 of links (bbbb0002) was just made on another machine, and is used" in err
    assert list(load_link_keys(state)) == [1]
    code, _, err = invoke(config, "rekey", "--force")
    assert (code, "key 2 of links (bbbb0002) is missing" in err) == (2, True)
    assert list(load_link_keys(state)) == [1]


def test_commands_that_replace_keys_run_one_at_a_time(config: Path) -> None:
    state = config.parent / "state"
    for _ in range(2):
        assert invoke(config, "rekey")[0] == 0
    before = load_link_keys(state)
    with replacing(state):
        for command in (("rekey",), ("retire", "1")):
            code, _, err = invoke(config, *command)
            assert (code, "another command is replacing a key" in err) == (1, True)
        done = CliRunner().invoke(main, ["suppress", "rekey", "--config", str(config)])
        assert (done.exit_code, "another command" in done.stderr) == (1, True)
    assert load_link_keys(state) == before
    assert load_keys(state).versions == (1,)
    assert invoke(config, "retire", "1")[0] == 0


def test_a_key_retired_on_another_machine_is_reported_for_removal(config: Path) -> None:
    """The relay uses every key in its file."""
    file = config.parent / "state" / LINK_KEY_FILE
    for _ in range(2):
        assert invoke(config, "rekey")[0] == 0
    before = file.read_text()
    code, out, _ = invoke(config, "retire", "1")
    assert code == 0
    assert "accepts its links until smtpproxy reload\n" in out
    file.write_text(before)
    _, out, _ = invoke(config, "keys")
    assert "retired, but its links work here until its line is removed, and a reload" in out


def test_a_missing_key_and_an_invalid_file_are_reported(config: Path) -> None:
    code, _, err = invoke(config, "keys")
    assert code == 1
    assert "there is no key: no stream has unsubscribe" in err
    file = config.parent / "state" / LINK_KEY_FILE
    file.write_text("1 x\n")
    file.chmod(0o600)
    code, _, err = invoke(config, "rekey")
    assert (code, file.read_text()) == (2, "1 x\n")
    assert "not a file of link keys" in err
