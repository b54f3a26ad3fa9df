"""`smtpproxy user`: accounts for SMTP AUTH."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smtpproxy.cli import credentials, main
from smtpproxy.config import load
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

PASSWORD = "correct horse"


class Users:
    def __init__(self, root: Path) -> None:
        self.path = root / "users"
        self.config = root / "smtpproxy.toml"
        document = relay_config(
            root,
            "127.0.0.1:10025",
            {
                "auth": {"users": str(self.path)},
                "credential": [{"user": "shop", "streams": ["receipts"]}],
            },
        )
        self.config.write_text(to_toml(document))

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        given = ["user", *arguments, "--config", str(self.config)]
        return CliRunner().invoke(main, given, input=stdin)


@pytest.fixture
def user(tmp_path: Path) -> Users:
    return Users(tmp_path)


def test_a_user_is_added_checked_changed_and_removed(user: Users) -> None:
    added = user("add", "shop", stdin=f"{PASSWORD}\n")
    assert (added.exit_code, added.stdout) == (0, "shop: added\n")
    assert stat.S_IMODE(user.path.stat().st_mode) == 0o600
    assert PASSWORD not in user.path.read_text()
    assert user("check", "shop", stdin=f"{PASSWORD}\n").exit_code == 0
    assert user("check", "shop", stdin="wrong\n").exit_code == 1
    assert user("check", "nobody", stdin=f"{PASSWORD}\n").exit_code == 1
    again = user("add", "shop", stdin="other\n")
    assert (again.exit_code, "--replace" in again.stderr) == (1, True)
    replaced = user("add", "shop", "--replace", stdin="other\n")
    assert (replaced.exit_code, replaced.stdout) == (0, "shop: password replaced\n")
    assert user("check", "shop", stdin="other\n").exit_code == 0
    user("add", "app", stdin="x\n")
    assert user("list").stdout == "shop  receipts\napp  streams of the listener\n"
    assert json.loads(user("list", "--json").stdout) == [
        {"user": "shop", "streams": ["receipts"]},
        {"user": "app", "streams": None},
    ]
    assert user("remove", "shop").stdout == "shop: removed\n"
    assert user("remove", "shop").exit_code == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_gives_the_file_to_the_relay(user: Users) -> None:
    state = load(user.config).server.state_dir
    state.mkdir(exist_ok=True)
    os.chown(state, 65534, 65534)
    assert user("add", "shop", stdin=f"{PASSWORD}\n").exit_code == 0
    assert user.path.stat().st_uid == 65534
    os.chown(user.path, 65533, 65533)
    assert user("add", "app", stdin=f"{PASSWORD}\n").exit_code == 0
    assert user.path.stat().st_uid == 65533


def test_invalid_names_and_passwords_are_refused(user: Users) -> None:
    assert user("add", "two words", stdin="x\n").exit_code == 2
    empty = user("add", "shop", stdin="\n")
    assert (empty.exit_code, empty.stderr) == (2, "Error: the password is empty\n")
    assert not user.path.exists()


def test_a_password_in_another_encoding_is_wrong(
    user: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typed(*_: object, **__: object) -> str:
        return b"p\xe9".decode()

    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    monkeypatch.setattr("click.prompt", typed)
    result = user("add", "shop")
    assert (result.exit_code, "not text in the terminal's encoding" in result.stderr) == (2, True)


def test_a_missing_file_of_users_is_reported(tmp_path: Path) -> None:
    config = tmp_path / "x.toml"
    config.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:10025")))
    result = CliRunner().invoke(main, ["user", "list", "--config", str(config)])
    assert result.exit_code == 2
    assert "[auth] users" in result.stderr


def test_a_broken_file_is_left_as_it_is(user: Users) -> None:
    user.path.write_text("nonsense\n")
    user.path.chmod(0o600)
    result = user("add", "shop", stdin="x\n")
    assert result.exit_code == 1
    assert "line 1 cannot be read" in result.stderr
    assert user.path.read_text() == "nonsense\n"


def test_a_user_removed_while_another_is_prompted_for_stays_removed(
    user: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    user("add", "leaked", stdin=f"{PASSWORD}\n")

    def slowly(*, confirm: bool) -> str:
        monkeypatch.undo()
        assert user("remove", "leaked").exit_code == 0
        return PASSWORD

    monkeypatch.setattr(credentials, "_password", slowly)
    assert user("add", "shop").stdout == "shop: added\n"
    assert user("list").stdout == "shop  receipts\n"
