"""`smtpproxy unsubscribe`: which keys there are, and a new one."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from smtpproxy.store.link_keys import LINK_KEY_FILE, load_link_keys
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
    code, out, _ = invoke(config, "rekey", "--json")
    told = json.loads(out)
    assert (code, told["newest"]) == (0, 2)
    assert [key["version"] for key in told["keys"]] == [1, 2]
    code, out, _ = invoke(config, "keys")
    assert code == 0
    assert out.splitlines()[0].endswith("reads links made with it")
    secret = load_link_keys(state)[2].secret.hex()
    assert secret not in out, "a key is never shown"


def test_no_key_and_a_wrong_file(config: Path) -> None:
    code, _, err = invoke(config, "keys")
    assert code == 1
    assert "there is no key: no stream has unsubscribe" in err
    file = config.parent / "state" / LINK_KEY_FILE
    file.write_text("1 x\n")
    file.chmod(0o600)
    code, _, err = invoke(config, "rekey")
    assert (code, file.read_text()) == (2, "1 x\n")
    assert "not a file of link keys" in err
