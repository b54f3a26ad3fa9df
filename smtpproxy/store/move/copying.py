"""The copy itself: all rows, then rounds of changes, the proof, and the write stop."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeVar

from smtpproxy.store.move.ends import Progress, RunningCopy, Source, Target
from smtpproxy.store.move.reading import changes, count_of, pages, prefetched, sum_of
from smtpproxy.store.move.tables import KEYS, MADE_WITH_A_STORE, PARTS, TABLES, UNIQUE, Key, Sum
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from smtpproxy.store.sql.live_keys import Live
from smtpproxy.store.sql.migrations import numbered
from smtpproxy.store.sql.rows import Row

T = TypeVar("T")

_FEW_CHANGES = 500
"""The most changes that may be left when the write stop begins."""
_MOST_ROUNDS = 20
_MOST_PROOFS = 3
_REPORT_SECONDS = 5.0


@dataclass(eq=False)
class Copying:
    """A copy from a source to a target; `report` receives the progress."""

    source: Source
    target: Target
    old: str
    new: str
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self.sums: dict[str, Sum] = {}
        """Sums of the tables that were compared, kept up to date from then on."""
        self._columns: dict[str, Sequence[str]] = {}
        self._schema: object = None
        """The source's, when the proof began."""
        self._copy: RunningCopy | None = None  # None: the source is closed, and all was copied

    async def compare_columns(self) -> None:
        for table in TABLES:
            columns = await self.source.columns(table)
            if not columns or set(columns) != set(await self.target.columns(table)):
                raise StoreMisconfigured(
                    f"{table}: the two databases have different columns; bring both up to date "
                    "with smtpproxy migrate of this release"
                )
            self._columns[table] = columns

    async def first_with_rows(self) -> str | None:
        for table in TABLES:
            if table not in MADE_WITH_A_STORE and await self.target.has_rows(table):
                return table
        return None

    async def begin(self, unfinished: RunningCopy | None, *, closed: bool) -> bool:
        """Resume the target's `unfinished` copy, or begin a new one; return whether it resumed."""
        known = await self.source.running_copy()
        same = (
            unfinished
            and unfinished.other == self.old
            and unfinished.id.startswith(f"{_schema_versions()}:")
        )
        recorded = known if known and unfinished and known.id == unfinished.id else None
        if unfinished and same and (closed or recorded):
            self._copy = recorded  # recorded, even if killed after the source was closed
            complete = sum([(await self.target.progress(table)).all for table in TABLES])
            self.report(
                f"resuming the earlier copy: {complete} of {len(TABLES)} tables are complete, "
                "apart from recent changes"
            )
            return True
        if unfinished is None:
            await self._refuse_other_keys()
        else:
            self.report(
                f"starting again: {self.new} holds part of a copy of {unfinished.other}"
                + (" whose changes are no longer on record" if unfinished.other == self.old else "")
            )
        if known is not None and known.other != self.new:
            self.report(f"the unfinished copy to {known.other} is given up")
        copy = RunningCopy(f"{_schema_versions()}:{token_hex(16)}", self.new)
        await self.target.begin(RunningCopy(copy.id, self.old))
        if not closed:
            await self.source.begin(copy)
            self._copy = copy
        return False

    async def _refuse_other_keys(self) -> None:
        live = await self.source.live_keys()
        for key in await self.target.live_keys():
            if key not in live:
                raise StoreMisconfigured(
                    f"{self.new}: has a key ({key[1]}) that {self.old} does not know; create "
                    "the database again, and copy suppression.key before smtpproxy migrate"
                )

    async def copy(self) -> None:
        """Copy all rows while others write."""
        for table in TABLES:
            await self._copy_table(table)

    async def prove(self) -> None:
        """Bring all rows up to date and compare them, until few changes are left to copy."""
        self.report("all rows are copied; comparing them with the current ones")
        self.sums.clear()
        self._schema = await self.source.schema()
        await self.compare_columns()
        await self.target.watch()
        changed = 0
        for part in PARTS:
            changed += await self._round(part, prove=True)
        await self.target.optimize()
        for _ in range(_MOST_ROUNDS):
            self.report(f"{changed:,} changes were made meanwhile, and are copied")
            before, changed = changed, 0
            for part in PARTS:
                changed += await self._round(part)
            if changed <= _FEW_CHANGES or changed >= before:
                return

    async def _copy_table(self, table: str) -> None:
        progress = await self.target.progress(table)
        if progress.all:
            return
        rows, reported = 0, time.monotonic()
        found = prefetched(pages(self.source, table, self._columns[table], progress.key))
        async with aclosing(found):
            async for page, last in found:
                async with self.target.transaction(table, flushed=False):
                    await self._put(table, (), page)
                    await self.target.set_progress(table, Progress(last, all=last is None))
                rows += len(page)
                if time.monotonic() > reported + _REPORT_SECONDS:
                    reported = time.monotonic()
                    self.report(f"{table}: {rows:,} rows copied so far")
        if rows:
            self.report(f"{table}: {rows:,} rows copied")

    async def _round(self, part: str, *, prove: bool = False) -> int:
        """Bring a part up to date; return the number of changes."""
        async with self.source.snapshot(part):
            await self._refuse_another_copy()
            changed = sum([await self._catch_up(table) for table in PARTS[part]])
            if prove:
                for table in PARTS[part]:
                    self.sums[table] = await self._proven(table)
        return changed

    async def _refuse_another_copy(self) -> None:
        if self._copy is not None and await self.source.running_copy() != self._copy:
            raise StoreUnavailable(
                f"{self.old}: no longer records its changes for this copy: it was given up "
                "meanwhile, or somebody dropped a trigger; run the same command again"
            )

    async def _catch_up(self, table: str) -> int:
        """Copy the recorded changes of a table; return the number of keys."""
        if self._copy is None:
            return 0
        changed = 0
        async for keys, rows in changes(self.source, table, self._columns[table]):
            async with self.target.transaction(table, flushed=True):
                await self._put(table, keys, rows)
            changed += len(keys)
        return changed

    async def _put(self, table: str, keys: Sequence[Key], rows: Sequence[Row]) -> None:
        """Make `rows` the only rows in the target that have these keys."""
        columns, key = self._columns[table], KEYS[table]
        try:
            gone = await self.target.remove(table, columns, key, keys)
            if table in UNIQUE:
                # A row that had the value before is deleted, or is among the recorded changes.
                index = columns.index(UNIQUE[table])
                taken = [(row[index],) for row in rows if row[index] is not None]
                gone += await self.target.remove(table, columns, (UNIQUE[table],), taken)
            await self.target.write(table, columns, rows)
            if (sum := self.sums.get(table)) is not None:
                found = await self.target.find(table, columns, key, keys)
                if Sum(found) != Sum(rows):
                    raise StoreUnavailable(
                        f"{self.new}: the rows of {table} are not those that were written"
                    )
                sum.take_away(gone)
                sum.add(rows)
        except StoreUnavailable as error:
            error.add_note(f"in the table {table}")
            raise

    async def _proven(self, table: str) -> Sum:
        """Read a table on both sides. Raises StoreUnavailable if they differ."""
        columns = self._columns[table]
        source, target = await _both(
            sum_of(self.source, table, columns), sum_of(self.target, table, columns)
        )
        if target != source:
            raise await self._differs(
                f"{table} has {target.rows:,} rows with checksum {target}, and the source has "
                f"{source.rows:,} with {source}"
            )
        return source

    async def _differs(self, text: str) -> StoreUnavailable:
        error = StoreUnavailable(f"{self.new}: {text}")
        await self.target.rollback()
        if await self.target.running_copy() is not None:
            await self.target.invalidate()
            error.add_note(
                "the source was restored to an older state, or somebody else wrote to the copy; "
                "run the same command again, which starts from the beginning"
            )
        return error

    async def prove_all(self) -> None:
        for table in TABLES:
            self.sums[table] = await self._proven(table)

    async def prove_and_switch(
        self, closed_text: str, check_keys: Callable[[Live], object]
    ) -> float:
        """Prove the copy, and let it replace the source; return the seconds of the write stop."""
        for _ in range(_MOST_PROOFS):
            await self.prove()
            seconds = await self._switch(closed_text, check_keys)
            if seconds is not None:
                return seconds
        raise StoreUnavailable(
            f"{self.old}: tables or triggers keep being changed; run the same command again when "
            "that is over"
        )

    async def _switch(self, closed_text: str, check_keys: Callable[[Live], object]) -> float | None:
        """Copy the last changes while nobody writes, close the source, and let the copy answer.

        Returns the seconds of the write stop, or None if the copy has to be proven again first.
        The proof holds as long as the source's triggers are unchanged, which have recorded all
        changes since, and nobody else has written to the copy.
        """
        await self.target.lock()  # waits for its last users while the source is still written to
        try:
            seconds = await self._stop_and_switch(closed_text, check_keys)
        finally:
            await self.target.rollback()
        if seconds is not None:
            await self.tidy()
        return seconds

    async def _stop_and_switch(
        self, closed_text: str, check_keys: Callable[[Live], object]
    ) -> float | None:
        self.report("nobody can write from now on")
        began = time.monotonic()
        async with self.source.writes_stopped():
            await self._refuse_another_copy()
            if await self.source.schema() != self._schema:
                self.report("tables or triggers were changed meanwhile; writes are possible again")
                return None
            check_keys(await self.source.live_keys())
            if not await self.target.is_untouched():
                raise await self._differs("somebody else may have written to it")
            changed = sum([await self._catch_up(table) for table in TABLES])
            for table in TABLES:
                await self._count(table)
            await self.target.finish(await self.source.numbers(), await self.source.secrets())
            await self.source.close(closed_text, self.new)
            try:
                await self.target.commit()
            except StoreUnavailable as error:
                error.add_note(
                    f"{self.old} is closed: run the same command again, or smtpproxy store reopen "
                    "with its URL"
                )
                raise
            seconds = time.monotonic() - began
        self.report(f"the last {changed:,} changes are copied; {self.new} is the store now")
        return seconds

    async def _count(self, table: str) -> None:
        source, target = await _both(count_of(self.source, table), count_of(self.target, table))
        if not source == target == self.sums[table].rows:
            raise await self._differs(f"{table} has {target:,} rows, and the source has {source:,}")

    async def tidy(self) -> None:
        """Clean up on both sides; the copy is valid without it."""
        try:
            await self.target.tidy()
            await self.source.tidy()
        except StoreUnavailable as error:
            self.report(f"some remains of the copy could not be removed: {error}")


async def _both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, T]) -> tuple[T, T]:
    """Run both at the same time; unlike gather, neither outlives a failure of the other."""
    other_side = asyncio.ensure_future(other)
    try:
        await asyncio.sleep(0)
        return await one, await other_side
    finally:
        other_side.cancel()
        await asyncio.gather(other_side, return_exceptions=True)


def _schema_versions() -> str:
    """Return the schema versions of both; a migration may replace a table and lose our triggers."""
    sides = ("smtpproxy.store.sqlite", "smtpproxy.store.postgres")
    return ".".join(str(len(numbered(side))) for side in sides)
