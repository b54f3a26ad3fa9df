"""The part of the store in memory that puts contacts right, and keeps a record of it."""

from collections.abc import Sequence
from datetime import datetime

from smtpproxy.mail.address import canonical, widened
from smtpproxy.policy.model import Contact, Suppression
from smtpproxy.store.merge import Known
from smtpproxy.store.protocols import BatchResult, ContactUpdate, SuppressionEntry
from smtpproxy.store.rectify import corrected, following
from smtpproxy.store.rights import Correction, Rectification


class MemoryRights:
    """Keeps `RightsStore` for the store that it is mixed into."""

    _contacts: dict[str, Known]

    def __init__(self) -> None:
        self._rectified: dict[str, list[Rectification]] = {}

    def _check(self) -> None:
        raise NotImplementedError

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        raise NotImplementedError

    async def add_suppressions(self, entries: Sequence[SuppressionEntry]) -> BatchResult:
        raise NotImplementedError

    async def put_contacts(self, contacts: Sequence[Contact | ContactUpdate]) -> BatchResult:
        raise NotImplementedError

    async def rectify(
        self, address: str, correction: Correction, *, at: datetime, reason: str
    ) -> Rectification | None:
        self._check()
        name = canonical(address)
        new = correction.new_address or name
        known = self._contacts.get(name)
        if known is None:
            return None
        target = self._contacts.get(new) if new != name else None
        update, changes = corrected(known, target, correction, at)
        done = Rectification(at, reason, changes)
        if not changes:
            return done
        await self.put_contacts([update])
        if new != name:
            await self.add_suppressions(following(await self.suppressions(name), new))
            del self._contacts[name]
            moved = [*self._rectified.get(new, ()), *self._rectified.pop(name, ())]
            self._rectified[new] = sorted(moved, key=lambda one: one.at)
        self._rectified.setdefault(new, []).append(done)
        return done

    async def rectifications(self, address: str) -> Sequence[Rectification]:
        self._check()
        return sorted(self._rectified.get(canonical(address), ()), key=lambda one: one.at)

    async def variants(self, address: str) -> Sequence[str]:
        self._check()
        name = canonical(address)
        alike = [one for one in self._contacts if one != name and widened(one) == widened(name)]
        return sorted(alike)
