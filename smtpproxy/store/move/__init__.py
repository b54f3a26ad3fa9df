"""A store moves from SQLite to PostgreSQL, or back: `smtpproxy store copy`.

Relays go on writing to the source while it is copied. Triggers record the keys of rows that change,
and the copy is brought up to date in rounds, each from one snapshot of the source. Then both sides
are read again in full and compared. Writes stop only for the last changes. At the end of that stop
the source is closed for good, and only then does the copy answer. At most one of the two answers at
any moment.

An interrupted copy resumes where it was, as long as the changes have been recorded (ADR 39).
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from msgspec import Struct

from smtpproxy.store.closed import FILLING, without_password
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.move.copying import Copying
from smtpproxy.store.move.ends import Source, Target
from smtpproxy.store.move.tables import Sum
from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.sql.live_keys import live_ring


class CopyEnd(Struct, frozen=True):
    """A database that can be either end of a copy."""

    url: str
    source: AbstractAsyncContextManager[Source]
    target: AbstractAsyncContextManager[Target]

    @property
    def shown(self) -> str:
        return without_password(self.url)


class CopyResult(Struct, frozen=True):
    """What was copied, by table, and for how many `seconds` nobody could write."""

    sums: Mapping[str, Sum]
    seconds: float = 0.0
    already_there: bool = False
    resumed: bool = False


async def move(
    old: CopyEnd,
    new: CopyEnd,
    closed_text: str,
    state_dir: Path,
    report: Callable[[str], None],
    before_proof: Callable[[], Awaitable[None]] | None = None,
) -> CopyResult:
    """Copy a store, prove the copy, and close the source, which refuses with `closed_text` then.

    `report` receives the progress. Raises StoreMisconfigured if the two do not fit together, and
    StoreUnavailable.
    """
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(old.source)
        place = await source.moved_to()
        if place is not None and place.startswith(FILLING):
            raise StoreMisconfigured(f"{old.shown}: {place}, and that copy is not complete yet")
        if place not in (None, new.shown):
            raise StoreMisconfigured(f"{old.shown}: was copied to {place}, which replaces it")
        try:
            target = await stack.enter_async_context(new.target)
        except StoreMisconfigured as error:
            if place is not None:
                error.add_note(
                    f"{old.shown} is closed: if that is its copy, set store.url to the copy"
                )
            raise
        copying = Copying(source, target, old.shown, new.shown, report)
        await copying.compare_columns()
        live_ring(load_keys(state_dir), await source.live_keys(), old.shown)
        unfinished = await target.running_copy()
        if unfinished is None and (filled := await copying.first_with_rows()):
            if place is None:
                raise StoreMisconfigured(
                    f"{new.shown}: already has rows in {filled}; copy a store to a database that "
                    "nobody has written to"
                )
            await copying.tidy()
            await copying.prove_all()
            return CopyResult(copying.sums, already_there=True)
        if unfinished is None and place is not None:
            raise StoreMisconfigured(
                f"{old.shown}: was copied to {new.shown}, but nothing of the copy is there. Look "
                "for it where the copy was made; if it is lost, smtpproxy store reopen makes the "
                "store answer again"
            )
        resumed = await copying.begin(unfinished, closed=place is not None)
        await copying.copy()
        if before_proof is not None:
            await before_proof()
        seconds = await copying.prove_and_switch(
            closed_text, lambda live: live_ring(load_keys(state_dir), live, old.shown)
        )
        return CopyResult(copying.sums, seconds, resumed=resumed)
