"""The parameters and the results of a statement of the mail path."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any

from smtpproxy.mail.address import domains_over, readings
from smtpproxy.policy.model import (
    ConsentAct,
    Facts,
    Lookups,
    Pause,
    RecipientFacts,
    Suppression,
)
from smtpproxy.store.keys import KeyRing, Partner
from smtpproxy.store.merge import facts_about, oldest_first, ordered_acts
from smtpproxy.store.postgres import statements as columns
from smtpproxy.store.postgres.statements import FIRST_ACT, FIRST_CONTACT
from smtpproxy.store.sql import rows

Version = tuple[int, str]
"""The number of the last commit that judgements depend on, and its id: a server that took over may
lack commits of the one before, and have others with the same numbers."""


class Names:
    """The names that a batch looks up, each once: addresses, and those they may be read as."""

    def __init__(self, batch: Iterable[Lookups]) -> None:
        known: dict[str, bool] = {}  # whether the contact is wanted
        for lookups in batch:
            for address in lookups.addresses:
                for name in (address, *readings(address)):
                    known[name] = known.get(name, False) or lookups.contacts
        self.names = list(known)
        self.at: dict[int, list[str]] = {}
        """The names, or whole domains, in the order of the parameters, by kind of row."""
        self._contacts = [name for name, wanted in known.items() if wanted]

    def values(self, keys: KeyRing, partners: Sequence[Partner]) -> list[Any]:
        """Return the parameters of the statement."""
        own = [(name, key.lookup(name)) for key in keys.keys for name in self.names]
        over = _domains_of(own)
        # Those of a partner come in the same order.
        self.at = {columns.SUPPRESSION: _first(own), columns.OF_DOMAIN: _first(over)}
        values = [self._contacts, *_texts(own, over)]
        for partner in partners:
            theirs = [(name, partner.key.lookup(name)) for name in self.names]
            values += _texts(theirs, _domains_of(theirs))
        return values


_NameKeys = tuple[str, tuple[bytes, ...]]
"""A name, and the result of `SuppressionKey.lookup` for it."""


def _domains_of(looked: Iterable[_NameKeys]) -> list[tuple[str, bytes]]:
    """Return the whole domains that names are under, each once, with their keys."""
    found: dict[tuple[str, bytes], None] = {}
    for name, keys in looked:
        found |= dict.fromkeys(zip(domains_over(name), keys[2:], strict=True))
    return list(found)


def _first(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in pairs]


def _texts(looked: Iterable[_NameKeys], over: Iterable[tuple[str, bytes]]) -> list[str]:
    """Return the wide keys, the exact keys, and those of the whole domains."""
    wide, exact = zip(*[keys[:2] for _, keys in looked], strict=True)
    return [_text(wide), _text(exact), _text([key for _, key in over])]


def _text(keys: Iterable[bytes]) -> str:
    return " ".join([key.hex() for key in keys])


class Found:
    """The rows that the statement found."""

    def __init__(self, names: Names, found: Iterable[rows.Row]) -> None:
        self.version: Version = (0, "")
        self.is_standby = False
        self.live = ""
        self.commits_wait = False
        self.moved_to: str | None = None
        self._pauses: tuple[Pause, ...] = ()
        self._has_partners = False
        self._snapshot_at: datetime | None = None
        self._newest_snapshot_at: datetime | None = None
        self._suppressions: dict[str, list[Suppression]] = {}
        self._of_domains: dict[str, list[Suppression]] = {}
        self._people: dict[str, rows.Row] = {}
        self._acts: dict[str, list[tuple[int, ConsentAct]]] = {}  # with their numbers
        for row in found:
            self._take(names, row)
        self._pauses = tuple(sorted(self._pauses, key=lambda pause: pause.subject))

    def _take(self, names: Names, row: rows.Row) -> None:
        what, place, same, text, other, number, more, last = row[:FIRST_CONTACT]
        if what == columns.STATE:
            self.live, self.moved_to, self.version = text, other, (number, more)
            self.is_standby = same
            self.commits_wait = bool(place)
        elif what == columns.PAUSE:
            self._pauses += (rows.record_of(Pause, (text, number, other, last, more)),)
        elif what == columns.SNAPSHOTS:
            self._has_partners, self._snapshot_at = True, rows.optional_moment(number)
            self._newest_snapshot_at = rows.optional_moment(last)
        elif what == columns.CONTACT:
            address = row[FIRST_CONTACT + 1]
            self._people[address] = row[FIRST_CONTACT:FIRST_ACT]
            if last is not None:
                self._acts.setdefault(address, []).append((last, rows.act(row[FIRST_ACT:])))
        else:
            name = names.at[what][place - 1]
            if what == columns.OF_DOMAIN:
                found = rows.suppression(text, other, number, more, widened=False, domain=name)
                self._of_domains.setdefault(name, []).append(found)
            else:
                found = rows.suppression(text, other, number, more, widened=not same)
                self._suppressions.setdefault(name, []).append(found)

    def facts(self, lookups: Lookups) -> Facts:
        """Return the facts for one of the lookups."""
        known = partial(self._one, lookups)
        return facts_about(lookups.addresses, known, self._pauses if lookups.pauses else ())

    def _one(self, lookups: Lookups, name: str) -> RecipientFacts | None:
        suppressions = [*self._suppressions.get(name, ())]
        if self._of_domains:
            for domain in domains_over(name):
                suppressions += self._of_domains.get(domain, ())
        person = self._people.get(name) if lookups.contacts else None
        of_snapshots = lookups.snapshots and self._has_partners
        if not suppressions and person is None and not of_snapshots:
            return None
        acts = tuple(act for _, act in sorted(self._acts.get(name, ()), key=itemgetter(0)))
        return RecipientFacts(
            oldest_first(suppressions),
            None if person is None else rows.contact(person, ordered_acts(acts)),
            snapshot_at=self._snapshot_at if of_snapshots else None,
            newest_snapshot_at=self._newest_snapshot_at if of_snapshots else None,
        )
