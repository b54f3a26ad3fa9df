"""The operations of the API: what may be asked, what is answered, and how it is found out.

The records here are what is read and written, and what the description is made from.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request

from smtpproxy.mail.address import AddressError, recipient
from smtpproxy.mail.mailboxes import entered
from smtpproxy.policy.model import Facts, Lookups, Origin, Suppression
from smtpproxy.store.exchange.suppression_record import change_object, read_scope
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.propagation import Action, ChangeLog, ChangesGone, SuppressionChange
from smtpproxy.store.protocols import FactReader, StoreUnavailable
from smtpproxy.web.health import Cached
from smtpproxy.web.tokens import Error, Refused

MOST_CHANGES = 10_000  # in an answer
LONGEST_WAIT = 60  # seconds
MOST_ADDRESSES = 1_000  # in a request
LARGEST = 1024 * 1024  # octets of a request
_EVERY = 0.5  # seconds between two checks while a request waits

Time: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Scope: TypeAlias = Annotated[
    str,
    Meta(
        description="What is not to be sent: all, marketing, brand:NAME or purpose:NAME.",
        extra_json_schema={"pattern": "^(all|marketing|(brand|purpose):.+)$"},
    ),
]


class Operation(Struct, frozen=True):
    """What can be asked of the API. A token needs the right `name`.

    `answers` is what a 200 has; `errors` are those beside the ones of every operation.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    summary: str
    description: str
    answers: type[Struct]
    answer: str
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    errors: Mapping[int, tuple[type[Error], str]] = {}


class ChangesQuery(Struct, frozen=True):
    """The parameters of the feed."""

    since: Annotated[int, Meta(ge=0, le=2**63 - 1, description="A `seq` or `next`.")] = 0
    limit: Annotated[int, Meta(ge=1, le=MOST_CHANGES, description="How many at most.")] = 1_000
    wait: Annotated[
        int,
        Meta(
            ge=0,
            le=LONGEST_WAIT,
            description="Seconds to wait for a change when there is none.",
        ),
    ] = 0


class Change(Struct, frozen=True):
    """A change of a suppression."""

    seq: Annotated[int, Meta(description="Grows; gaps mean nothing.")]
    at: Annotated[Time, Meta(description="When it was written to the log.")]
    action: Annotated[Action, Meta(description="`moved`: asked for again, later.")]
    key: Annotated[
        str,
        Meta(
            description="The key text of exports: who shares the key file makes the same of an"
            " address with `smtpproxy suppress key`."
        ),
    ]
    scope: Scope
    origin: Origin
    since: Time


class Changes(Struct, frozen=True):
    """A page of the feed."""

    changes: tuple[Change, ...]
    next: Annotated[int, Meta(description="What to ask `since` next.")]
    more: Annotated[bool, Meta(description="Whether there is more already.")]


class Gone(Error, frozen=True):
    """Why there is no page since then."""

    since: int
    next: Annotated[int, Meta(description="What to ask `since` after a whole export.")]


CHANGES = Operation(
    "changes",
    "GET",
    "/v1/suppressions/changes",
    summary="What changed since, in order",
    description="Asks for the right `changes`. Begin with an export and with the `next` of an"
    " answer from before it; then always ask since the last `next`.",
    query=ChangesQuery,
    answers=Changes,
    answer="Changes, perhaps none.",
    errors={
        410: (
            Gone,
            "The log does not reach back so far, or it is another one. Begin anew: keep `next`,"
            " load an export made after this answer, ask since `next`.",
        )
    },
)


class CheckRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked: addresses, and the scope of the mailing."""

    addresses: Annotated[list[str], Meta(extra_json_schema={"maxItems": MOST_ADDRESSES})]
    scope: Annotated[
        Scope | None, Meta(description="That of the mailing. Without it, every suppression.")
    ] = None
    brand: Annotated[
        str | None,
        Meta(description="Whose mailing it is. Without it, marketing of any brand is meant."),
    ] = None


class AddressSuppression(Struct, frozen=True):
    """A suppression that counts for an address."""

    scope: Scope
    origin: Origin
    since: Time
    domain: (
        Annotated[
            str,
            Meta(description="Where it holds for everybody there: @example.com, or *.example.com."),
        ]
        | UnsetType
    ) = UNSET
    read_as: (
        Annotated[
            str,
            Meta(
                description="The address that it is of, where a mail server may take the one"
                " asked for it."
            ),
        ]
        | UnsetType
    ) = UNSET


class Result(Struct, frozen=True):
    """What is known of one address. `since` and `suppressions` are missing with an `error`."""

    address: Annotated[str, Meta(description="As it was given.")]
    suppressed: Annotated[
        bool | None, Meta(description="null: it is not a mail address (`error`).")
    ]
    since: Time | UnsetType | None = UNSET
    suppressions: tuple[AddressSuppression, ...] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class Results(Struct, frozen=True):
    """A result for each address, in the order of the request."""

    results: tuple[Result, ...]


CHECK = Operation(
    "check",
    "POST",
    "/v1/suppressions/check",
    summary="Which addresses are suppressed, and since when",
    description="Asks for the right `check`. Nothing of the request is kept.",
    body=CheckRequest,
    answers=Results,
    answer="A result for each address, in the order of the request.",
    errors={413: (Error, "The request is too large.")},
)


class ChangeFeed:
    """Answers CHANGES. All who wait share one look at the log."""

    def __init__(self, store: ChangeLog, stop: asyncio.Event) -> None:
        self._store = store
        self._stop = stop
        self._newest = Cached(self._look, _EVERY)

    async def __call__(self, request: Request) -> Changes:
        asked = _read_query(request)
        if asked.wait:
            await self._wait(request, asked.since, asked.wait)
        try:
            found = await self._store.changes(asked.since, asked.limit + 1)
        except ChangesGone as error:
            text = (
                f"the changes after {error.since} are not in the log (it was trimmed, or it is not"
                " the log that you know). Begin anew: keep `next`, load a whole export of"
                " `smtpproxy suppress export` that is made after this answer, then ask for"
                " since=`next`"
            )
            raise Refused(410, Gone("changes_gone", text, error.since, error.newest)) from error
        shown = found[: asked.limit]
        return Changes(
            msgspec.convert(
                [change_object(one) for one in shown if isinstance(one, SuppressionChange)],
                tuple[Change, ...],
            ),
            next=shown[-1].seq if shown else asked.since,
            more=len(found) > asked.limit,
        )

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


_BOUNDS = msgspec.json.schema(ChangesQuery)["$defs"]["ChangesQuery"]["properties"]


def _read_query(request: Request) -> ChangesQuery:
    numbers = {}
    for name, text in request.query_params.items():
        if name not in _BOUNDS:
            known = ", ".join(_BOUNDS)
            raise Refused(
                400, Error("parameter_unknown", f"there is no parameter {name!r}: {known}")
            )
        least, most = _BOUNDS[name]["minimum"], _BOUNDS[name]["maximum"]
        # More digits than any number here has: int() would take its time for a million.
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        if not least <= number <= most:
            wrong = f"{name} must be a whole number from {least} to {most}"
            raise Refused(400, Error("parameter_wrong", wrong))
        numbers[name] = number
    return ChangesQuery(**numbers)


async def check(request: Request, store: FactReader) -> Results:
    """Answer CHECK: for each address, in order; nothing of it is kept."""
    most = f" and {MOST_ADDRESSES} addresses"
    asked = await read_body(request, CheckRequest, '{"addresses": ["…"]}', most)
    if len(asked.addresses) > MOST_ADDRESSES:
        raise Refused(413, Error("too_large", f"at most {MOST_ADDRESSES} addresses in a request"))
    counts = _counting(asked.scope, asked.brand)
    names = [canonical_or_none(address) for address in asked.addresses]
    known = dict.fromkeys(name for name in names if name is not None)
    facts = await store.facts(Lookups(tuple(known), contacts=False))
    return Results(
        tuple(
            _result(address, name, facts, counts)
            for address, name in zip(asked.addresses, names, strict=True)
        )
    )


T = TypeVar("T", bound=Struct)


async def read_body(request: Request, record: type[T], like: str, most: str) -> T:
    """Read the JSON of a request. `like` it should be, and `most` it may hold, are for people.

    Raises Refused.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise Refused(413, Error("too_large", f"at most {LARGEST} octets{most} in a request"))
    try:
        return msgspec.json.decode(body, type=record)
    except msgspec.ValidationError as error:
        raise Refused(400, Error("body_wrong", f"{error}; send {like}")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, Error("body_wrong", f"not JSON; send {like}")) from error


def _counting(scope: str | None, brand: str | None) -> Callable[[str], bool]:
    """Return whether a suppression's scope bears on mail of a scope by a brand.

    Where it is not said whose the mail is, an order about any brand does.
    """
    try:
        read = None if scope is None else read_scope(scope)
        whose = None if brand is None else read_scope(f"brand:{brand}")
    except ValueError as error:
        right = "scope must be all, marketing, brand:NAME or purpose:NAME; brand the name of one"
        raise Refused(400, Error("scope_wrong", right)) from error
    if read is not None and read.startswith("brand:"):
        if whose not in (None, read):
            raise Refused(400, Error("scope_wrong", "scope and brand name different brands"))
        whose = read

    def counts(found: str) -> bool:
        if found.startswith("brand:") and whose is not None:
            return read != "all" and found == whose
        if read is None or found in ("all", read):
            return True
        return read != "all" and (found == "marketing" or found.startswith("brand:"))

    return counts


def canonical_or_none(address: str) -> str | None:
    try:
        return recipient(entered(address))
    except AddressError:
        return None


def _result(address: str, name: str | None, facts: Facts, counts: Callable[[str], bool]) -> Result:
    if name is None:
        return Result(address, None, error="not a mail address")
    found: Sequence[Suppression] = facts[name].suppressions if name in facts else ()
    bearing = [one for one in found if counts(one.scope)]
    since = written_time(min(one.since for one in bearing)) if bearing else None
    return Result(address, bool(bearing), since, tuple(map(_bearing, bearing)))


def _bearing(found: Suppression) -> AddressSuppression:
    return AddressSuppression(
        found.scope,
        found.origin,
        written_time(found.since),
        domain=found.domain or UNSET,
        read_as=found.read_as or UNSET,
    )
