"""How commands end, whatever happens inside."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
from click.testing import CliRunner, Result

from smtpproxy.cli import COMMANDS, CommandFrame, fail, main, thread_failed
from smtpproxy.cli.report import ReportOptions
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured, StoreUnavailable
from tests.kit.ports import wait_for
from tests.kit.relay import COMMAND, relay_config
from tests.kit.toml import to_toml

GOOD = Path(__file__).parents[1] / "config" / "good" / "contract.toml"


def outcome(error: Exception | Callable[[], Any]) -> Result:
    """What a user gets from a command that raises or runs this."""

    @click.group(cls=CommandFrame)
    def group() -> None: ...

    @group.command()
    def act() -> Any:
        if isinstance(error, Exception):
            raise error
        return error()

    return CliRunner().invoke(group, ["act"])


def locked() -> NoReturn:
    try:
        raise OSError("database is locked")
    except OSError as error:
        raise StoreUnavailable("reading failed") from error


@pytest.mark.parametrize(
    ("happens", "code", "says"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (lambda: fail("no such contact"), 1, "Error: no such contact\n"),
        (lambda: fail("no such stream", 2), 2, "Error: no such stream\n"),
        (lambda: fail("a heading \x1b[2J\nand more"), 1, "Error: a heading \\x1b[2J\nand more\n"),
        (FileNotFoundError(2, "No such file or directory", "\x9b2J"), 1,
         "Error: \\x9b2J: No such file or directory\n"),
        (locked, 1, "Error: the store cannot answer: reading failed (database is locked)\n"),
        (StoreMisconfigured("another key"), 2, "Error: another key\n"),
        (StoreInaccessible("no database yet"), 1, "Error: no database yet\n"),
        (FileNotFoundError(2, "No such file or directory", "x.eml"), 1,
         "Error: x.eml: No such file or directory\n"),
        (KeyError("colour"), 1,
         "Error: unexpected KeyError: 'colour'"
         " (run it again with SMTPPROXY_DEBUG=1 to see where)\n"),
        (lambda: "source=\udcff".encode(), 2,
         "Error: 'source=\\udcff' is not text in UTF-8\n"),
        (EOFError("3 of 5 bytes"), 1,
         "Error: unexpected EOFError: 3 of 5 bytes"
         " (run it again with SMTPPROXY_DEBUG=1 to see where)\n"),
    ],
)  # fmt: skip
def test_a_command_ends_with_one_line_and_its_code(
    happens: Exception | Callable[[], Any], code: int, says: str
) -> None:
    result = outcome(happens)
    assert (result.exit_code, result.stderr.lstrip("\n")) == (code, says)


def test_smtpproxy_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTPPROXY_DEBUG", "1")
    result = outcome(KeyError("colour"))
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert __file__ in result.stderr


def test_an_interrupt_during_class_creation_is_an_interrupt() -> None:
    """Python before 3.12 wraps exceptions raised in __set_name__."""

    def make() -> None:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    result = outcome(make)
    assert (result.exit_code, result.stderr) == (130, "")


@pytest.mark.parametrize(("wrong", "told"), [("Event loop is closed", False), ("other", True)])
def test_a_thread_left_behind_by_ctrl_c_is_quiet(
    wrong: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError(wrong)
    thread_failed(threading.ExceptHookArgs((RuntimeError, error, None, threading.main_thread())))
    assert ("RuntimeError" in capsys.readouterr().err) is told


DROPS = """
import sys, time
from smtpproxy.cli import not_raised
class Dropping:
    def __del__(self): raise KeyboardInterrupt
sys.unraisablehook = not_raised
try:
    Dropping()
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(7)
"""


def test_an_interrupt_dropped_by_python_is_repeated() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DROPS], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (7, b"")


def test_an_interrupt_is_quiet() -> None:
    with subprocess.Popen(
        [*COMMAND, "explain", "-", "--mail-from", "a@b.example", "--rcpt", "c@d.example",
         "--config", str(GOOD)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        wait_for(lambda: reads_its_input(process.pid), "the command to read its input")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == b""
        assert process.stderr.read().strip() == b""


def reads_its_input(pid: int) -> bool:
    """Whether the process is blocked reading descriptor 0."""
    try:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
    except OSError:
        return False
    return call[:2] == ["0", "0x0"]


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        *[(("check",), ""), (("check",), "1")],
        *[(("check", "--json"), ""), (("--help",), "1"), (("--version",), "")],
    ],
)
def test_a_full_disk_is_reported_in_one_line(command: tuple[str, ...], unbuffered: str) -> None:
    environment = {"SMTPPROXY_CONFIG": str(GOOD), "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *command],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: standard output"), done.stderr
    assert done.stderr.endswith(": No space left on device\n"), done.stderr
    assert done.stderr.count("\n") == 1


def test_a_closed_standard_output_is_not_an_error() -> None:
    command = f'"{COMMAND[0]}" -m smtpproxy check --config "{GOOD}" >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("user add bob", 2, "Error: the password is empty"),
        ("stream observe offers", 1, "Error: nothing was changed; --yes does it without asking"),
        ("explain - --mail-from a@b.example --rcpt c@d.example", 1, ""),
        ("dkim verify -", 1, "no DKIM signature"),
        ("suppress import - --scope all --origin manual", 1, "no rows"),
        ("contact import -", 1, "no rows"),
        ("scrub - --stream offers", 1, "no rows"),
        ("suppress key -", 1, "there is no key yet"),
        ("feedback read -", 1, "empty, so no mail"),
    ],
)
def test_a_closed_standard_input_counts_as_empty(
    tmp_path: Path, command: str, code: int, says: str
) -> None:
    config = tmp_path / "smtpproxy.toml"
    more = {"auth": {"users": str(tmp_path / "users")}, "feedback": {"domain": "b.shop.example"}}
    config.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:25", more)))
    line = f'"{COMMAND[0]}" -m smtpproxy {command} --config {config}'
    done = subprocess.run(["sh", "-c", f"{line} <&-"], capture_output=True, text=True, check=False)
    assert "unexpected" not in done.stderr, done.stderr
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done.stderr


def test_an_interrupt_while_modules_are_imported_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = subprocess.run(
        [*COMMAND, "check"],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_a_reader_that_closes_early_sees_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*COMMAND, "check", "--json", "--config", str(GOOD)]
    try:
        done = subprocess.run(
            command, stdout=write_end, stderr=subprocess.PIPE, timeout=30, check=False
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_wrong_command_gets_a_suggestion() -> None:
    result = CliRunner().invoke(main, ["explian"])
    assert result.exit_code == 2
    assert "no command 'explian'; did you mean 'explain'?" in result.stderr
    assert CliRunner().invoke(main, ["zzz"]).exit_code == 2


def test_the_version_is_shown() -> None:
    from importlib.metadata import version

    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"smtpproxy {version('smtpproxy')}\n")


def test_a_command_loads_only_its_own_modules() -> None:
    """The relay's workers and every cron job pay for each import."""
    code = (
        "import sys; from smtpproxy.cli import main\n"
        "try: main(['check', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*[m for m in sys.modules if m.startswith('smtpproxy.cli.')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = {module.rpartition(".")[2] for module in done.stderr.split()}
    assert "operation" in loaded
    assert not loaded & ({module for module, _, _ in COMMANDS.values()} - {"operation"})


def test_options_that_another_command_sets_must_be_complete() -> None:
    with pytest.raises(TypeError, match="ReportOptions: a field is missing"):
        ReportOptions(timedelta(days=1), None, None, "reason", None)
