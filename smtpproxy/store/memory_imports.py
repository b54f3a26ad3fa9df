"""The part of the store in memory that has imports on record and takes them back."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.imports import Batch, ImportRecord, Place, State, Undone
from smtpproxy.store.merge import Known
from smtpproxy.store.protocols import BatchResult, ContactUpdate, LiftedSuppression
from smtpproxy.store.undo import (
    Fate,
    Standing,
    Version,
    fate,
    said,
    without,
)
from smtpproxy.store.undo_contacts import Replaced, Told, contact_without, told_again

_Key = tuple[bytes, bytes, str, Origin]  # wide key, exact key, scope, origin


class MemoryImports:
    """Keeps `ImportStore` for the store that it is mixed into."""

    _contacts: dict[str, Known]
    _suppressions: dict[bytes, dict[tuple[bytes, str, Origin], Suppression]]
    _lifted: dict[bytes, list[LiftedSuppression]]

    def __init__(self) -> None:
        self._imports: dict[str, ImportRecord] = {}
        self._said: dict[_Key, Standing] = {}
        self._owners: dict[str, int | None] = {}  # by address
        self._confirmed: set[str] = set()  # addresses with a withdrawal that several told
        self._chains: dict[str, list[Replaced]] = {}
        self._told_again: dict[str, Sequence[Told]] = {}

    def _check(self) -> None:
        raise NotImplementedError

    def _on_lift(self, pair: tuple[bytes, bytes], what: Suppression) -> None:
        raise NotImplementedError

    def _number(self, batch: Batch | None) -> int | None:
        return None if batch is None else [*self._imports].index(batch.id) + 1

    def _take_in(self, batch: Batch | None, result: BatchResult) -> BatchResult:
        if batch is not None:
            record = self._imports[batch.id]
            self._imports[batch.id] = replace(
                record,
                place=batch.place,
                added=record.added + result.added,
                changed=record.changed + result.changed,
                unchanged=record.unchanged + result.unchanged,
                older=record.older + result.older,
                erased=record.erased + result.erased,
            )
        return result

    def _remember_suppression(self, key: _Key, old: Suppression | None, told: Version) -> None:
        known = self._said.get(key)
        if old is None:
            known = None
        elif known is None or known.now.since != old.since:
            known = Standing(Version(old.since, old.note))
        self._said[key] = said(known, told)

    def _remember_contact(
        self, old: Known | None, update: ContactUpdate, by: int | None, *, changed: bool
    ) -> None:
        address = update.contact.address
        if old is None:
            self._forget_contact(address)
            self._owners[address] = by
            return
        owner = self._owners.get(address)
        if owner == by:
            return
        if any(act.withdrawal and act in old.contact.acts for act in update.contact.acts):
            self._confirmed.add(address)
        if by is not None:
            told = self._told_again.get(address, ())
            self._told_again[address] = told_again(told, by, old, update)
        if changed:
            self._chains.setdefault(address, []).append(Replaced(old, owner, by))
            self._owners[address] = by

    def _forget_contact(self, address: str) -> None:
        self._owners.pop(address, None)
        self._chains.pop(address, None)
        self._told_again.pop(address, None)
        self._confirmed.discard(address)

    async def begin_import(self, record: ImportRecord) -> None:
        self._check()
        self._imports[record.id] = record

    async def mark_import(
        self, id: str, state: State, *, at: datetime | None, place: Place | None = None
    ) -> None:
        self._check()
        record = self._imports[id]
        self._imports[id] = replace(record, state=state, ended_at=at, place=place or record.place)

    async def imports(self) -> Sequence[ImportRecord]:
        self._check()
        return list(self._imports.values())

    async def undo_import(self, id: str, *, at: datetime, by: str) -> Undone | None:
        self._check()
        record = self._imports[id]
        if record.state == "undone":
            return None
        lift = (at, f"import {id} undone by {by}")
        undone = (record.undone or Undone(at, by)).and_then(*self._counted(record, lift))
        self._imports[id] = replace(record, state="undone", undone=undone)
        return undone

    async def would_undo(self, id: str, *, at: datetime) -> Undone:
        self._check()
        return Undone(at, "").and_then(*self._counted(self._imports[id], None))

    def _counted(
        self, record: ImportRecord, lift: tuple[datetime, str] | None
    ) -> tuple[int, int, int]:
        number = [*self._imports].index(record.id) + 1
        take = self._suppressions_back if record.kind == "suppressions" else self._contacts_back
        fates = Counter(take(number, lift))
        return fates["removed"], fates["put back"], fates["kept"]

    def _gone(self) -> list[int]:
        states = [record.state for record in self._imports.values()]
        return [n for n, state in enumerate(states, 1) if state in ("undone", "undoing")]

    def _suppressions_back(self, number: int, lift: tuple[datetime, str] | None) -> Iterator[Fate]:
        for key, before in list(self._said.items()):
            wide, exact, scope, origin = key
            places = self._suppressions.get(wide, {})
            here = (exact, scope, origin)
            own = [v.owner for v in (before.now, *before.earlier)]
            if here not in places or (number not in own and before.now.also != number):
                continue
            after = without(before, number, self._gone())
            if (
                before.now.owner == number
                or before.now.also == number
                or any(version.owner == number for version in before.earlier)
            ):
                yield fate(before, after, number)
            if lift is None:
                continue
            if after is None:
                del self._said[key]
                gone = places.pop(here)
                self._lifted.setdefault(exact, []).append(
                    LiftedSuppression(gone.scope, gone.origin, gone.since, gone.note, *lift)
                )
                self._on_lift((wide, exact), gone)
            else:
                self._said[key] = after
                places[here] = Suppression(scope, origin, after.now.since, note=after.now.note)

    def _contacts_back(self, number: int, lift: tuple[datetime, str] | None) -> Iterator[Fate]:
        for address, now in list(self._contacts.items()):
            chain, owner = self._chains.get(address, []), self._owners.get(address)
            told = self._told_again.get(address, ())
            by = [owner, *[one.owner for one in chain], *[one.by for one in chain]]
            if number not in by and all(one.number != str(number) for one in told):
                continue
            left = contact_without(
                chain,
                now,
                owner,
                number,
                [gone for gone in self._gone() if gone != number],
                told,
                keep_withdrawals=address in self._confirmed,
            )
            yield left.fate
            if lift is None:
                continue
            if left.known is None:
                del self._contacts[address]
                self._forget_contact(address)
            else:
                self._contacts[address] = left.known
