"""How many confirmation mails were asked for lately, at all relays together."""

from datetime import datetime, timedelta
from hashlib import blake2b

from smtpproxy.mail.address import widened
from smtpproxy.store.postgres.connection import Counts
from smtpproxy.store.sql.rows import to_micros

# All who count wait for each other: what a day allows is a bound on all people together.
_ALONE = "LOCK TABLE confirmation IN SHARE ROW EXCLUSIVE MODE"
_PRUNE = "DELETE FROM confirmation WHERE at <= ?"
_COUNTED = "SELECT count(*) FILTER (WHERE person = ?), count(*) FROM confirmation"
_COUNT = "INSERT INTO confirmation (person, at) VALUES (?, ?)"
_GIVE_BACK = "DELETE FROM confirmation WHERE person = ? AND at = ?"
_DAY = timedelta(days=1)


class PostgresConfirmations(Counts):
    """A `ConfirmationLimit`."""

    _part = "confirmations"

    async def take(self, address: str, at: datetime, *, per_address: int, per_day: int) -> bool:
        person = await self._person(address)
        async with self._counting() as session:
            await session.run(_ALONE)
            await session.run(_PRUNE, to_micros(at - _DAY))
            of_person, of_all = (await session.fetch_all(_COUNTED, person))[0]
            if of_person >= per_address or of_all >= per_day:
                return False
            await session.run(_COUNT, person, to_micros(at))
            return True

    async def give_back(self, address: str, at: datetime) -> None:
        person = await self._person(address)
        async with self._counting() as session:
            await session.run(_GIVE_BACK, person, to_micros(at))

    async def _person(self, address: str) -> bytes:
        name = widened(address).encode()  # else a tag would make another mailbox of it
        return blake2b(name, digest_size=16, key=await self._secret()).digest()
