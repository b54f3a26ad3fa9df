"""Finding out what an import would change, without changing it."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from smtpproxy.mail.address import readings
from smtpproxy.policy.decide import decisive, needs
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Contact,
    Facts,
    Lookups,
    Origin,
    RecipientFacts,
    Rulebook,
    Stream,
    StreamClass,
    Suppression,
    Transaction,
    Verdict,
    collections,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.store.collected import COLLECTED_FIELDS, alike
from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected
from smtpproxy.store.exchange.run import BATCH_ROWS
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.merge import FROZEN, MARKS, Known, Merged, merge, refusals
from smtpproxy.store.records import PROFILE_FIELDS, ContactUpdate, FactReader, SuppressionEntry
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

T = TypeVar("T")

Observer = Callable[[Sequence[T], Mapping[str, Contact]], Awaitable[None]]
"""Receives each batch, and its contacts as they would be afterwards, by address."""

Kind = Literal["new", "changed", "ignored", "resurrected", "rejected"]
SAMPLES = 5  # kept of each kind


class Difference(Struct, frozen=True):
    """What one line would do. `address` is empty if the line has none."""

    kind: Kind
    line: int
    address: str
    what: str


class Comparison(Struct):
    """What a whole file would do, with the first lines of each kind.

    A `resurrected` line also counts as new or changed. Lines of one address in different batches
    are each compared only with the store.
    """

    lines: int = 0
    passed: int = 0
    refusals: int = 0  # in rejected lines, but compared
    counts: dict[Kind, int] = field(
        default_factory=lambda: {
            "new": 0, "changed": 0, "ignored": 0, "resurrected": 0, "rejected": 0,
        }
    )  # fmt: skip
    samples: list[Difference] = []

    def add(self, difference: Difference) -> None:
        self.counts[difference.kind] += 1
        if self.counts[difference.kind] <= SAMPLES:
            self.samples.append(difference)


Compare = Callable[[Sequence[Read[T]]], Awaitable[Iterable[Difference]]]


async def compare(
    contents: Contents[T], differences: Compare[T], tick: Callable[[int], None]
) -> Comparison:
    """Compare every line, in batches. `tick` receives the number of lines done so far."""
    done = Comparison()
    batch: list[Read[T]] = []
    for item in contents.items:
        done.lines += 1
        if isinstance(item, Rejected):
            done.add(Difference("rejected", item.number, "", item.reason))
            if item.refusal is not None:
                batch.append(Read(item.number, item.refusal, b""))
                done.refusals += 1
        elif isinstance(item, Passed):
            done.passed += 1
        else:
            batch.append(item)
        if len(batch) == BATCH_ROWS:
            await _take(batch, differences, done)
            batch = []
            tick(done.lines)
    if batch:
        await _take(batch, differences, done)
    tick(done.lines)
    return done


async def _take(batch: list[Read[T]], differences: Compare[T], done: Comparison) -> None:
    try:
        for difference in await differences(batch):
            done.add(difference)
    except ValueError as error:
        if len(batch) == 1:
            done.add(Difference("rejected", batch[0].number, "", str(error)))
            return
        for one in batch:  # find the entries that the store itself refuses
            await _take([one], differences, done)


async def facts_beside(store: FactReader, lookups: Lookups, limited: Collection[str] = ()) -> Facts:
    """Return what a verdict needs apart from the contacts, which will differ from those stored.

    What people were mailed is also read for the `limited`, who wish for less mail. Raises
    StoreUnavailable.
    """
    facts = await store.facts(replace(lookups, contacts=False))
    # Other readings of an address may have withdrawn consent.
    whole = tuple([one for one in lookups.addresses if one in limited or readings(one)])
    if not whole:
        return facts
    return {**facts, **await store.facts(replace(lookups, addresses=whole, mailings=True))}


class SuppressionComparison(Struct, frozen=True):
    """A suppression is new, moves one forward in time, or changes nothing."""

    store: Store
    observe: Observer[SuppressionEntry] | None = None

    async def __call__(self, batch: Sequence[Read[SuppressionEntry]]) -> list[Difference]:
        """Raises ValueError if the store refuses an entry."""
        entries = [one.value for one in batch]
        stored = await self.store.standing(entries)
        if self.observe is not None:
            await self.observe(entries, {})
        seen: dict[tuple[str, str, str], datetime] = {}
        found = []
        for one, entry, of_store in zip(batch, entries, stored, strict=True):
            key = (entry.address, entry.scope, str(entry.origin))
            since = seen.get(key, of_store)
            what = f"{entry.scope}, {entry.origin}, since {written_time(entry.since)}"
            if since is None:
                kind: Kind = "new"
            elif entry.since > since:
                kind, what = "changed", f"{what}, before it was {written_time(since)}"
            else:
                kind, what = "ignored", f"{what}: already in force since {written_time(since)}"
            seen[key] = max(entry.since, since) if since else entry.since
            found.append(Difference(kind, one.number, entry.address, what))
        return found


class ContactComparison:
    """A contact is new, changed or unchanged; it may also allow mail to a person again."""

    def __init__(
        self,
        store: Store,
        streams: Iterable[tuple[Stream, Rulebook]],
        now: datetime,
        observe: Observer[ContactUpdate] | None = None,
    ) -> None:
        self._store = store
        self._observe = observe
        self._streams = [pair for pair in streams if pair[0].stream_class is StreamClass.MARKETING]
        question = Transaction(tuple(stream for stream, _ in self._streams))
        self._lookups = needs(question, Rulebook(""))
        self._now = now

    async def __call__(self, batch: Sequence[Read[ContactUpdate]]) -> list[Difference]:
        addresses = tuple(dict.fromkeys(one.value.contact.address for one in batch))
        profiles = await self._store.profiles(addresses)
        known = {address: Known(*profile) for address, profile in profiles.items()}
        lookups = replace(self._lookups, addresses=addresses)
        facts = await facts_beside(self._store, lookups)
        found = []
        for one in batch:
            address = one.value.contact.address
            before, update = known.get(address), one.value
            bars = facts.get(address, NO_FACTS)
            if any(_is_erasure(bar) for bar in bars.suppressions):
                refusing = refusals(update)
                if before is None or refusing is None:
                    found.append(Difference("ignored", one.number, address, "erased: left out"))
                    continue
                update = refusing
            merged = merge(before, update)
            known[address] = merged.known
            kind, what = _of_contact(one.value, before, merged)
            found.append(Difference(kind, one.number, address, what))
            again = self._mailable_again(address, bars, before, merged.known.contact)
            if again:
                found.append(Difference("resurrected", one.number, address, again))
        if self._observe is not None:
            after = {address: one.contact for address, one in known.items()}
            await self._observe([one.value for one in batch], after)
        return found

    def _mailable_again(
        self, address: str, bars: RecipientFacts, before: Known | None, after: Contact
    ) -> str:
        """Name the streams on which mail to the person is refused now, and would be allowed.

        A pause, a limit or a stale snapshot does not hide that: it ends by itself.
        """
        withdrawn = before is not None and any(act.withdrawal for act in before.contact.acts)
        if not bars.suppressions and not withdrawn:
            return ""
        contact = before.contact if before else None

        def verdict(contact: Contact | None, stream: Stream, rulebook: Rulebook) -> Verdict:
            facts = replace(bars, contact=contact)
            return decisive(RecipientCase(address, stream, facts, rulebook, self._now))[1]

        return "; ".join(
            [
                f"{stream.name}: refused as {was.reason}, would be allowed by {now.basis}"
                for stream, rulebook in self._streams
                if (was := verdict(contact, stream, rulebook)).action is not Action.ALLOW
                and (now := verdict(after, stream, rulebook)).action is Action.ALLOW
            ]
        )


def _is_erasure(bar: Suppression) -> bool:
    return bar.origin is Origin.ERASURE and bar.domain is None and bar.read_as is None


def _of_contact(update: ContactUpdate, before: Known | None, merged: Merged) -> tuple[Kind, str]:
    """Return what a line does to a contact."""
    if before is None:
        return "new", "no contact yet"
    kind: Kind = "changed" if merged.changed else "ignored"
    if merged.older:
        what = "its profile is no newer than the stored one"
        return kind, what + ("; only purchases and consents are added" if merged.changed else "")
    after = merged.known.contact
    what = _changes(before.contact, after) if merged.changed else "nothing new"
    if frozen := _frozen(before.contact, update, after):
        what += f"; {frozen} as it was: the person objected to profiling"
    return kind, what


def _changes(before: Contact, after: Contact) -> str:
    one = not before.others and not after.others and before.brand == after.brand
    fields = sorted(PROFILE_FIELDS.union(MARKS, ("preferences",)))
    names = [
        name
        for name in fields
        if getattr(after, name) != getattr(before, name) and (one or name not in COLLECTED_FIELDS)
    ]
    if not one and alike(collections(after)) != alike(collections(before)):
        names.append("how the address was obtained")
    for name, what in (("acts", "consent act"), ("purchases", "purchase")):
        if new := set(getattr(after, name)) - set(getattr(before, name)):
            names.append(counted(len(new), what))
    return ", ".join(names)


def _frozen(before: Contact, update: ContactUpdate, after: Contact) -> str:
    """Name the fields that the update cannot change because of an objection to profiling."""
    if before.profiling_objected_at is None:
        return ""
    given, names = update.contact, sorted(update.given & FROZEN)
    return ", ".join([name for name in names if getattr(given, name) != getattr(after, name)])
