"""The command line, `smtpproxy COMMAND …`: each module of this folder holds some commands.

Every command ends with an exit code and without a traceback: 0 done, 1 refused or a fault found,
2 wrong usage or configuration, 130 interrupted.
"""

import _thread
import contextlib
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from smtpproxy import ctrl_c
from smtpproxy.ctrl_c import INTERRUPTED
from smtpproxy.terminal import few, printable

_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
BROKEN_PIPE = 1  # as in click, which catches most of them first


class Failure(click.ClickException):
    """A command could not do what was asked; `fail` raises it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # a ClassVar of ClickException


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command: `Error: MESSAGE` on stderr, exit code `code` (1 or 2)."""
    raise Failure(message, code)


@contextlib.contextmanager
def failing(
    kind: type[Exception] | tuple[type[Exception], ...], before: str = "", *, code: int = 1
) -> Iterator[None]:
    """End the command for an error of that kind, with its text after `before`."""
    try:
        yield
    except kind as error:
        fail(f"{before}{error}", code)


@contextlib.contextmanager
def valid_parameter(hint: str | None = None) -> Iterator[None]:
    """End the command for a ValueError, with its text: a parameter has a wrong value."""
    try:
        yield
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) from None


def unknown(kind: str, name: str, known: Iterable[str], option: str = "") -> NoReturn:
    """End the command: the configuration, read with exit code 2, has no `kind` of this name."""
    names = few([*known], name)
    right = f"known: {names}" if names else f"the configuration has no [[{kind}]]"
    fail(f"{option and option + ': '}there is no {kind} {name!r}; {right}", 2)


class CommandFrame(click.Group):
    """A group whose commands may raise anything: the user gets one line and an exit code.

    A command that returns an int ends with that exit code.
    """

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,
    ) -> NoReturn:
        extra["standalone_mode"] = False
        try:
            result = super().main(args=args, prog_name=prog_name or "smtpproxy", **extra)
            flush_stdout()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except Exception as error:
            sys.exit(_report(error))
        sys.exit(result if type(result) is int else 0)


def thread_failed(args: threading.ExceptHookArgs) -> None:
    """Print a traceback, unless Ctrl-C closed the loop that a thread of the store works for."""
    if not (isinstance(args.exc_value, RuntimeError) and "loop is closed" in str(args.exc_value)):
        threading.__excepthook__(args)


def not_raised(args: "sys.UnraisableHookArgs") -> None:
    """Repeat a Ctrl-C that Python has dropped, as in a finalizer; print a traceback for others."""
    if args.exc_type is KeyboardInterrupt:
        # threading's start() waits for the new thread, and would be cut off itself.
        _thread.start_new_thread(_interrupt_again, ())
    else:
        sys.__unraisablehook__(args)


def _interrupt_again() -> None:
    """Signal the main thread once it is out of `not_raised`, where Python would drop it again.

    A signal ends what it waits in; interrupt_main() does not.
    """
    while True:
        time.sleep(0.01)
        within: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
        while within is not None and within.f_code is not not_raised.__code__:
            within = within.f_back
        if within is None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return


def flush_stdout() -> None:
    """Raises OSError that names standard output when not everything printed could be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_stdout()
        raise OSError(error.errno, error.strerror, "standard output") from error


def discard_stdout() -> None:
    """Drop what is still buffered, or the interpreter complains at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception) -> int:
    """Print `error` for a person on stderr; return the exit code."""
    with contextlib.suppress(OSError):
        flush_stdout()  # otherwise the interpreter complains at exit
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        if not isinstance(error.__cause__, EOFError):
            return INTERRUPTED
        error = error.__cause__  # click turns any EOFError into Abort, as on Ctrl-D
    if isinstance(error.__cause__, KeyboardInterrupt):  # as Python does while it makes a class
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        discard_stdout()
        return BROKEN_PIPE
    if os.environ.get("SMTPPROXY_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        error = Failure(f"{error.object[:80]!r} is not text in UTF-8", 2)
    if isinstance(error, click.ClickException):
        lines = map(printable, error.message.split("\n"))  # it may quote the heading of a file
        error.message = "\n".join(lines)  # type: ignore[misc]  # a Final of ClickException
        error.show()
        return error.exit_code
    text = ": ".join([message_of(error), *getattr(error, "__notes__", ())])
    click.echo("Error: " + printable(" ".join(text.split())), err=True)
    code: int = getattr(error, "exit_code", 1)  # 2 for StoreMisconfigured
    return code


def message_of(error: Exception) -> str:
    """Return the text shown for an error that ends a command."""
    from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable, with_cause

    if isinstance(error, StoreMisconfigured):
        return str(error)
    if isinstance(error, StoreUnavailable):
        return f"the store cannot answer: {with_cause(error)}"
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
        who = "; run this as root, or as the user that smtpproxy runs as"
        return text + who if isinstance(error, PermissionError) else text
    if isinstance(error, OSError) and error.errno in _UNWRITTEN:
        return f"standard output, or a file being written, is incomplete: {error.strerror}"
    return (
        f"unexpected {type(error).__name__}: {error}"
        " (run it again with SMTPPROXY_DEBUG=1 to see where)"
    )


COMMANDS = {
    "init": ("init", "init", "Write a first configuration, and the files that go with it."),
    "serve": ("operation", "serve", "Run the relay until SIGTERM or SIGINT."),
    "status": ("status", "status", "Show the state of the running relay."),
    "reload": ("status", "reload", "Have the running relay reload its configuration."),
    "demo": ("operation", "demo", "Show the relay at work on invented people."),
    "check": ("operation", "check", "Check the configuration, and whether the relay can start."),
    "doctor": ("doctor", "doctor", "Check everything that mailbox providers check."),
    "suppress": ("suppress", "suppress", "Add, lift, show, import and export suppressions."),
    "unsubscribe": (
        "link_keys",
        "unsubscribe",
        "Show, renew and retire the keys of unsubscribe links.",
    ),
    "partner": ("partner", "partner", "Exchange suppressions with another sender, as hashes."),
    "contact": ("contact", "contact", "Import, show, correct, export and erase contacts."),
    "consent": ("consent", "consent", "Record consent and its withdrawal."),
    "import": ("imports", "imports", "List, show and undo imports."),
    "scrub": ("scrub", "scrub", "Show who on a list may be mailed, and why the others may not."),
    "explain": ("explain", "explain", "Explain what would happen, or did happen, to a message."),
    "feedback": ("feedback", "feedback", "Act on bounces, complaints and other replies."),
    "report": ("report", "report", "Show what would be refused and why, and what is ready."),
    "audit": ("audit", "audit", "Read, verify and replay the record of decisions."),
    "stream": ("stream", "stream", "Show the feedback on streams; pause and resume them."),
    "webhook": ("webhook", "webhook", "Show webhooks; retry or drop failed deliveries."),
    "token": ("credentials", "token", "Create an API token."),
    "backup": ("backup", "backup", "Back up everything the relay knows, while it runs."),
    "restore": ("backup", "restore", "Restore a backup, and replay what came after it."),
    "migrate": ("store", "migrate", "Bring the tables of the store up to date."),
    "store": ("store", "store", "Move the whole store to another database."),
    "purge": ("purge", "purge", "Remove data that has outlived its retention period."),
    "user": ("credentials", "user", "Add, remove, list and check the users of AUTH."),
    "dkim": ("dkim", "dkim", "Make DKIM keys, print what to publish, check signatures."),
}
"""Name → (module, name in it, line in --help): a command is imported only when it is run."""


class LazyCommands(CommandFrame):
    """Imports a command's module only when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"smtpproxy.cli.{module}"), name)
        ctrl_c.raises()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, _, help) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(
    "smtpproxy",
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="smtpproxy", message="smtpproxy %(version)s")
def main() -> None:
    """The consent firewall for outbound mail.

    An SMTP relay that lets through only mail that the law and the recipients allow,
    says why it refused the rest, and keeps the proof.
    """
