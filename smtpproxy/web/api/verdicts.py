"""API operations on decisions: what the relay would decide at RCPT now, and what it decided."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from smtpproxy.access import Access
from smtpproxy.events import JudgedRecipient
from smtpproxy.evidence.gather import record_object
from smtpproxy.policy.model import NO_FACTS, Action, Basis, Contact, Reason
from smtpproxy.scrub.verdicts import HIDDEN, ScrubRequest, judge_addresses
from smtpproxy.sinks.audit.reader import Record, find, read
from smtpproxy.store.journals import IndexQuery
from smtpproxy.terminal import few
from smtpproxy.web.api.elsewhere import DecisionElsewhere, elsewhere
from smtpproxy.web.api.operation import (
    MOST_ADDRESSES,
    Call,
    Mailbox,
    Operations,
    Time,
    When,
    about,
    canonical_names,
    operation,
    read_moment,
    read_place,
    recorded_address,
    refusing,
    written_place,
)
from smtpproxy.web.api.problems import Refused

MOST_DECISIONS = 100  # in an answer
LONGEST_PERIOD = timedelta(days=31)
_USUAL_PERIOD = timedelta(days=7)
_FIRST_UNTIL = datetime.min.replace(tzinfo=UTC) + _USUAL_PERIOD
_WITHIN = 20.0  # seconds


class VerdictRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The recipients of a message, and its stream."""

    stream: str
    addresses: Annotated[list[str], Meta(extra_json_schema={"maxItems": MOST_ADDRESSES})]


class AddressVerdict(Struct, frozen=True):
    """The verdict on one address, or an `error` alone."""

    address: Annotated[str, about("As it was given.")]
    verdict: Action | UnsetType = UNSET
    reason: Annotated[Reason, about("A reason in docs/reasons.md.")] | UnsetType = UNSET
    basis: Annotated[Basis, about("The basis on which mail is allowed.")] | UnsetType = UNSET
    since: Annotated[str, about("The day of the fact that it is based on.")] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class AddressVerdicts(Struct, frozen=True):
    """A verdict for each address, in the order of the request."""

    verdicts: tuple[AddressVerdict, ...]


class MessageVerdict(Struct, frozen=True):
    """The verdict on the message."""

    verdict: Action
    reason: Reason | None


class RecipientVerdict(Struct, frozen=True):
    """The verdict on one recipient."""

    address: str
    verdict: Action
    reason: Reason | None
    basis: Basis | None
    rule: str | None
    detail: str | None
    erased: Annotated[bool, about("The person has been erased since.")]
    facts: Annotated[
        dict[str, Any] | UnsetType | None,
        about("The facts it was based on. Only for a token for all brands."),
    ] = UNSET
    upstream: (
        Annotated[str, about("The upstream's reply, if each recipient had a copy of their own.")]
        | UnsetType
    ) = UNSET


class UpstreamAnswer(Struct, frozen=True):
    """The reply of the MTA behind the relay."""

    at: Time
    code: int
    reply: str | None


class Proof(Struct, frozen=True):
    """Where the decision is in the audit log."""

    file: str
    row: int
    hash: str


class DecisionShown(Struct, frozen=True, rename={"header_from": "from"}):
    """One decision, and the outcome of the message."""

    id: str
    at: Time
    stage: str
    listener: str
    peer: str | None
    helo: str | None
    login: str | None
    queue_id: str | None
    mail_from: str | None
    message_id: str | None
    subject: str | None
    header_from: str | None
    source_announced: str | None
    size: int
    stream: str
    rulebook: str
    observed: bool
    undecided: bool
    message: MessageVerdict | None
    recipients: tuple[RecipientVerdict, ...]
    relayed: bool
    upstream: UpstreamAnswer | None
    proof: Proof | None


class Decisions(Struct, frozen=True):
    """Decisions, the newest first."""

    decisions: tuple[DecisionShown, ...]
    next: Annotated[str | None, about("Send as `after` for the next page; null: no more.")]
    elsewhere: Annotated[
        tuple[DecisionElsewhere, ...] | UnsetType,
        about(
            "Decisions of other relays on the same PostgreSQL, from the index, the"
            " newest first; on the first page only, and not for a Message-ID."
        ),
    ] = UNSET


class DecisionSearch(Struct, frozen=True, forbid_unknown_fields=True):
    """Which decisions. Give either `recipient` or `message_id`."""

    recipient: Mailbox | None = None
    message_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=998)] | None, about("The Message-ID.")
    ] = None
    stream: str | None = None
    since: Annotated[When | None, about("Default: seven days before `until`.")] = None
    until: Annotated[When | None, about("Default: now.")] = None
    after: Annotated[str | None, about("The `next` of the previous page.")] = None
    limit: Annotated[int, about("How many at most.", ge=1, le=MOST_DECISIONS)] = 20


@dataclass(eq=False)
class Verdicts(Operations):
    """The operations on verdicts and recorded decisions."""

    def __post_init__(self) -> None:
        self._folder = self.settings.server.state_dir / "audit"
        self._reading = asyncio.Semaphore(1)

    @operation(
        "check",
        "POST /v1/check",
        like='{"stream": "…", "addresses": ["…"]}',
        answer="A verdict for each address, in the order of the request.",
        problems=("stream_wrong",),
    )
    async def check(self, call: Call, asked: VerdictRequest) -> AddressVerdicts:
        """Show what the relay would decide at RCPT now.

        By the same rules and facts. Nothing of the request is kept, and no message is counted.
        Rules about the message itself apply only when it comes.
        """
        names_of = canonical_names(asked.addresses)
        streams = self.settings.streams
        known = sorted(s.name for s in streams.values() if call.access.sees_brand(s.brand))
        if asked.stream not in known:
            names = few(known, asked.stream[:80])
            raise Refused(
                "stream_wrong", f"there is no stream {asked.stream[:80]!r}; known: {names}"
            )
        stream = streams[asked.stream]
        wanted = list(dict.fromkeys(name for name in names_of.values() if name is not None))
        request = ScrubRequest(stream, self.settings.rulebooks[stream.rulebook], self.now())
        lines = await judge_addresses(self.store, request, wanted, _hidden_from(call.access))
        judged = dict(zip(wanted, lines, strict=True))
        found = []
        for address in asked.addresses:
            name = names_of[address]
            if name is None:
                found.append(AddressVerdict(address, error="not a mail address"))
                continue
            line = judged[name]
            found.append(
                AddressVerdict(
                    address,
                    line.verdict.action,
                    UNSET if line.verdict.action is Action.ALLOW else line.verdict.reason,
                    line.verdict.basis or UNSET,
                    line.since or UNSET,
                )
            )
        return AddressVerdicts(tuple(found))

    @operation(
        "decisions",
        "GET /v1/decisions/{id}",
        answer="The decision; refusals at RCPT are separate records with the same id.",
        problems=("parameter_wrong", "not_found"),
        places={"id": "26 letters and digits."},
    )
    async def get_decision(self, call: Call) -> Decisions:
        """Show the decision with an id.

        The id is in the SMTP reply, and in the Received field.
        """
        id = call.request.path_params["id"]
        if len(id) != _ID_LENGTH:
            raise Refused("parameter_wrong", f"id: {_ID_LENGTH} letters and digits")
        async with self._reading:
            with refusing("parameter_wrong", "id"):
                records = await asyncio.to_thread(find, self._folder, id)
        own = [one for one in records if _is_of(one, call.access)]
        others: Sequence[DecisionElsewhere] = ()
        if not own:
            wanted = IndexQuery(id=id.upper())
            others = await elsewhere(self.settings, call.access, wanted, MOST_DECISIONS)
            if not others:
                raise Refused("not_found", "no decision with that id is on record")
        shown = tuple(_shown(one, call.access) for one in own)
        return Decisions(shown, None, tuple(others) or UNSET)

    @operation(
        "decisions",
        "POST /v1/decisions/search",
        like='{"recipient": "…"} or {"message_id": "…"}',
        answer="Decisions, the newest first; perhaps none.",
        more=f"Within at most {LONGEST_PERIOD.days} days. Requests search the audit log one at a"
        f" time, for at most {_WITHIN:.0f} seconds each.",
        problems=("takes_too_long",),
    )
    async def find_decisions(self, call: Call, asked: DecisionSearch) -> Decisions:
        """Find decisions about a recipient or a Message-ID."""
        if (asked.recipient is None) is (asked.message_id is None):
            raise Refused("body_wrong", "give either a recipient or a message_id")
        recipient = None if asked.recipient is None else recorded_address(asked.recipient)
        until = read_moment("until", asked.until) or self.now()
        since = read_moment("since", asked.since) or max(until, _FIRST_UNTIL) - _USUAL_PERIOD
        if not timedelta(0) < until - since <= LONGEST_PERIOD:
            raise Refused("body_wrong", f"since: at most {LONGEST_PERIOD.days} days before until")
        before = None if asked.after is None else read_place("body_wrong", asked.after, _Place)
        deadline = time.monotonic() + _WITHIN

        def between() -> None:
            if time.monotonic() > deadline:
                raise TimeoutError

        def search() -> list[Record]:
            found = read(
                self._folder,
                since=since,
                until=until,
                recipient=recipient,
                stream=asked.stream,
                message_id=asked.message_id,
                between=between,
            )
            chosen = (
                one
                for one in found
                if _is_of(one, call.access) and (before is None or _place(one) < before)
            )
            return nlargest(asked.limit + 1, chosen, key=_place)

        others: Sequence[DecisionElsewhere] = ()
        if recipient is not None and before is None:
            wanted = IndexQuery(
                recipients=(recipient,), stream=asked.stream, since=since, until=until
            )
            others = await elsewhere(self.settings, call.access, wanted, asked.limit)
        async with self._reading:
            try:
                records = await asyncio.to_thread(search)
            except TimeoutError as error:
                text = "the audit log of this period is too large; give a shorter period"
                raise Refused("takes_too_long", text) from error
        shown = records[: asked.limit]
        more = written_place(_place(shown[-1])) if len(records) > len(shown) else None
        return Decisions(
            tuple(_shown(one, call.access) for one in shown), more, tuple(others) or UNSET
        )


_ID_LENGTH = 26
_Place = tuple[Annotated[datetime, Meta(tz=True)], str, str, int]


def _place(record: Record) -> _Place:
    place = record.place
    return (
        record.decided.at,
        record.decided.id,
        "" if place is None else place.file,
        0 if place is None else place.n,
    )


def _is_of(record: Record, access: Access) -> bool:
    return access.sees_brand(record.decided.decision.stream.brand)


def _hidden_from(access: Access) -> Callable[[Contact], bool] | None:
    return None if access.everything else access.hides


def _shown(record: Record, access: Access) -> DecisionShown:
    shown = msgspec.to_builtins(record_object(record))
    hides = _hidden_from(access)
    if hides is not None:
        for one, judged in zip(shown["recipients"], record.decided.recipients, strict=True):
            del one["facts"]
            known = record.decided.facts.get(judged.canonical, NO_FACTS)
            if known.contact is not None and hides(known.contact) and _rests_on_record(judged):
                one.update(reason=HIDDEN.reason, rule=HIDDEN.rule, detail=None)
    return msgspec.convert(shown, DecisionShown)


def _rests_on_record(judged: JudgedRecipient) -> bool:
    """Return whether the refusal is for what the contact says or lacks."""
    return judged.verdict.action is Action.REFUSE and judged.verdict.rule != "suppression"
