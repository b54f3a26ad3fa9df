"""Reading the facts about many people in one statement: half the time of one for each."""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain

import msgspec

from smtpproxy.mail.address import domains_over
from smtpproxy.policy.model import ConsentAct, RecipientFacts, Suppression
from smtpproxy.store.keys import Partner
from smtpproxy.store.merge import oldest_first, ordered_acts
from smtpproxy.store.sql import rows
from smtpproxy.store.sql.session import listed
from smtpproxy.store.sqlite.statements import statements_for_many

_values = msgspec.json.Decoder(rows.Row).decode


class ManyReader:
    """Reads over a connection of which the caller knows the live keys. Raises sqlite3.Error."""

    def __init__(
        self,
        execute: Callable[[str, Sequence[object]], sqlite3.Cursor],
        keys: Callable[[str], tuple[bytes, ...]],
        versions: Sequence[int],
        partners: Sequence[Partner],
    ) -> None:
        """`keys` returns the keys of a name under each live key, then each partner's."""
        self._execute = execute
        self._keys = keys
        self._ways = len(versions) + len(partners)
        self._asked = statements_for_many(versions, partners)

    def read(self, addresses: Sequence[str], *, contacts: bool) -> dict[str, RecipientFacts]:
        """Return what is on record, without the age of the partners' snapshots."""
        keys = [self._keys(address) for address in addresses]
        at: dict[str, list[int]] = defaultdict(list)  # the places of the addresses of a domain
        for place, address in enumerate(addresses):
            at[address.rpartition("@")[2]].append(place)
        over = [(one, places) for domain, places in at.items() for one in domains_over(domain)]
        values = self._values_of(addresses, keys, [keys[places[0]] for places in at.values()], over)
        asked = self._asked.everything if contacts else self._asked.suppressions
        orders: dict[int, list[Suppression]] = defaultdict(list)
        people: dict[int, str] = {}
        acts: dict[int, list[ConsentAct]] = defaultdict(list)
        for place, kind, found, act in self._execute(asked, values).fetchall():
            if kind is None:
                people[place] = found
                if act is not None:
                    acts[place].append(rows.act(_values(act)))
            elif isinstance(kind, bytes):
                domain, places = over[place]
                order = rows.suppression(*_values(found), widened=False, domain=domain)
                for each in places:
                    orders[each].append(order)
            else:
                orders[place].append(rows.suppression(*_values(found), widened=not kind))
        return {
            addresses[place]: RecipientFacts(
                oldest_first(orders[place]) if place in orders else (),
                rows.contact(_values(people[place]), ordered_acts(tuple(acts.get(place, ()))))
                if place in people
                else None,
            )
            for place in sorted({*orders, *people})
        }

    def _values_of(
        self,
        addresses: Sequence[str],
        keys: Sequence[tuple[bytes, ...]],
        of_domains: Sequence[tuple[bytes, ...]],
        over: Sequence[object],
    ) -> list[object]:
        """Return the values of the statements. `of_domains` are the keys of one address at each."""
        values: list[object] = [
            listed(addresses),
            listed([0] * len(over)),
        ]
        for way in range(self._ways):
            pairs, wide = self._of_way(keys, way), self._of_way(of_domains, way)
            # A whole domain has no keys of an address: zeros, which match nothing.
            values.append(b"".join([(one[0] + one[1]).ljust(48, b"\0") for one in pairs]))
            values.append(b"".join(chain.from_iterable([one[2:] for one in wide])))
        return values

    def _of_way(self, keys: Sequence[tuple[bytes, ...]], way: int) -> Sequence[tuple[bytes, ...]]:
        """Return the keys of each name under one of the live keys and partners' keys."""
        if self._ways == 1:
            return keys
        widths = [len(one) // self._ways for one in keys]
        return [one[way * n : (way + 1) * n] for one, n in zip(keys, widths, strict=True)]
