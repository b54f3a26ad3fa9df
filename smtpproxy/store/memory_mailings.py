"""A count of mailings in memory, for tests and trials."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from smtpproxy.policy.model import Mailing
from smtpproxy.store.mailings import Mailed
from smtpproxy.store.protocols import StoreUnavailable


class MemoryMailings:
    """A `MailingLog` for one process. `fail_with` makes every call fail."""

    def __init__(self) -> None:
        self._mailings: dict[str, dict[str, Mailing]] = {}  # by address, then id
        self._first: dict[str, datetime] = {}
        self.fail_with: str | None = None

    async def reserve(
        self, id: str, stream: str, addresses: Iterable[str], at: datetime
    ) -> Mapping[str, Mailed]:
        names = list(addresses)
        known = await self.known(names)
        for name in names:
            self._mailings.setdefault(name, {})[id] = Mailing(stream, at)
            self._first.setdefault(name, at)
        return {name: known.get(name, Mailed()) for name in names}

    async def release(self, id: str, addresses: Iterable[str]) -> None:
        self._check()
        for name in addresses:
            taken = self._mailings.get(name, {}).pop(id, None)
            if taken is not None and self._first[name] == taken.at:
                del self._first[name]
                rest = self._mailings[name].values()
                if rest:
                    self._first[name] = min(mailing.at for mailing in rest)

    async def known(self, addresses: Sequence[str]) -> Mapping[str, Mailed]:
        self._check()
        return {
            name: Mailed(
                tuple(sorted(self._mailings.get(name, {}).values(), key=lambda one: one.at)),
                self._first[name],
            )
            for name in addresses
            if name in self._first
        }

    async def prune(
        self, before: datetime, *, first_before: datetime, dry_run: bool = False
    ) -> int:
        self._check()
        if dry_run:
            everything = (one for each in self._mailings.values() for one in each.values())
            return sum(mailing.at < before for mailing in everything)
        removed = 0
        for mailings in self._mailings.values():
            for id in [id for id, mailing in mailings.items() if mailing.at < before]:
                del mailings[id]
                removed += 1
        self._first = {name: at for name, at in self._first.items() if at >= first_before}
        return removed

    async def forget(self, address: str) -> None:
        self._check()
        self._mailings.pop(address, None)
        self._first.pop(address, None)

    def close(self) -> None:
        self.fail_with = self.fail_with or "the count of mailings is closed"

    def _check(self) -> None:
        if self.fail_with:
            raise StoreUnavailable(self.fail_with)
