"""Whatever `serve` would not start with, `check` refuses too, naming the setting."""

import os
import pwd
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.kit.ports import free_port
from tests.kit.processes import run
from tests.kit.relay import COMMAND, REPOSITORY

Spoil = Callable[[Path], str]
"""Sets up a fault in a folder; returns the place of `state_dir` in it."""


def configuration(root: Path, *, state: str = "state", address: str = "", more: str = "") -> Path:
    path = root / "smtpproxy.toml"
    path.write_text(f"""
[server]
hostname = "relay.shop.fr"
state_dir = "{root / state}"
[[listener]]
name = "apps"
address = "{address or f"127.0.0.1:{free_port()}"}"
[upstream]
address = "127.0.0.1:{free_port()}"
{more}""")
    return path


def command(name: str, path: Path, *, code: int | None = None) -> tuple[int, str]:
    """Run `serve` as users do, other commands in this process; return what it printed."""
    if name == "serve":
        done = run(*COMMAND, name, "--config", str(path), cwd=REPOSITORY)
        ended, said = done.returncode, done.stdout + done.stderr
    else:
        ended, said, _ = here(name, path=path)
    assert code is None or ended == code, said
    return ended, said


def here(*arguments: str, path: Path) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, all its output, and its stderr."""
    done = CliRunner().invoke(main, [*arguments, "--config", str(path)])
    return done.exit_code, done.output, done.stderr


def test_a_missing_webhook_secret(tmp_path: Path) -> None:
    path = configuration(
        tmp_path,
        more='[[webhook]]\nname = "crm"\nurl = "https://crm.shop.fr/"\n'
        f'secret_file = "{tmp_path}/crm.secret"\n',
    )
    fault = f'webhook "crm".secret_file: {tmp_path}/crm.secret: cannot be read'
    for name in ("serve", "check"):
        assert fault in command(name, path, code=2)[1]


def test_an_unreadable_file_of_upstream_cas(tmp_path: Path) -> None:
    path = configuration(tmp_path, more='tls = "starttls"\nca_file = "/nowhere/ca.pem"\n')
    assert command("check", path, code=2)[1].startswith(f"{path}: upstream.ca_file: ")


def _state_is_a_file(root: Path) -> str:
    (root / "state").touch()
    return "state"


def _state_is_below_a_file(root: Path) -> str:
    (root / "file").touch()
    return "file/state"


def _audit_is_a_file(root: Path) -> str:
    (root / "state").mkdir()
    (root / "state" / "audit").touch()
    return "state"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "logo.svg: No such file or directory"),
        (b"%PDF-1.7", "logo.svg is not a picture: it may be SVG, PNG, JPEG, WebP or GIF"),
        (b"<svg" + b" " * 65_536, "logo.svg has more than 64 KiB: it is in every page"),
    ],
)
def test_a_logo_that_no_page_can_show(tmp_path: Path, content: bytes | None, said: str) -> None:
    logo = tmp_path / "logo.svg"
    if content is not None:
        logo.write_bytes(content)
    brand = f'name = "shop"\nlegal_name = "Shop SA"\naddress = "Paris"\nlogo = "{logo}"\n'
    path = configuration(tmp_path, more=f"[[brand]]\n{brand}")
    assert f'brand "shop".logo: {tmp_path}/{said}' in command("check", path, code=2)[1]


@pytest.mark.parametrize("spoil", [_state_is_a_file, _state_is_below_a_file, _audit_is_a_file])
def test_an_unusable_state_dir(tmp_path: Path, spoil: Spoil) -> None:
    path = configuration(tmp_path, state=spoil(tmp_path))
    code, said = command("serve", path)
    assert code == 1
    assert "server.state_dir: " in said
    assert "Errno" not in said
    _, said = command("check", path, code=2)
    assert said.startswith(f"{path}: server.state_dir: "), said
    assert "is not a folder" in said


@pytest.mark.parametrize("spoil", [_state_is_a_file, _state_is_below_a_file])
@pytest.mark.parametrize(
    "arguments",
    [
        ("suppress", "show", "a@shop.fr"),
        ("suppress", "add", "a@shop.fr"),
        ("audit", "show"),
        ("purge",),
        ("unsubscribe", "keys"),
    ],
)
def test_every_command_names_an_unusable_state_dir(
    tmp_path: Path, spoil: Spoil, arguments: tuple[str, ...]
) -> None:
    path = configuration(tmp_path, state=spoil(tmp_path))
    code, said, wrong = here(*arguments, path=path)
    assert (code, said) == (1, wrong)
    assert wrong.startswith("Error: server.state_dir: "), wrong


def _no_database(root: Path) -> str:
    (root / "state").mkdir()
    (root / "state" / "smtpproxy.db").write_text("no database " * 1000)
    return "state"


def _newer_database(root: Path) -> str:
    (root / "state").mkdir()
    made = sqlite3.connect(root / "state" / "smtpproxy.db")
    made.executescript("PRAGMA user_version = 9999; CREATE TABLE suppression_key (version);")
    made.execute("INSERT INTO suppression_key VALUES (1)")
    made.commit()
    made.close()
    return "state"


def _lost_key(root: Path) -> str:
    path = configuration(root)
    assert here("suppress", "add", "x@shop.fr", path=path)[0] == 0
    (root / "state" / "suppression.key").unlink()
    return "state"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_database, "not an SQLite database"),
        (_newer_database, "made by a newer smtpproxy"),
        (_lost_key, "the key of the suppressions is missing; restore it"),
    ],
)
def test_an_unusable_store(tmp_path: Path, spoil: Spoil, said: str) -> None:
    path = configuration(tmp_path, state=spoil(tmp_path))
    assert said in command("serve", path, code=2)[1]
    assert said in command("check", path, code=2)[1]


def test_an_unusable_maildir(tmp_path: Path) -> None:
    (tmp_path / "mail").touch()
    feedback = f'domain = "b.shop.fr"\nmaildir = "{tmp_path}/mail"\naddress = "192.0.2.77:26"'
    path = configuration(tmp_path, more=f"[feedback]\n{feedback}\n")
    said = command("check", path, code=2)[1]
    assert f"feedback.maildir: {tmp_path}/mail is not a folder" in said
    assert "feedback.address: 192.0.2.77 is not an address of this machine" in said
    assert "feedback.maildir" in command("serve", path, code=1)[1]


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    path = configuration(tmp_path, address=f"192.0.2.77:{free_port()}")
    assert '"apps" cannot listen on 192.0.2.77' in command("serve", path, code=1)[1]
    fault = 'listener "apps".address: 192.0.2.77 is not an address of this machine'
    assert fault in command("check", path, code=2)[1]


def test_a_file_in_place_of_the_socket(tmp_path: Path) -> None:
    (tmp_path / "smtp").touch()
    path = configuration(tmp_path, address=f"unix:{tmp_path}/smtp")
    said = command("serve", path, code=1)[1]
    assert f'"apps" cannot listen on unix:{tmp_path}/smtp: it exists and is not a socket' in said
    fault = f'listener "apps".address: {tmp_path}/smtp exists and is not a socket'
    assert fault in command("check", path, code=2)[1]


def test_a_fresh_machine_passes_and_nothing_is_created(tmp_path: Path) -> None:
    path = configuration(tmp_path)
    command("check", path, code=0)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="works only as root, who may become another user")
def test_a_folder_that_this_user_may_not_create() -> None:
    program = (
        "import os; from pathlib import Path; from smtpproxy.config import start_checks;"
        " os.setuid(65534); print(start_checks.folder_fault(Path('/usr/smtpproxy/state')))"
    )
    done = run(COMMAND[0], "-c", program, cwd=REPOSITORY)
    name = pwd.getpwuid(65534).pw_name
    assert done.stdout.startswith(f"{name} cannot write to /usr: it must belong to"), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="works only as root, who may become another user")
def test_a_read_only_state_dir(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        path = configuration(root)
        (root / "state").mkdir(mode=0o755)
        program = (
            "import os, sys; from smtpproxy.app import prepare; from smtpproxy.config import load;"
            " from pathlib import Path; settings = load(Path(sys.argv[1])); os.setuid(65534);"
            " prepare(settings)"
        )
        done = run(COMMAND[0], "-c", program, str(path), cwd=REPOSITORY)
        fault = f"OSError: server.state_dir: {{}} cannot write to {root}/state"
        assert fault.format(pwd.getpwuid(65534).pw_name) in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="works only as root, who may become another user")
def test_a_port_that_needs_a_capability(tmp_path: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("any user may listen on any port here")
    program = (
        "import encodings.idna, os, sys; from pathlib import Path;"
        " from smtpproxy.config import load; from smtpproxy.config.machine_checks import addresses;"
        " from smtpproxy.process.listening import listen;"
        " settings = load(Path(sys.argv[1])); os.setuid(65534); print(*addresses(settings));"
        " listen('apps', settings.listeners[0].address)"
    )
    path = configuration(tmp_path, address="127.0.0.1:1")
    done = run(COMMAND[0], "-c", program, str(path), cwd=REPOSITORY)
    assert "this user may not listen on 127.0.0.1:1: a port below 1024 needs" in done.stdout
    assert "False" in done.stdout, "the unit might have the capability"
    assert '"apps" cannot listen on 127.0.0.1:1: Permission denied: a port below' in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="works only as root, who may give files away")
def test_root_is_told_that_the_relay_runs_as_another_user(tmp_path: Path) -> None:
    path = configuration(tmp_path)
    (tmp_path / "state").mkdir()
    assert "as root" not in command("check", path, code=0)[1]
    os.chown(tmp_path / "state", 65534, 65534)
    name = pwd.getpwuid(65534).pw_name
    assert (
        f"as root, who may read and write more: runuser -u {name} -- smtpproxy check"
        in (command("check", path, code=0)[1])
    )


def test_a_disk_that_may_not_be_mounted(tmp_path: Path) -> None:
    warning = f"server.state_dir: there is no {tmp_path / 'disk'} yet"
    path = configuration(tmp_path, state="disk/state")
    assert warning in command("check", path, code=0)[1]
    (tmp_path / "disk").mkdir()
    assert warning not in command("check", path, code=0)[1]


def test_a_nearly_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = configuration(tmp_path)
    (tmp_path / "state").mkdir()
    real = os.statvfs(tmp_path)

    def warned(changed: dict[int, int]) -> str:
        found = [changed.get(place, value) for place, value in enumerate(real)]
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(found))
        return command("check", path, code=0)[1]

    for changed, said in (({4: 100}, "0 MB left"), ({7: 0}, "no inodes left")):
        assert f"warning: server.state_dir: {said} on the disk" in warned(changed)
    assert "on the disk" not in warned({5: 0, 6: 0, 7: 0}), "Btrfs counts no files"
