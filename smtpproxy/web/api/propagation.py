"""API operations that tell other systems whom not to mail: the change feed, and a check."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request

from smtpproxy.policy.model import Facts, Lookups, Origin, Suppression
from smtpproxy.store.exchange.suppression_record import change_object, read_scope
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.propagation import Action, ChangesGone, SuppressionChange
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import few
from smtpproxy.web.api.operation import (
    MOST_ADDRESSES,
    Call,
    Scope,
    Time,
    about,
    canonical_names,
    operation,
)
from smtpproxy.web.api.problems import Refused, RefusedChanges
from smtpproxy.web.health import Cached

MOST_CHANGES = 10_000  # in an answer
LONGEST_WAIT = 60  # seconds
_EVERY = 0.5  # seconds between two checks while a request waits


class ChangesQuery(Struct, frozen=True):
    """The parameters of the feed."""

    since: Annotated[int, about("A `seq` or `next`.", ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, about("How many at most.", ge=1, le=MOST_CHANGES)] = 1_000
    wait: Annotated[
        int,
        Meta(
            ge=0,
            le=LONGEST_WAIT,
            description="Seconds to wait for a change if there is none.",
        ),
    ] = 0


class Change(Struct, frozen=True):
    """A change of a suppression."""

    seq: Annotated[int, about("Increases; gaps mean nothing.")]
    at: Annotated[Time, about("When it was written to the log.")]
    action: Annotated[Action, about("`moved`: requested again, at a later time.")]
    key: Annotated[
        str,
        about(
            "The key text of exports. Whoever has the key file can make it from an"
            " address with `smtpproxy suppress key`."
        ),
    ]
    scope: Scope
    origin: Origin
    since: Time


class Changes(Struct, frozen=True):
    """A page of the feed."""

    changes: tuple[Change, ...]
    next: Annotated[int, about("Send as `since` next.")]
    more: Annotated[bool, about("Whether there are more already.")]


class CheckRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses, and the scope of the mailing."""

    addresses: Annotated[list[str], Meta(extra_json_schema={"maxItems": MOST_ADDRESSES})]
    scope: Annotated[
        Scope | None, about("The scope of the mailing. Default: every suppression.")
    ] = None
    brand: Annotated[
        str | None, about("The brand of the mailing. Default: marketing of any brand.")
    ] = None


class AddressSuppression(Struct, frozen=True):
    """A suppression that applies to an address."""

    scope: Scope
    origin: Origin
    since: Time
    domain: (
        Annotated[str, about("If it applies to a whole domain: @example.com or *.example.com.")]
        | UnsetType
    ) = UNSET
    read_as: (
        Annotated[
            str,
            about(
                "The address it was made for, if a mail server may read the one asked"
                " about as that."
            ),
        ]
        | UnsetType
    ) = UNSET


class Result(Struct, frozen=True):
    """The result for one address; with an `error`, without `since` and `suppressions`."""

    address: Annotated[str, about("As it was given.")]
    suppressed: Annotated[bool | None, about("null: it is not a mail address (`error`).")]
    since: Time | UnsetType | None = UNSET
    suppressions: tuple[AddressSuppression, ...] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Results(Struct, frozen=True):
    """A result for each address, in the order of the request."""

    results: tuple[Result, ...]


class Propagation:
    """Answers what other systems ask. All waiting requests share one poll of the log."""

    def __init__(self, store: Store, stop: asyncio.Event) -> None:
        self._store = store
        self._stop = stop
        self._newest = Cached(self._look, _EVERY)

    @operation(
        "changes",
        "GET /v1/suppressions/changes",
        answer="Changes, perhaps none.",
        problems=("changes_gone",),
    )
    async def changes(self, call: Call, asked: ChangesQuery) -> Changes:
        """List changes since a position, in order.

        Begin with an export, and the `next` of an answer from before it; then always send the last
        `next` as `since`. After a 410 start again: keep its `next`, load an export made after that
        answer, then ask since that `next`.
        """
        if asked.wait:
            await self._wait(call.request, asked.since, asked.wait)
        try:
            found = await self._store.changes(asked.since, asked.limit + 1)
        except ChangesGone as error:
            text = (
                f"the changes after {error.since} are not in the log (it was trimmed, or it is a"
                " different log). Start again: keep `next`, load a whole export made by"
                " `smtpproxy suppress export` after this answer, then ask for since=`next`"
            )
            raise RefusedChanges(text, error.since, error.newest) from error
        shown = found[: asked.limit]
        return Changes(
            msgspec.convert(
                [
                    change_object(one)
                    for one in shown
                    if isinstance(one, SuppressionChange) and call.access.sees_scope(one.scope)
                ],
                tuple[Change, ...],
            ),
            next=shown[-1].seq if shown else asked.since,
            more=len(found) > asked.limit,
        )

    @operation(
        "check",
        "POST /v1/suppressions/check",
        like='{"addresses": ["…"]}',
        answer="A result for each address, in the order of the request.",
        problems=("scope_wrong", "not_of_your_brand"),
    )
    async def check_suppressions(self, call: Call, asked: CheckRequest) -> Results:
        """Check which addresses are suppressed, and since when.

        Nothing of the request is kept.
        """
        names = canonical_names(asked.addresses)
        counts = _counting(asked.scope, asked.brand, call.access.known_brands)
        if asked.brand is not None:
            call.access.check_brands([asked.brand])
        known = dict.fromkeys(name for name in names.values() if name is not None)
        facts = await self._store.facts(Lookups(tuple(known), contacts=False))

        def bears(scope: str) -> bool:
            return counts(scope) and call.access.sees_scope(scope)

        return Results(tuple(_result(each, names[each], facts, bears) for each in asked.addresses))

    async def _wait(self, request: Request, since: int, seconds: int) -> None:
        """Return when there is a change, the time is up, or the client has gone."""
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


def _counting(
    scope: str | None, brand: str | None, known_brands: Collection[str]
) -> Callable[[str], bool]:
    """Return a function: whether a suppression's scope bears on mail of this scope and brand.

    Without a brand, an order about any brand does. An order about a brand that is no longer
    configured always does.
    """
    try:
        read = None if scope is None else read_scope(scope)
        whose = None if brand is None else read_scope(f"brand:{brand}")
    except ValueError as error:
        right = "scope must be all, marketing, brand:NAME or purpose:NAME; brand the name of one"
        raise Refused("scope_wrong", right) from error
    if read is not None and read.startswith("brand:"):
        if whose not in (None, read):
            raise Refused("scope_wrong", "scope and brand name different brands")
        whose = read
    name = "" if whose is None else whose.removeprefix("brand:")
    if name and known_brands and name not in known_brands:
        known = few(sorted(known_brands), name[:80])
        raise Refused("scope_wrong", f"there is no brand {name[:80]!r}; known: {known}")

    def counts(found: str) -> bool:
        if found.startswith("brand:") and whose is not None:
            gone = bool(known_brands) and found.removeprefix("brand:") not in known_brands
            return read != "all" and (gone or found == whose)
        if read is None or found in ("all", read):
            return True
        return read != "all" and (found == "marketing" or found.startswith("brand:"))

    return counts


def _result(address: str, name: str | None, facts: Facts, counts: Callable[[str], bool]) -> Result:
    if name is None:
        return Result(address, None, error="not a mail address")
    found: Sequence[Suppression] = facts[name].suppressions if name in facts else ()
    bearing = [one for one in found if counts(one.scope)]
    since = written_time(min(one.since for one in bearing)) if bearing else None
    return Result(address, bool(bearing), since, tuple(map(bearing_suppression, bearing)))


def bearing_suppression(found: Suppression) -> AddressSuppression:
    return AddressSuppression(
        found.scope,
        found.origin,
        written_time(found.since),
        domain=found.domain or UNSET,
        read_as=found.read_as or UNSET,
    )
