"""A store moves from SQLite to PostgreSQL, or back: `smtpproxy store copy`.

The source is written to while it is copied. Triggers put the keys of rows that change on record, so
that what was copied is brought up to date in rounds, each as of one moment of the source. Then all
of it is read again on both sides and compared. Only what has changed since is left for the time in
which nobody writes, at whose end the source is closed for good; only then what was copied counts.
At any moment at most one of the two answers.

A copy that was interrupted goes on where it was, as long as the changes are on record (ADR 39).
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from smtpproxy.store.closed import FILLING, without_password
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.move.copying import Copying
from smtpproxy.store.move.ends import Source, Target
from smtpproxy.store.move.tables import Sum
from smtpproxy.store.protocols import StoreMisconfigured
from smtpproxy.store.sql.live_keys import chosen


@dataclass(frozen=True, slots=True)
class Place:
    """A database of one kind: it can be either end of a copy."""

    url: str
    source: AbstractAsyncContextManager[Source]
    target: AbstractAsyncContextManager[Target]

    @property
    def shown(self) -> str:
        return without_password(self.url)


@dataclass(frozen=True, slots=True)
class Moved:
    """What was copied, by table; `seconds` is for how long nobody could write."""

    sums: Mapping[str, Sum]
    seconds: float = 0.0
    before: bool = False  # all of it was there already
    resumed: bool = False


async def move(
    old: Place,
    new: Place,
    text: str,
    state_dir: Path,
    say: Callable[[str], None],
    before_proof: Callable[[], Awaitable[None]] | None = None,
) -> Moved:
    """Copy a store, prove the copy, and close the source: what it is asked is answered by `text`.

    `say` is told how far it is. Raises StoreMisconfigured: the two do not fit together;
    StoreUnavailable.
    """
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(old.source)
        place = await source.moved_to()
        if place is not None and place.startswith(FILLING):
            raise StoreMisconfigured(f"{old.shown}: {place}, and that copy is not whole yet")
        if place not in (None, new.shown):
            raise StoreMisconfigured(f"{old.shown}: was copied to {place}, which counts now")
        try:
            target = await stack.enter_async_context(new.target)
        except StoreMisconfigured as error:
            if place is not None:
                error.add_note(
                    f"{old.shown} is closed: if that is its copy, it counts; let store.url name it"
                )
            raise
        copying = Copying(source, target, old.shown, new.shown, say)
        await copying.compare_columns()
        chosen(load_keys(state_dir), await source.live(), old.shown)
        half = await target.begun()
        if half is None and (filled := await copying.first_with_rows()):
            if place is None:
                raise StoreMisconfigured(
                    f"{new.shown}: has rows in {filled} already; a store is copied to one that "
                    "nobody has written to"
                )
            await copying.tidy()
            await copying.prove_all()
            return Moved(copying.sums, before=True)
        if half is None and place is not None:
            raise StoreMisconfigured(
                f"{old.shown}: was copied to {new.shown}, and here is nothing of that: look for it "
                "where the copy was made; where it is lost, smtpproxy store reopen lets the store "
                "answer again"
            )
        resumed = await copying.begin(half, closed=place is not None)
        await copying.copy()
        if before_proof is not None:
            await before_proof()
        seconds = await copying.proven_and_stopped(
            text, lambda live: chosen(load_keys(state_dir), live, old.shown)
        )
        return Moved(copying.sums, seconds, resumed=resumed)
