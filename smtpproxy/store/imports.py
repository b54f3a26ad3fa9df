"""Imports on record: what was read, how far it came, and whether it was taken back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

Kind = Literal["contacts", "suppressions"]
State = Literal["running", "complete", "interrupted", "undoing", "undone"]

UNDO_FOR = timedelta(days=90)
"""How long what profiles were before is kept, from the start of an import."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far into its file an import has come: all up to `line` is committed or put aside."""

    line: int = 0  # of the file
    octets: int = 0  # read of it, which may be more than those of the lines
    digest: str = ""  # SHA-256 of these octets, in hexadecimal
    lines: int = 0  # that say something
    rejected: int = 0
    passed: int = 0
    aside: int = 0  # octets of the rejected file


@dataclass(frozen=True, slots=True)
class Batch:
    """The part of an import that one commit takes in."""

    id: str
    place: Place


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo has done so far. Its counts are of contacts, or of suppressions."""

    at: datetime
    by: str
    removed: int = 0  # contacts gone, suppressions lifted
    put_back: int = 0  # as they were before the import
    kept: int = 0  # others have changed or confirmed them since

    def and_then(self, removed: int, put_back: int, kept: int) -> "Undone":
        removed, put_back, kept = (
            self.removed + removed,
            self.put_back + put_back,
            self.kept + kept,
        )
        return Undone(self.at, self.by, removed, put_back, kept)


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """One import. `options` are what decides how its file is read."""

    id: str
    kind: Kind
    file: str
    user: str
    started_at: datetime
    as_of: datetime  # the age of what the file says
    size: int | None = None  # octets; None: it came through a pipe
    options: Mapping[str, str] = field(default_factory=dict)
    state: State = "running"
    ended_at: datetime | None = None
    place: Place = Place()
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    older: int = 0
    erased: int = 0  # left out
    undone: Undone | None = None


class ImportStore(Protocol):
    """The imports on record, and the way back. Ids are as given or unknown: KeyError."""

    async def begin_import(self, record: ImportRecord) -> None:
        """Put an import on record, before its first batch."""
        ...

    async def mark_import(
        self, id: str, state: State, *, at: datetime | None, place: Place | None = None
    ) -> None:
        """Note in which state an import is, since when it has ended, and how far it came."""
        ...

    async def imports(self) -> Sequence[ImportRecord]:
        """Return all imports, the oldest first."""
        ...

    async def undo_import(self, id: str, *, at: datetime, by: str) -> Undone | None:
        """Take a part of an import back, in one commit; None: all of it was before.

        To be called until it returns None. New contacts go, with their acts and purchases;
        profiles and suppressions are put back as they were, new suppressions lifted, which
        stays on record. What others have changed or confirmed since stays.
        """
        ...

    async def would_undo(self, id: str, *, at: datetime) -> Undone:
        """Return what `undo_import` would do in all, without doing it."""
        ...
