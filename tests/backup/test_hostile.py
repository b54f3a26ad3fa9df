"""Altered backups, and restores that are interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smtpproxy.backup.manifest import digest
from smtpproxy.cli import main
from tests.backup.conftest import WHOLE, Machine

ANNE, BEN = "anne@people.example", "ben@people.example"


@pytest.fixture
def backup(machine: Machine) -> Path:
    machine.people([ANNE, BEN])
    return machine.backup()


def alter(backup: Path, file: str, **changes: object) -> None:
    """Change what the manifest says about a file."""
    path = backup / "manifest.json"
    manifest = json.loads(path.read_text())
    for kept in manifest["files"]:
        if kept["name"] == file:
            kept |= changes
    path.write_text(json.dumps(manifest))


def test_a_restore_writes_only_where_the_configuration_says(
    machine: Machine, backup: Path, tmp_path: Path
) -> None:
    target = tmp_path / "cron.d"
    alter(backup, "configuration.toml", path=str(target))
    left = machine.burn()
    done = machine.json("restore", str(backup), "--journals", str(left), *WHOLE)
    assert not target.exists()
    assert any("does not name it" in one for one in done["restored"]["left"])


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", ".hidden", "", "x\0y"])
def test_file_names_cannot_lead_outside(machine: Machine, backup: Path, name: str) -> None:
    alter(backup, "configuration.toml", name=name)
    machine.burn()
    told = machine.run("restore", str(backup), code=1).stderr
    assert "is not the name of a file" in told
    assert not machine.state.exists()


def test_a_link_in_a_backup_is_rejected(machine: Machine, backup: Path) -> None:
    key = backup / "suppression.key"
    moved = key.rename(machine.folder / "elsewhere")
    key.symlink_to(moved)
    assert digest(key)
    machine.burn()
    assert "not a file" in machine.run("restore", str(backup), code=1).stderr
    assert not machine.state.exists()


def test_a_huge_manifest_is_rejected(machine: Machine, backup: Path) -> None:
    with (backup / "manifest.json").open("ab") as file:
        file.truncate(5 << 30)
    machine.burn()
    assert "too large" in machine.run("restore", str(backup), code=1).stderr


CUTS = frozenset({"os.link", "os.remove", "os.rename", "sqlite3.connect", "os.mkdir"})


def killed(step: int, *command: str) -> int:
    """Run a command in a fork, killed before its step-th change to the disk.

    Return how it ended, as `subprocess` does; forking saves thirty starts of Python."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    calls = 0

    def watch(event: str, arguments: object) -> None:
        nonlocal calls
        if event in CUTS:
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 70
    try:
        sys.addaudithook(watch)
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        main(list(command))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        os._exit(code)


def test_a_restore_killed_at_any_point_is_completed_by_the_next(
    machine: Machine, backup: Path
) -> None:
    machine.run("suppress", "add", ANNE, "--origin", "unsubscribe", "--scope", "marketing")
    left = machine.burn()
    asked: tuple[str, ...] = (
        "restore",
        str(backup),
        "--journals",
        str(left),
        "--config",
        str(machine.config_path),
        *WHOLE,
    )
    kills = 0
    for step in range(1, 200):
        code = killed(step, *asked)
        if (machine.state / "smtpproxy.db").exists():
            # at whatever point, nobody may be mailed who must not be
            assert machine.verdict(ANNE) in ("restore_pending", "suppressed_unsubscribe")
        if code != -signal.SIGKILL:
            assert code == 0
            break
        if (machine.state / "smtpproxy.db").exists():
            asked = tuple(one for one in asked if one != str(backup))
        kills += 1
    else:
        pytest.fail("the restore never completed")
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(BEN) == "allow"
    assert kills > 5
    assert not list(machine.state.rglob(".*.restoring"))
    assert "nothing is wrong" in machine.run("audit", "verify").stdout


def test_two_concurrent_restores(machine: Machine, backup: Path) -> None:
    machine.run("suppress", "add", ANNE, "--origin", "unsubscribe", "--scope", "marketing")
    left = machine.burn()
    asked = [str(backup), "--journals", str(left), "--config", str(machine.config_path), *WHOLE]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "smtpproxy", "restore", *asked],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    told = [(one.communicate(timeout=60), one.returncode) for one in both]
    assert not any(b"Traceback" in err for (_, err), _ in told), told
    assert 0 in [code for _, code in told], told
    assert machine.verdict(ANNE) == "suppressed_unsubscribe"
    assert machine.verdict(BEN) == "allow"
    assert os.path.lexists(machine.state / "smtpproxy.db")
