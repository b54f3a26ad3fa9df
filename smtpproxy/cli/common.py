"""What the commands share: `--config`, times, ways to fail."""

import contextlib
import functools
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from smtpproxy.settings import Settings

DEFAULT_CONFIG = Path("/etc/smtpproxy/smtpproxy.toml")

Function = Callable[..., Any]


class Failure(click.ClickException):
    """A command that could not do what it was asked; `fail` raises it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # ClickException has it as ClassVar


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command: `Error: MESSAGE` on stderr, exit code `code` (1 or 2)."""
    raise Failure(message, code)


def config_path_option(function: Function) -> Function:
    """Add `--config FILE` and pass `config: Path`, unread."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="SMTPPROXY_CONFIG",
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help=f"Configuration; else $SMTPPROXY_CONFIG, else {DEFAULT_CONFIG}.",
    )(function)


def config_option(function: Function) -> Function:
    """Add `--config FILE` and pass `settings: Settings`; a faulty file ends with exit 2."""

    @functools.wraps(function)
    def command(*args: Any, config: Path, **options: Any) -> Any:
        from smtpproxy.config import ConfigError, load

        try:
            settings = load(config)
        except ConfigError as error:
            click.echo("\n".join(error.faults), err=True)
            if not config.exists():
                click.echo("Say where it is with --config FILE or SMTPPROXY_CONFIG.", err=True)
            raise click.exceptions.Exit(2) from error
        _check_folder(settings.server.state_dir)
        return function(*args, settings=settings, **options)

    return config_path_option(command)


def _check_folder(state_dir: Path) -> None:
    """Everything that lasts is there; each part of it would only say that it cannot be read."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        try:
            is_folder = stat.S_ISDIR(state_dir.stat().st_mode)
        except NotADirectoryError:
            is_folder = False
        if not is_folder:
            fail(f"server.state_dir: {state_dir} is not a folder, or is in something that is none")


def audit_folder(settings: Settings) -> Path:
    """Return where the audit journal is. Raises OSError when it may not be read."""
    folder = settings.server.state_dir / "audit"
    with contextlib.suppress(FileNotFoundError):  # nothing has been decided yet
        os.scandir(folder).close()
    return folder


def moment(value: str) -> datetime:
    """Read an option's time: ISO 8601, UTC where no offset is given. For `type=moment`."""
    try:
        read = datetime.fromisoformat(value)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        right = "2026-03-01T10:00:00Z or 2026-03-01"
        raise click.BadParameter(f"{value!r} is not a time such as {right}") from None
