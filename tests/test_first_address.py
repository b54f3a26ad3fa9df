"""A connection made when nobody waits for it any more is closed."""

import asyncio
import threading
from contextlib import suppress

import pytest

from smtpproxy.first_address import addresses, first_address
from tests.relay.sending import serving


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_made_after_its_attempt_was_cancelled_is_closed(turns: int) -> None:
    """It used to stay open, counting towards the limit, until the upstream closed it."""
    made, ended = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async def connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = await asyncio.open_connection(host, port)
        made.set()
        return connection

    async with serving(handle) as port, asyncio.timeout(10):
        places = await addresses("localhost", port)
        attempt = asyncio.create_task(first_address(places, connect))
        await made.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        if not attempt.cancel():
            attempt.result()[1].close()
        with suppress(asyncio.CancelledError):
            await attempt
        await ended.wait()


def test_a_name_that_is_being_looked_up_does_not_keep_a_process_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing the event loop waited for a dead DNS, until the supervisor killed the worker."""
    answered = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        answered.wait()
        return []

    async def give_up() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await addresses("mta.shop.example", 25)

    monkeypatch.setattr("smtpproxy.first_address.getaddrinfo", look_up)
    ending = threading.Thread(target=lambda: asyncio.run(give_up()))
    ending.start()
    try:
        ending.join(5)
        assert not ending.is_alive()
    finally:
        answered.set()
        ending.join()
