"""Changes the mode of a stream in the configuration file, and nothing else in it."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomlkit
from msgspec import Struct, structs
from tomlkit.exceptions import TOMLKitError

from smtpproxy.config import ConfigError, parse
from smtpproxy.config.machine_checks import user_name
from smtpproxy.disk import flush, locked, sync_path
from smtpproxy.policy.model import DEFAULT_STREAM, Mode
from smtpproxy.settings import Settings
from smtpproxy.terminal import few

_BOM = b"\xef\xbb\xbf"
_STANDS_BEFORE = ("purpose", "class", "rulebook", "name")
"""The keys after which a new mode is best placed."""


class CannotChange(Exception):
    """The file was left as it was; the text says why, and how to fix it."""


class Change(Struct, frozen=True):
    """A key that is written: its table as users know it, the previous mode and the new one."""

    table: str
    before: Mode
    after: Mode


class Edit(Struct, frozen=True):
    """The new text of a file, and the changes in it."""

    path: Path
    before: bytes
    after: bytes
    changes: tuple[Change, ...]

    def write(self) -> None:
        """Replace the old text with the new one, completely or not at all.

        Owner and permissions stay. Raises CannotChange, for example if the file has changed.
        """
        path = self.path.resolve()
        try:
            with locked(path.parent, None):  # of two at once, one would undo the other
                if path.read_bytes() != self.before:
                    raise CannotChange(f"{self.path}: it changed in the meantime; run this again")
                _replace(path, self.after)
        except OSError as error:
            where = "; ".join(f'{c.table}: mode = "{c.after}"' for c in self.changes)
            raise CannotChange(
                f"{self.path}: {error.strerror}; write it yourself: {where}"
            ) from error


def edited(path: Path, name: str, mode: Mode) -> Edit:
    """Return the edit that gives a stream a mode; it has no changes if that is already the mode.

    For the stream `default` this is the mode of `[policy]`: streams without their own mode then get
    the previous one written. Raises CannotChange, ConfigError, OSError.
    """
    before = path.read_bytes()
    text = before.decode("utf-8-sig")
    old = parse(text, str(path))
    if name not in old.streams:
        raise CannotChange(f"there is no stream {name!r}; known: {few(old.streams, name)}")
    if name not in {DEFAULT_STREAM.name, *(each.name for each in old.declared_streams)}:
        raise CannotChange(f"{name} is built in: it is always enforced")
    if old.streams[name].mode is mode:
        return Edit(path, before, before, ())
    wanted = {**old.streams, name: structs.replace(old.streams[name], mode=mode)}
    for put in (_put_on_a_line, _put):
        with suppress(TOMLKitError, ConfigError, ValueError, KeyError):
            changes, after = _written(text, old, name, mode, put)
            if parse(after, str(path)).streams == wanted:
                mark = _BOM if before.startswith(_BOM) else b""
                return Edit(path, before, mark + after.encode(), changes)
    raise CannotChange(
        f'{path}: written in a way that this command cannot change; set mode = "{mode}" yourself'
    )


def _written(
    text: str, old: Settings, name: str, mode: Mode, put: Callable[[Any, Mode], None]
) -> tuple[tuple[Change, ...], str]:
    document: Any = tomlkit.parse(text)
    tables = {str(table["name"]): table for table in document.get("stream", ())}
    changes = []
    if name == DEFAULT_STREAM.name:
        for one in old.declared_streams:
            if one.mode is None:
                put(tables[one.name], old.policy.mode)
                changes.append(Change(f"[[stream]] {one.name}", old.policy.mode, old.policy.mode))
        if "policy" not in document:
            document["policy"] = tomlkit.table()
        table, where = document["policy"], "[policy]"
    else:
        table, where = tables[name], f"[[stream]] {name}"
    put(table, mode)
    changes.append(Change(where, old.streams[name].mode, mode))
    return tuple(changes), tomlkit.dumps(document)


def _put(table: Any, mode: Mode) -> None:
    table["mode"] = str(mode)


def _put_on_a_line(table: Any, mode: Mode) -> None:
    """Put a new key directly after another, not after the comments that follow the table."""
    key = next((key for key in _STANDS_BEFORE if key in table), None)
    if "mode" in table or key is None:
        _put(table, mode)
        return
    trivia = table[key].trivia
    trivia.trail = f'{trivia.trail or os.linesep}{trivia.indent}mode = "{mode}"{trivia.trail}'


def _replace(path: Path, content: bytes) -> None:
    """Raises OSError, CannotChange."""
    status = path.stat()
    if os.geteuid() not in (0, status.st_uid):
        owner = user_name(status.st_uid)
        who = owner if status.st_uid == 0 else f"{owner}, or as root"
        raise CannotChange(f"{path}: it belongs to {owner}: run this as {who}")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchown(handle, status.st_uid, status.st_gid)
            os.fchmod(handle, status.st_mode & 0o7777)
            for attribute in os.listxattr(path):  # the ACL is one
                os.setxattr(handle, attribute, os.getxattr(path, attribute))
            file.write(content)
            flush(file)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    sync_path(path.parent)
