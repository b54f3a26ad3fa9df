"""Which connection a message goes to next when its own ends before the content; no network."""

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import (
    UpstreamConnection,
    UpstreamError,
    UpstreamLost,
    UpstreamTimeout,
)
from smtpproxy.relay.exchange import Exchange
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.settings import TcpAddress
from smtpproxy.waiting import Deadlines
from smtpproxy.wire.client import Capabilities
from smtpproxy.wire.commands import Rcpt
from tests.relay.sending import JEANNE, SENDER, Pool

SAYS: dict[str, list[int] | UpstreamError] = {
    "takes": [250, 250],
    "421": [421],
    "450": [450, 503],
    "closes": UpstreamLost("closed"),
    "silent": UpstreamTimeout("no reply in time"),
}


class Connection(UpstreamConnection):
    """One that leads to an address, and what MAIL and RCPT bring there."""

    def __init__(self, what: str) -> None:
        """`what`: the address, whether the connection was used before, what the upstream says."""
        super().__init__(Deadlines(asyncio.get_running_loop()), defaultdict(int), lambda: None)
        place, age, self.says = what.split()
        self.place, self.used = (place, 25), age == "used"
        self.capabilities = Capabilities(pipelining=True)

    def exchange(self, data: bytes, exchange: Exchange[Any], timeout: float) -> None:
        said = SAYS[self.says]
        if isinstance(said, UpstreamError):
            exchange.answered(exchange, [], said)
        else:
            exchange.answered(exchange, [Reply.of(code, None, "") for code in said], None)


class Scripted(Pool):
    """A pool that hands these connections out, and what it was asked for."""

    def __init__(self, addresses: str, connections: list[str]) -> None:
        super().__init__(TcpAddress("mta.shop.example", 25))
        self._connector._places = [(address, 25) for address in addresses]
        self.asked: list[str] = []
        self._next = iter(connections)

    async def acquire(self, client: str = "") -> UpstreamConnection:
        return Connection(next(self._next))

    async def replace(
        self, ended: UpstreamConnection, full: UpstreamError | None = None
    ) -> UpstreamConnection:
        self.asked.append("any" if full else "new")
        return Connection(next(self._next))

    def was_not_full(self) -> None:
        self.asked.append("not-full")

    def release(self, connection: UpstreamConnection) -> None:
        self.asked.append("none")


@pytest.mark.parametrize(
    ("addresses", "connections", "asked"),
    [
        # It was idle for too long, or has taken as many messages as it may: once.
        ("A", ["A used closes", "A new takes"], "new"),
        ("A", ["A used 421", "A new takes"], "new"),
        ("A", ["A used 450", "A new takes"], "new"),
        ("AB", ["A used closes", "B new takes"], "new"),
        ("A", ["A used closes", "A new closes"], "new not-full none"),
        ("A", ["A used 450", "A new 450"], "new none"),
        # Lost by chance: once.
        ("A", ["A new closes", "A new takes"], "new"),
        ("A", ["A new closes", "A new closes"], "new not-full none"),
        ("A", ["A new closes", "A new 421", "A used takes"], "new any"),
        # The upstream takes no more: as often as it says so on a new one.
        ("A", ["A new 421", "A used takes"], "any"),
        ("A", ["A new 421", "A new 421", "A new 421", "A used takes"], "any any any"),
        ("A", ["A used 421", "A new 421", "A used takes"], "new any"),
        ("A", ["A used 421", "A new 421", "A used 421"], "new any not-full none"),
        ("A", ["A new 421", "A used closes", "A new closes"], "any new not-full none"),
        ("A", ["A new closes", "A new 421", "A used 450"], "new any none"),
        # Another address may take it; once none may, it was lost by chance.
        ("AB", ["A new closes", "B new takes"], "any"),
        ("ABC", ["A new closes", "B new 421", "C new takes"], "any any"),
        ("AB", ["A new closes", "B new closes", "A new closes"], "any new not-full none"),
        # No answer is no end, and no refusal.
        ("AB", ["A new silent"], "none"),
        ("A", ["A new 450"], "none"),
    ],
)  # fmt: skip
async def test_the_next_connection(addresses: str, connections: list[str], asked: str) -> None:
    pool = Scripted(addresses, connections)
    assert await asked_for(pool) == asked


@pytest.mark.parametrize(
    ("meanwhile", "asked"),
    [("B used", "any any any"), ("B new", "new not-full none"), ("A used", "new not-full none")],
)
async def test_an_address_is_full_while_another_has_taken_a_message(
    meanwhile: str, asked: str
) -> None:
    pool = Scripted("AB", [*["A new closes"] * 3, "B used takes"])
    pool._connector.has_another(("B", 25))
    pool._lent.add(Connection(f"{meanwhile} takes"))
    assert await asked_for(pool) == asked


async def asked_for(pool: Scripted) -> str:
    """Offer a recipient; return what the pool was asked for."""
    transaction = UpstreamTransaction(pool, MailParameters(SENDER))
    try:
        (reply,) = await transaction.recipients([Rcpt(JEANNE)])
        assert (reply.code == 250) is (pool.asked[-1:] != ["none"])
    except UpstreamError:
        assert pool.asked[-1] == "none"
    return " ".join(pool.asked)
