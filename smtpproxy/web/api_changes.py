"""GET /v1/suppressions/changes: what changed since, in order; it may wait for something."""

import asyncio
from collections.abc import Mapping

from starlette.requests import Request

from smtpproxy.store.exchange.change_record import change_object
from smtpproxy.store.propagation import ChangesGone
from smtpproxy.store.protocols import StoreUnavailable, SuppressionChanges
from smtpproxy.web.remembered import Remembered
from smtpproxy.web.tokens import Refused

DEFAULT_LIMIT, MOST = 1_000, 10_000
LONGEST_WAIT = 60  # seconds
_LARGEST = 2**63 - 1
_EVERY = 0.5  # seconds between two looks while somebody waits


class Changes:
    """The feed. All who wait share one look at the log."""

    def __init__(self, store: SuppressionChanges, stop: asyncio.Event) -> None:
        self._store = store
        self._stop = stop
        self._newest = Remembered(self._look, _EVERY)

    async def __call__(self, request: Request) -> Mapping[str, object]:
        unknown = set(request.query_params) - {"since", "limit", "wait"}
        if unknown:
            raise Refused(
                400,
                "parameter_unknown",
                f"there is no parameter {sorted(unknown)[0]!r}: since, limit, wait",
            )
        since = _number(request, "since", 0, 0, _LARGEST)
        limit = _number(request, "limit", DEFAULT_LIMIT, 1, MOST)
        wait = _number(request, "wait", 0, 0, LONGEST_WAIT)
        if wait:
            await self._wait(request, since, wait)
        try:
            found = await self._store.changes(since, limit + 1)
        except ChangesGone as error:
            raise _gone(error) from error
        shown = found[:limit]
        return {
            "changes": [change_object(change) for change in shown],
            "next": shown[-1].seq if shown else since,
            "more": len(found) > limit,
        }

    async def _wait(self, request: Request, since: int, seconds: int) -> None:
        """Return when there is something, time is up, or nobody listens any more."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while clock() < end and not self._stop.is_set():
            if await self._newest() != since or await request.is_disconnected():
                return
            await asyncio.sleep(min(_EVERY, max(0.0, end - clock())))

    async def _look(self) -> int:
        try:
            return await self._store.newest_change()
        except StoreUnavailable:
            return -1  # the read that follows says what is wrong


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    # More digits than any number here has: int() would take its time for a million.
    if text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most:
        return int(text)
    raise Refused(400, "parameter_wrong", f"{name} must be a whole number from {least} to {most}")


def _gone(error: ChangesGone) -> Refused:
    return Refused(
        410,
        "changes_gone",
        f"the changes after {error.since} are not in the log (it was trimmed, or it is not the"
        " log that you know). Begin anew: keep `next`, load a whole export of `smtpproxy"
        " suppress export` that is made after this answer, then ask for since=`next`",
        more={"since": error.since, "next": error.newest},
    )
