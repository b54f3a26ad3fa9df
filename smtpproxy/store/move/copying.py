"""The copy itself: all rows, then rounds of what has changed, the proof, and the write stop."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from secrets import token_hex
from typing import Any, TypeVar

from smtpproxy.store.move.ends import Begun, Reached, Source, Target
from smtpproxy.store.move.reading import ahead, changes, count_of, pages, sum_of
from smtpproxy.store.move.tables import (
    KEYS,
    MADE_WITH_A_STORE,
    PARTS,
    TABLES,
    UNIQUE,
    Key,
    Sum,
)
from smtpproxy.store.protocols import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import Live
from smtpproxy.store.sql.migrations import numbered
from smtpproxy.store.sql.rows import Row

T = TypeVar("T")

_FEW = 500
"""Changes that the write stop may begin with."""
_MOST_ROUNDS = 20
_MOST_PROOFS = 3
_SAY_EVERY = 5.0  # seconds


class Copying:
    """A copy from a source to a target; `say` is told how far it is."""

    def __init__(
        self, source: Source, target: Target, old: str, new: str, say: Callable[[str], None]
    ) -> None:
        self.sums: dict[str, Sum] = {}
        """Of the tables whose rows were compared; kept up to date from then on."""
        self._source = source
        self._target = target
        self._old = old
        self._new = new
        self._say = say
        self._columns: dict[str, Sequence[str]] = {}
        self._shape: object = None
        """Of the source, when the proof began."""
        self._copy: Begun | None = None  # None: the source is closed, and all was copied

    async def compare_columns(self) -> None:
        for table in TABLES:
            columns = await self._source.columns(table)
            if not columns or set(columns) != set(await self._target.columns(table)):
                raise StoreMisconfigured(
                    f"{table}: the two databases have other columns; bring both up to date with "
                    "smtpproxy migrate of this release"
                )
            self._columns[table] = columns

    async def first_with_rows(self) -> str | None:
        for table in TABLES:
            if table not in MADE_WITH_A_STORE and await self._target.has_rows(table):
                return table
        return None

    async def begin(self, half: Begun | None, *, closed: bool) -> bool:
        """Go on with the copy that the target is `half` of, or begin; tell which."""
        known = await self._source.begun()
        same = half and half.other == self._old and half.id.startswith(f"{_made_for()}:")
        noting = known if known and half and known.id == half.id else None
        if half and same and (closed or noting):
            self._copy = noting  # where it was closed and killed, the last changes are on record
            there = sum([(await self._target.reached(table)).all for table in TABLES])
            self._say(
                f"going on with the copy that was begun before: {there} of {len(TABLES)} tables "
                "are there, but for what has changed"
            )
            return True
        if half is None:
            await self._refuse_other_keys()
        else:
            self._say(
                f"begun anew: {self._new} is half of a copy of {half.other}"
                + (" whose changes are on record no more" if half.other == self._old else "")
            )
        if known is not None and known.other != self._new:
            self._say(f"the copy to {known.other}, which was not brought to its end, is given up")
        copy = Begun(f"{_made_for()}:{token_hex(16)}", self._new)
        await self._target.begin(Begun(copy.id, self._old))
        if not closed:
            await self._source.begin(copy)
            self._copy = copy
        return False

    async def _refuse_other_keys(self) -> None:
        live = await self._source.live()
        for key in await self._target.live():
            if key not in live:
                raise StoreMisconfigured(
                    f"{self._new}: knows another key ({key[1]}) than {self._old}; copy "
                    "suppression.key before smtpproxy migrate, and create the database again"
                )

    async def copy(self) -> None:
        """Copy all rows while others write."""
        for table in TABLES:
            await self._copy_table(table)

    async def prove(self) -> None:
        """Bring all rows up to date, and compare them, until there is little left to copy."""
        self._say("all rows are there; comparing them with what there is now")
        self.sums.clear()
        self._shape = await self._source.shape()
        await self.compare_columns()
        await self._target.watch()
        changed = 0
        for part in PARTS:
            changed += await self._round(part, prove=True)
        await self._target.settle()
        for _ in range(_MOST_ROUNDS):
            self._say(f"{changed:,} changes were made meanwhile, and are copied")
            before, changed = changed, 0
            for part in PARTS:
                changed += await self._round(part)
            if changed <= _FEW or changed >= before:
                return

    async def _copy_table(self, table: str) -> None:
        reached = await self._target.reached(table)
        if reached.all:
            return
        rows, said = 0, time.monotonic()
        found = ahead(pages(self._source, table, self._columns[table], reached.key))
        async with aclosing(found):
            async for some, last in found:
                async with self._target.step(table, flushed=False):
                    await self._put(table, (), some)
                    await self._target.reach(table, Reached(last, all=last is None))
                rows += len(some)
                if time.monotonic() > said + _SAY_EVERY:
                    said = time.monotonic()
                    self._say(f"{table}: {rows:,} rows copied so far")
        if rows:
            self._say(f"{table}: {rows:,} rows copied")

    async def _round(self, part: str, *, prove: bool = False) -> int:
        """Bring a part up to date; return how many changes there were."""
        async with self._source.snapshot(part):
            await self._refuse_another_copy()
            changed = sum([await self._catch_up(table) for table in PARTS[part]])
            if prove:
                for table in PARTS[part]:
                    self.sums[table] = await self._proven(table)
        return changed

    async def _refuse_another_copy(self) -> None:
        if self._copy is not None and await self._source.begun() != self._copy:
            raise StoreUnavailable(
                f"{self._old}: changes are on record for this copy no more: it was given up "
                "meanwhile, or somebody dropped a trigger; run the same command again"
            )

    async def _catch_up(self, table: str) -> int:
        """Bring a table up to date with what the source shows."""
        if self._copy is None:
            return 0
        changed = 0
        async for keys, rows in changes(self._source, table, self._columns[table]):
            async with self._target.step(table, flushed=True):
                await self._put(table, keys, rows)
            changed += len(keys)
        return changed

    async def _put(self, table: str, keys: Sequence[Key], rows: Sequence[Row]) -> None:
        """Let there be `rows` in the target, and no others of these keys."""
        columns, key = self._columns[table], KEYS[table]
        try:
            gone = await self._target.remove(table, columns, key, keys)
            if table in UNIQUE:
                # Who has it now is in `rows`; who had it before is on record, if not gone.
                place = columns.index(UNIQUE[table])
                taken = [(row[place],) for row in rows if row[place] is not None]
                gone += await self._target.remove(table, columns, (UNIQUE[table],), taken)
            await self._target.write(table, columns, rows)
            if (sum := self.sums.get(table)) is not None:
                found = await self._target.find(table, columns, key, keys)
                if Sum(found) != Sum(rows):
                    raise StoreUnavailable(f"{self._new}: {table} has other rows than were written")
                sum.take_away(gone)
                sum.add(rows)
        except StoreUnavailable as error:
            error.add_note(f"in the table {table}")
            raise

    async def _proven(self, table: str) -> Sum:
        """Read a table on both sides. Raises StoreUnavailable where they differ."""
        columns = self._columns[table]
        there, found = await _both(
            sum_of(self._source, table, columns), sum_of(self._target, table, columns)
        )
        if found != there:
            raise await self._differs(
                f"{table} has {found.rows:,} rows with checksum {found}, and the source has "
                f"{there.rows:,} with {there}"
            )
        return there

    async def _differs(self, text: str) -> StoreUnavailable:
        error = StoreUnavailable(f"{self._new}: {text}")
        await self._target.leave()
        if await self._target.begun() is not None:
            await self._target.spoil()
            error.add_note(
                "the source was put back to an older state, or somebody else wrote to the copy; "
                "run the same command again, which begins anew"
            )
        return error

    async def prove_all(self) -> None:
        for table in TABLES:
            self.sums[table] = await self._proven(table)

    async def proven_and_stopped(self, text: str, check_keys: Callable[[Live], object]) -> float:
        """Prove the copy, and let it count; return the seconds in which nobody could write."""
        for _ in range(_MOST_PROOFS):
            await self.prove()
            seconds = await self._stop(text, check_keys)
            if seconds is not None:
                return seconds
        raise StoreUnavailable(
            f"{self._old}: tables or triggers are changed again and again; run the same command "
            "again when that is over"
        )

    async def _stop(self, text: str, check_keys: Callable[[Live], object]) -> float | None:
        """Copy the last changes while nobody writes, close the source, and let the copy count;
        return the seconds that took, or None where there has to be another proof before.

        What was proven holds: since then all changes of the source are on record, for its triggers
        are those of then, and nobody else has written to the copy.
        """
        await self._target.hold()  # whoever has it still is waited for while others write
        try:
            seconds = await self._stopped(text, check_keys)
        finally:
            await self._target.leave()
        if seconds is not None:
            await self.tidy()
        return seconds

    async def _stopped(self, text: str, check_keys: Callable[[Live], object]) -> float | None:
        self._say("nobody can write from now on")
        began = time.monotonic()
        async with self._source.stopped():
            await self._refuse_another_copy()
            if await self._source.shape() != self._shape:
                self._say("tables or triggers were changed meanwhile; they can write again")
                return None
            check_keys(await self._source.live())
            if not await self._target.is_ours():
                raise await self._differs("somebody else may have written to it")
            changed = sum([await self._catch_up(table) for table in TABLES])
            for table in TABLES:
                await self._count(table)
            await self._target.finish(await self._source.numbers(), await self._source.secrets())
            await self._source.close(text, self._new)
            try:
                await self._target.commit()
            except StoreUnavailable as error:
                error.add_note(
                    f"{self._old} is closed: run the same command again, or smtpproxy store reopen "
                    "with its URL"
                )
                raise
            seconds = time.monotonic() - began
        self._say(f"{changed:,} last changes copied; {self._new} counts from now on")
        return seconds

    async def _count(self, table: str) -> None:
        there, found = await _both(count_of(self._source, table), count_of(self._target, table))
        if not there == found == self.sums[table].rows:
            raise await self._differs(f"{table} has {found:,} rows, and the source has {there:,}")

    async def tidy(self) -> None:
        """Do what could wait. That what was copied counts does not depend on it."""
        try:
            await self._target.tidy()
            await self._source.tidy()
        except StoreUnavailable as error:
            self._say(f"what is left of the copying could not be removed: {error}")


async def _both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Have both sides work at once."""
    other_side = asyncio.ensure_future(other)
    try:
        await asyncio.sleep(0)
        return await one, await other_side
    finally:
        other_side.cancel()
        await asyncio.gather(other_side, return_exceptions=True)


def _made_for() -> str:
    """Return what tables both sides have: a migration may make one anew, without our triggers."""
    sides = ("smtpproxy.store.sqlite", "smtpproxy.store.postgres")
    return ".".join(str(len(numbered(side))) for side in sides)
