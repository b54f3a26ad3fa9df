"""Whatever a command gets, it ends with a documented code and one clear line, no traceback."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import Stored
from tests.cli.test_help import COMMANDS_OF_HELP
from tests.kit.soak import only_at_length, times

pytestmark = pytest.mark.soak

ANNA = "anna@people.example"
LINES = """
init --yes --nameserver 127.0.0.1 --state-dir NEW
status
reload
check
doctor --only clock
suppress add ANNA
suppress export
suppress import FILE --scope all --origin manual
suppress key FILE
suppress move brand:former marketing
suppress rekey --from FILE
suppress remove ANNA --all --reason complaint
suppress show ANNA
unsubscribe keys
unsubscribe rekey
unsubscribe retire 1
partner cover --from FILE
partner key mill
partner screen mill FILE --snapshot FILE
partner show
contact erase ANNA
contact export
contact import FILE
contact map FILE --yes --set source=direct
contact object ANNA
contact rectify ANNA --reason x --language fr
contact show ANNA
consent export
consent link FILE --stream offers
consent record ANNA --purpose offers --method unticked_box --wording x
consent start ANNA --purpose offers --wording x
consent withdraw ANNA --purpose offers
import list
import show 01
import undo 01
scrub FILE --stream offers
explain FILE --mail-from a@shop.example --rcpt ANNA
feedback assign 01 ANNA --as dead
feedback list
feedback read FILE
feedback show 01
report
audit anchor
audit export
audit replay --rulebook fr
audit ship FOLDER
audit show
audit verify --anchors FILE
stream enforce offers --yes
stream observe offers --yes
stream pause offers
stream resume offers
stream show
webhook drop crm --all
webhook list
webhook retry crm
webhook show crm
token x
backup NEW
restore FOLDER
migrate
store copy sqlite://FILE postgresql://nobody@127.0.0.1:1/x
store reopen sqlite://FILE
purge
user add bob
user check bob
user list
user remove bob
dkim keygen NEW --domain shop.example --selector s1 --type ed25519
dkim record
dkim verify FILE
"""
COMMANDS = {
    name: line.split()
    for line in LINES.strip().splitlines()
    for name in COMMANDS_OF_HELP
    if f"{line} ".startswith(f"{name} ")
}
OF_FILES = [name for name, words in COMMANDS.items() if any("FILE" in word for word in words)]

TABLES = """
[auth]
users = "{0}/users"
[feedback]
domain = "bounces.shop.example"
[[partner]]
name = "mill"
key_file = "{0}/mill.key"
[[webhook]]
name = "crm"
url = "https://crm.example/hook"
secret_file = "{0}/crm.secret"
"""


class Bench:
    """A store with one person, recreated for each command."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        stored = Stored(self.root)
        self.config = stored.config_path
        with self.config.open("a") as file:
            file.write(TABLES.format(self.root))
        secret = self.root / "crm.secret"
        secret.touch(0o600)
        secret.write_text("whsec_" + "c2VjcmV0" * 4 + "\n")
        (self.root / "folder").mkdir()
        self.file = self.root / "list.csv"
        self.file.write_text(f"address\n{ANNA}\n")
        stored.run("partner", "key", "mill")
        stored.run("suppress", "add", ANNA)
        self._kept = folder / "kept"
        shutil.copytree(self.root, self._kept)

    def again(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self._kept, self.root)

    @property
    def database(self) -> Path:
        return self.root / "state" / "smtpproxy.db"

    def line(self, name: str) -> list[str]:
        paths = {
            "ANNA": ANNA,
            "FOLDER": str(self.root / "folder"),
            "NEW": str(self.root / "new"),
            "FILE": str(self.file),
            "sqlite://FILE": f"sqlite://{self.file}",
        }
        words = [paths.get(word, word) for word in COMMANDS[name]]
        return [*words, "--config", str(self.config)]

    def run(self, name: str) -> int:
        """Run a command in this process; return its exit code."""
        result = CliRunner().invoke(main, self.line(name), input="password\n")
        check(name, result.exit_code, result.stdout, result.stderr)
        return result.exit_code

    def run_with(self, name: str, place: Callable[[], int]) -> tuple[int, str]:
        """Run a command in a child whose standard output is what `place` opens."""
        read_end, write_end = os.pipe()
        if (child := os.fork()) == 0:
            code = 99
            try:
                sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123 - open until the end
                os.dup2(place(), 1)
                os.dup2(write_end, 2)
                sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
                main(self.line(name))
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stderr.flush()
                os._exit(code)
        os.close(write_end)
        with os.fdopen(read_end) as told:
            error = told.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), error


def found_in(error: str) -> list[str]:
    """Words that no message may contain."""
    return [word for word in ("Traceback", "unexpected ", "Errno") if word in error]


def some(which: int) -> list[str]:
    """All commands in `make soak`, otherwise a different fifth for each `which`."""
    return sorted(COMMANDS)[which % times(5, 1) :: times(5, 1)]


def check(name: str, code: int, out: str, error: str) -> None:
    assert not found_in(error), (name, error)
    assert code in (0, 1, 2), (name, code, error)
    assert code == 0 or out or error, (name, code)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("junk"))


def test_every_command_is_tested() -> None:
    assert COMMANDS_OF_HELP.keys() - COMMANDS.keys() == {"serve", "demo"}


JUNK = {
    "no UTF-8": b"address\ncaf\xe9@people.example\n",
    "NUL": b"address\nx\0y@people.example\n",
    "octets": random.Random(1).randbytes(5_000),
    "half an archive": b"PK\x03\x04" + random.Random(2).randbytes(3_000),
    "compressed": b"\x1f\x8b" + bytes(100),
    "half a character": b'{"address":"\\ud800"}\n',
    "nested": b"[" * 100_000 + b"\n",
    "one line": b"a" * 2_000_000,
    "nothing": b"",
}


@pytest.mark.parametrize("junk", [*JUNK, "a folder", "absent"])
def test_junk_for_a_file(bench: Bench, junk: str) -> None:
    for name in OF_FILES[len(junk) % times(3, 1) :: times(3, 1)]:
        bench.again()
        bench.file.unlink()
        if junk == "a folder":
            bench.file.mkdir()
        elif junk in JUNK:
            bench.file.write_bytes(JUNK[junk])
        code = bench.run(name)
        if junk == "absent":
            assert code == 2, name


@pytest.mark.parametrize(
    "line",
    [
        *(
            "feedback show \udcff",
            "webhook drop brand:\udcff --all",
            "audit show --message-id \udcff",
        ),
        *(f"webhook retry crm --letter {'9' * 30}", "purge --at 0001-01-01 --dry-run"),
        *("suppress show \udcff", "contact show -", "token \udcff", "stream pause \x1b[31m"),
    ],
    ids=ascii,
)
def test_junk_as_an_argument(bench: Bench, line: str) -> None:
    bench.again()
    result = CliRunner().invoke(main, [*line.split(), "--config", str(bench.config)])
    check(line, result.exit_code, result.stdout, result.stderr)
    assert result.exit_code == 2, (line, result.stderr)


def test_a_folder_whose_name_is_not_text(bench: Bench) -> None:
    bench.again()
    command = ["backup", f"{bench.root}/\udcff", "--config", str(bench.config)]
    result = CliRunner().invoke(main, command)
    check("backup", result.exit_code, result.stdout, result.stderr)
    assert result.exit_code == 0


@pytest.mark.parametrize("name", ["explain", "dkim verify"])
def test_an_endless_file(bench: Bench, name: str) -> None:
    bench.again()
    limited = bench.config.read_text().replace("[server]", '[server]\ndata_size_limit = "64KiB"')
    bench.config.write_text(limited)
    line = ["/dev/zero" if word == str(bench.file) else word for word in bench.line(name)]
    result = CliRunner().invoke(main, line)
    check(name, result.exit_code, result.stdout, result.stderr)
    assert result.exit_code == 1


def made(path: Path, content: bytes | None) -> None:
    """Replace a path by a file, or by a folder if `content` is None."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.touch(0o600)
        path.write_bytes(content)


@pytest.mark.parametrize("content", [None, b"caf\xe9", b"\0", b"", b"a=" + b"[" * 100_000])
def test_junk_for_the_configuration(bench: Bench, content: bytes | None) -> None:
    bench.again()
    made(bench.config, content)
    for name in COMMANDS.keys() - {"init", "dkim keygen"}:
        assert bench.run(name) == 2, name


def newer(bench: Bench) -> None:
    with sqlite3.connect(bench.database) as database:
        database.execute("PRAGMA user_version = 9999")
    database.close()


def foreign(bench: Bench) -> None:
    made(bench.database, None)
    bench.database.rmdir()
    with sqlite3.connect(bench.database) as database:
        database.execute("CREATE TABLE their_own (x)")
    database.close()


def in_state(name: str, content: bytes | None) -> Callable[[Bench], None]:
    return lambda bench: made(bench.root / "state" / name, content)


FAULTS: dict[str, Callable[[Bench], None]] = {
    "a newer database": newer,
    "another database": foreign,
    "no database": in_state("smtpproxy.db", random.Random(1).randbytes(9_000)),
    "a folder for the database": in_state("smtpproxy.db", None),
    "a file for state_dir": lambda bench: made(bench.root / "state", b""),
    "no key": in_state("suppression.key", b"\xff\0"),
    "a folder for the key": in_state("suppression.key", None),
    "a file for the log": in_state("audit", b""),
    "an empty file of users": lambda bench: made(bench.root / "users", b""),
    "a folder for a partner's key": lambda bench: made(bench.root / "mill.key", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_store(bench: Bench, fault: str) -> None:
    for name in some([*FAULTS].index(fault)):
        bench.again()
        FAULTS[fault](bench)
        bench.run(name)


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def without_reader() -> int:
    read_end, write_end = os.pipe()
    os.close(read_end)
    return write_end


@pytest.mark.parametrize("place", [full_disk, without_reader])
def test_unwritable_output(bench: Bench, place: Callable[[], int]) -> None:
    for name in some(len(place.__name__)):
        bench.again()
        code, error = bench.run_with(name, place)
        check(name, code, "?", error)


BEGUN = """
import os
from smtpproxy import ctrl_c
ctrl_c.ends_at_once()
os.write(2, b"!")
from smtpproxy.__main__ import main
main()
"""


@only_at_length
def test_ctrl_c_at_any_moment(bench: Bench) -> None:
    """Python itself prints a traceback until the program has begun."""
    when = random.Random(3)
    for name in [*COMMANDS.keys() - {"init"}] * 4:
        bench.again()
        with subprocess.Popen(
            [sys.executable, "-c", BEGUN, *bench.line(name)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as running:  # fmt: skip
            assert running.stderr is not None
            assert running.stderr.read(1) == b"!"
            time.sleep(when.uniform(0.0, 1.0))
            running.send_signal(signal.SIGINT)
            error = running.communicate()[1].decode()
        assert not found_in(error), (name, error)
        ends = (0, 1, 2, 130, -signal.SIGINT)  # the last one while Python itself exits
        assert running.returncode in ends, (name, running.returncode, error)
