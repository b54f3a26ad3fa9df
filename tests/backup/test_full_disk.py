"""A disk that fills up at any point of a restore or backup.

Nobody becomes mailable again, and the same command, or the one that resumes, does the rest.
"""

from pathlib import Path

import pytest

from tests.backup.conftest import WHOLE, Machine
from tests.kit.disk import tiny_disk
from tests.kit.parts import needs, program
from tests.kit.processes import run

ANNE, BEN = "anne@people.example", "ben@people.example"


@needs("tmpfs")
@pytest.mark.parametrize("size", [64, 180, 200, 220])  # the last with the database in place
def test_a_restore_to_a_full_disk(machine: Machine, size: int) -> None:
    machine.people([ANNE, BEN])
    backup = machine.backup()
    machine.run("suppress", "add", ANNE, "--origin", "unsubscribe", "--scope", "marketing")
    left = machine.burn()
    with tiny_disk(machine.state, f"{size}k"):
        told = machine.run("restore", str(backup), "--journals", str(left), *WHOLE, code=None)
        assert told.exit_code in (1, 2)
        assert "standard output" not in told.stderr
        assert "Traceback" not in told.stderr
        grown = run(program("mount"), "-o", "remount,size=64m", str(machine.state))
        assert grown.returncode == 0, grown.stderr
        is_there = (machine.state / "smtpproxy.db").exists()
        if is_there:
            assert machine.verdict(BEN) == "restore_pending"
        again = () if is_there else (str(backup),)
        machine.run("restore", *again, "--journals", str(left), *WHOLE)
        assert machine.verdict(ANNE) == "suppressed_unsubscribe"
        assert machine.verdict(BEN) == "allow"


@needs("tmpfs")
def test_a_backup_to_a_full_disk_names_it_and_leaves_nothing(
    machine: Machine, tmp_path: Path
) -> None:
    machine.people([ANNE])
    with tiny_disk(tmp_path / "small") as small:
        told = machine.run("backup", str(small / "backup"), code=1).stderr
        assert str(small) in told
        assert "No space left" in told
        assert not list(small.iterdir())
