"""How many confirmation mails were asked for lately, at all relays together."""

from datetime import datetime, timedelta

from smtpproxy.store.postgres.connection import Counts
from smtpproxy.store.sql.rows import to_micros
from smtpproxy.store.sql.side_tables import (
    COUNT_CONFIRMATION,
    GIVE_CONFIRMATION_BACK,
    PRUNE_CONFIRMATIONS,
    mailbox_hash,
)

# All who count wait for each other: what a day allows is a bound on all people together.
_ALONE = "LOCK TABLE confirmation IN SHARE ROW EXCLUSIVE MODE"
_COUNTED = "SELECT count(*) FILTER (WHERE person = ?), count(*) FROM confirmation"
_DAY = timedelta(days=1)


class PostgresConfirmations(Counts):
    """A `ConfirmationLimit`."""

    _part = "confirmations"

    async def take(self, address: str, at: datetime, *, per_address: int, per_day: int) -> bool:
        person = await self._person(address)
        async with self._counting() as session:
            await session.run(_ALONE)
            await session.run(PRUNE_CONFIRMATIONS, to_micros(at - _DAY))
            of_person, of_all = (await session.fetch_all(_COUNTED, person))[0]
            if of_person >= per_address or of_all >= per_day:
                return False
            await session.run(COUNT_CONFIRMATION, person, to_micros(at))
            return True

    async def give_back(self, address: str, at: datetime) -> None:
        person = await self._person(address)
        async with self._counting() as session:
            await session.run(GIVE_CONFIRMATION_BACK, person, to_micros(at))

    async def _person(self, address: str) -> bytes:
        return mailbox_hash(address, await self._secret())
