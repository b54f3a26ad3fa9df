"""Finding the remains of an unfinished copy, which is easily forgotten and still costs writes, and
a database that takes no writes at all."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from smtpproxy.disk import exists
from smtpproxy.settings import Settings, StoreSettings
from smtpproxy.settings.mail import DATABASE
from smtpproxy.store import is_postgresql, store_path
from smtpproxy.store.closed import without_password
from smtpproxy.store.configurations import Misfit
from smtpproxy.store.move.ends import copy_of
from smtpproxy.store.move.sqlite import read_state, store_errors
from smtpproxy.store.move.tables import PARTS
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sqlite.connection import moved_to, uri
from smtpproxy.store.sqlite.moves import CLOSING, NOTING, STATE, triggers
from smtpproxy.store.sqlite.side_file import part_path

_LOOK = f"""
SELECT moved_to IS NULL AND (EXISTS (SELECT 1 FROM pg_trigger WHERE tgname = 'copying')
                             OR to_regclass('{STATE}') IS NOT NULL),
       obj_description(to_regclass('{STATE}'), 'pg_class'),
       current_setting('transaction_read_only')::boolean FROM store_state
"""  # a store that is closed or being filled refuses anyway, and says why
_ROWS = "SELECT EXISTS (SELECT 1 FROM contact) OR EXISTS (SELECT 1 FROM suppression)"
_WAIT = 5.0  # seconds for a lock


async def traces(settings: StoreSettings) -> list[Misfit]:
    """Return the unfinished copies of, or beside, a store that answers, or why it only answers.

    Raises StoreUnavailable.
    """
    if is_postgresql(settings):
        return await _in_database(settings)
    with store_errors():
        return [*_in_files(store_path(settings)), *_beside(store_path(settings))]


def uncopied(settings: Settings) -> list[Misfit]:
    """Return the file that a relay used before it got its database, if nobody copied it there.

    One that cannot be read does not keep a relay from starting, as it is not in use.
    """
    path, url = settings.server.state_dir / DATABASE, without_password(settings.store.url)
    if not is_postgresql(settings.store) or not exists(path):
        return []
    try:
        with store_errors():
            opened = sqlite3.connect(uri(path, read_only=True), uri=True, timeout=_WAIT)
            with closing(opened) as connection:
                if moved_to(connection) is not None or not connection.execute(_ROWS).fetchone()[0]:
                    return []
    except StoreUnavailable as error:
        text = f"may have contacts or suppressions that are not in the store in use: {error}"
        return [Misfit(str(path), text, "move it away if it is no longer needed")]
    text = "has contacts or suppressions, and was not copied to the store that is in use"
    fix = f"stop the relay, and run smtpproxy store copy 'sqlite://{path}' '{url}', or move it away"
    return [Misfit(str(path), text, fix)]


async def _in_database(settings: StoreSettings) -> list[Misfit]:
    from smtpproxy.store.postgres import target
    from smtpproxy.store.postgres.connection import Lease

    with closing(Lease(target(settings))) as lease:
        async with lease.database.connection() as connection:
            begun, other, read_only = await connection.fetchrow(_LOOK)
    found = [_unfinished(settings.url, other)] if begun else []
    if read_only:
        text = "default_transaction_read_only is on, so every write fails, even an unsubscribe"
        found.append(Misfit(without_password(settings.url), text, _LET_WRITE, fails=True))
    return found


_LET_WRITE = "set it to off for the role, the database or the server, and restart the relay"


def _in_files(path: Path) -> Iterator[Misfit]:
    url, begun, other, closed = f"sqlite://{path}", False, None, []
    for part in PARTS:
        file = part_path(path, part)
        if not exists(file):
            continue
        opened = sqlite3.connect(uri(file, read_only=True), uri=True, timeout=_WAIT)
        with closing(opened) as connection:
            if moved_to(connection) is not None:
                return  # anyone who opens it is told
            copy = copy_of(read_state(connection))
            names = triggers(connection)
        other = other or (copy and copy.other)
        begun |= copy is not None or any(name.startswith(NOTING) for name in names)
        if any(name.startswith(CLOSING) for name in names):
            closed.append(file.name)
    if closed:
        text = f"a store copy was killed while closing it: {', '.join(closed)} can't be written"
        yield Misfit(url, text, _fix(url, other), fails=True)
    elif begun:
        yield _unfinished(url, other)


def _unfinished(url: str, other: str | None) -> Misfit:
    text = (
        f"a copy{f' to {other}' if other else ''} was started but not finished: changes are still "
        "recorded for it, and pile up"
    )
    return Misfit(without_password(url), text, _fix(url, other))


def _fix(url: str, other: str | None) -> str:
    shown = without_password(url)
    give_up = f"smtpproxy store reopen '{shown}' gives it up"
    return f"smtpproxy store copy '{shown}' '{other}' resumes it, {give_up}" if other else give_up


def _beside(path: Path) -> Iterator[Misfit]:
    for folder in sorted(path.parent.glob(".*.copy")):
        if exists(folder / folder.name[1:].removesuffix(".copy")):
            text = "an unfinished copy, which may hold people who have since been erased"
            fix = "finish that store copy, or remove the folder"
            yield Misfit(str(folder), text, fix)
