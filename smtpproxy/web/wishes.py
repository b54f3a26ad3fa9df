"""Requests behind an unsubscribe link: less mail, none, or undoing that.

Anybody may hold the link, since messages are forwarded. So a link never allows more mail, except
what it stopped itself within the last hour, and only for whoever has the page that confirmed it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.unsubscribe_token import TokenError, Unsubscription
from smtpproxy.policy.contact import said_last
from smtpproxy.policy.model import ConsentAct, Contact, Frequency, Origin, Preference
from smtpproxy.policy.rules.recipient import TRACKING
from smtpproxy.store.link_keys import LinkReader
from smtpproxy.store.merge import STRICTNESS, wanted
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from smtpproxy.store.together import Together

UNDO_WITHIN = timedelta(hours=1)
_SAME_PRESS = timedelta(seconds=10)  # a button pressed twice
_SAME_WISH = timedelta(days=1)  # within which another request counts as the same

Often = Literal["weekly", "monthly", "none"]


class Undo(Struct, frozen=True, array_like=True):
    """What one request did, and how to undo it. It exists only sealed, in the page."""

    link: str  # the id of the decision whose link it was
    recipient: str
    at: datetime
    scopes: tuple[str, ...] = ()  # not suppressed before
    wishes: tuple[Preference, ...] = ()  # as they were before, but with the time of the request
    moved: tuple[tuple[str, str], ...] = ()  # (address, scope) at a later address of the person


_CONTEXT = b"smtpproxy undo"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Undo).decode


def sealed(undo: Undo, sealing: LinkReader) -> str:
    return sealing.seal_record(_encode(undo), _CONTEXT)


def opened(token: str, sealing: LinkReader) -> Undo:
    """Raises TokenError."""
    try:
        return _decode(sealing.open_record(token, _CONTEXT))
    except msgspec.MsgspecError as error:  # of another version
        raise TokenError(str(error)) from None


class Stopped(Struct, frozen=True):
    undo: Undo
    again: bool  # it was already so


_MOST = 500  # requests, so that a commit does not block the loop longer than a message may wait

Entries = Sequence[SuppressionEntry]
Before = Sequence[datetime | None]
"""For each entry, since when the same suppression already existed, or None."""


class GroupCommit:
    """Adds the suppressions of many requests in one commit. Each request is answered only when its
    own are on disk. `writer` returns the store, opened at first use."""

    def __init__(self, writer: Callable[[], Store]) -> None:
        self._writer = writer
        self.add: Together[Entries, Before] = Together(self._commit, _MOST)
        """Returns once the entries are on disk. Raises StoreUnavailable, ValueError."""

    async def _commit(self, batch: Sequence[Entries]) -> Sequence[Before | Exception]:
        try:
            return await self._added(batch)
        except ValueError:  # one names a retired key: the others must not fail for it
            return [await self._alone(entries) for entries in batch]

    async def _alone(self, entries: Entries) -> Before | Exception:
        try:
            return (await self._added([entries]))[0]
        except Exception as error:
            return error

    async def _added(self, batch: Sequence[Entries]) -> list[Before]:
        every = [entry for entries in batch for entry in entries]
        before = dict(zip(map(_key, every), await self._writer().suppress(every), strict=True))
        found: list[Before] = []
        for entries in batch:
            found.append([before[_key(entry)] for entry in entries])
            before.update((_key(entry), entry.since) for entry in entries)
        return found


def _key(entry: SuppressionEntry) -> tuple[str, str, str]:
    return entry.address, entry.scope, entry.origin


class Wishes:
    """Carries out the requests with the store that `writer` returns."""

    def __init__(self, writer: Callable[[], Store], now: Callable[[], datetime]) -> None:
        self._writer = writer
        self._commits = GroupCommit(writer)
        self._now = now

    async def stop(
        self, link: Unsubscription, scopes: Sequence[str], *, undoable: bool = True
    ) -> Stopped:
        """Suppress; it is on disk when this returns.

        The store does the same at an address that replaced this one. A second request moves it to
        now, so that it overrides a consent given in between.
        Raises StoreUnavailable; ValueError: the key of a hashed address was retired.
        """
        now, note = self._now(), f"link of id={link.id}"
        moved = await self._moved(link.recipient) if undoable else ()
        asked = [(address, scope) for address in (link.recipient, *moved) for scope in scopes]
        existed = await self._commits.add(
            [
                SuppressionEntry(address, scope, Origin.UNSUBSCRIBE, now, note)
                for address, scope in asked
            ]
        )
        again = all(since is not None and now - since < _SAME_WISH for since in existed)
        new = [
            each
            for each, since in zip(asked, existed, strict=True)
            if since is None or now - since < _SAME_PRESS
        ]
        here = tuple(scope for address, scope in new if address == link.recipient)
        there = tuple(each for each in new if each[0] != link.recipient)
        return Stopped(Undo(link.id, link.recipient, now, here, moved=there), again)

    async def prefer(self, link: Unsubscription, brand: str, wished: Mapping[str, Often]) -> Undo:
        """Record how often a person wants mail of some purposes.

        Nobody gets more mail by it: a stricter wish stays. For a person without a contact a wish
        cannot be stored, so the purpose is stopped. Raises as `stop` does.
        """
        address, contact = await self._person(link.recipient)
        none = [purpose for purpose, often in wished.items() if often == "none" or contact is None]
        undo = Undo(link.id, link.recipient, self._now())
        if none:
            undo = (await self.stop(link, [f"purpose:{purpose}" for purpose in none])).undo
        was: list[Preference] = []

        def stricter(known: Contact) -> Iterator[Preference]:
            for purpose, often in wished.items():
                before = wanted(known, purpose, brand)
                if often != "none" and _stricter(Frequency(often), before):
                    at = said_last(known.preferences, purpose, brand, undo.at)
                    was.append(Preference(purpose, before or Frequency.ALL, at, brand))
                    yield Preference(purpose, Frequency(often), at, brand)

        if len(none) < len(wished):
            await self._note(address, stricter)
        return replace(undo, wishes=tuple(was))

    async def untrack(self, link: Unsubscription, brand: str | None) -> bool:
        """Withdraw the consent to `tracking`, if the person has a contact.

        Returns whether that is new. Raises StoreUnavailable.
        """
        address, _ = await self._person(link.recipient)

        def agrees(contact: Contact | None) -> bool:
            acts = () if contact is None else contact.acts
            own = [act for act in acts if (act.purpose, act.brand) == (TRACKING, brand)]
            withdrawn = own and max(own, key=lambda act: act.at).withdrawal
            return contact is not None and not withdrawn

        act = ConsentAct(TRACKING, self._now(), withdrawal=True, brand=brand)
        return await self._writer().record_act(address, act, only_if=agrees)

    async def undo(self, link: Unsubscription, undo: Undo) -> bool:
        """Undo one request; False if it is too late, changed nothing, or was changed since.

        Earlier suppressions stay. Raises as `stop` does.
        """
        now = self._now()
        if (undo.link, undo.recipient) != (link.id, link.recipient) or now - undo.at > UNDO_WITHIN:
            return False
        store, done = self._writer(), bool(undo.scopes or undo.wishes or undo.moved)
        for address, scope in (*((link.recipient, each) for each in undo.scopes), *undo.moved):
            lifted = await store.remove_suppression(
                address,
                at=now,
                reason=f"taken back on the page of id={link.id}",
                scope=scope,
                origin=Origin.UNSUBSCRIBE,
                since=undo.at,
            )
            done = done and bool(lifted)
        restored: list[Preference] = []

        def earlier(known: Contact) -> Iterator[Preference]:
            newest = {(p.brand, p.purpose): p.at for p in known.preferences}
            for wish in undo.wishes:
                if newest.get((wish.brand, wish.purpose)) == wish.at:
                    at = said_last(known.preferences, wish.purpose, wish.brand, now)
                    restored.append(replace(wish, at=at))
            yield from restored

        if undo.wishes:
            address, _ = await self._person(link.recipient)
            await self._note(address, earlier)
        return done and len(restored) == len(undo.wishes)

    async def _person(self, recipient: str) -> tuple[str, Contact | None]:
        """Return the current address and contact of a message's recipient."""
        try:
            contact = await self._writer().contact(canonical(recipient))
        except AddressError:  # a hash, as the address was too long for the link
            return recipient, None
        if contact is None:
            for address in await self._moved(recipient):
                return address, await self._writer().contact(address)
        return recipient, contact

    async def _moved(self, recipient: str) -> Sequence[str]:
        try:
            return await self._writer().moved_to(recipient)
        except AddressError:
            return ()

    async def _note(self, address: str, wishes: Callable[[Contact], Iterable[Preference]]) -> None:
        """Store what `wishes` makes of the contact, unless there no longer is one."""

        def update(known: Contact | None) -> ContactUpdate | None:
            new = () if known is None else tuple(wishes(known))
            contact = Contact(address, preferences=new)
            return ContactUpdate(contact, given=frozenset()) if new else None

        await self._writer().put_contact(address, update)


def _stricter(one: Frequency, other: Frequency | None) -> bool:
    return other is None or STRICTNESS.index(one) > STRICTNESS.index(other)
