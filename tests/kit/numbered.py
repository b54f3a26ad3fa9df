"""A load of numbered messages, so that each can be accounted for."""

import contextlib
import itertools
import re
import smtplib
import threading
import time
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from tests.kit.messages import message
from tests.kit.ports import LOOPBACK, wait_for

Reached = Literal["nothing", "connect", "mail", "rcpt", "data"]
"""The last step with a positive reply before the decisive one."""

_NUMBER = re.compile(rb"^Message-ID: <(\d+)\.numbered@shop\.example>", re.MULTILINE)


class Fate(Struct, frozen=True):
    """The result for one message, as its sender saw it. `code` is None without a reply."""

    number: int
    reached: Reached
    code: int | None
    text: str

    @property
    def accepted(self) -> bool:
        return self.reached == "data" and self.code == 250


def numbered(number: int) -> bytes:
    """A receipt with its number in the Message-ID."""
    return message(message_id=f"<{number}.numbered@shop.example>", stream="receipts")


def number_of(mail: bytes | str) -> int:
    """The number in a message, or in a bare Message-ID."""
    text = mail if isinstance(mail, bytes) else b"Message-ID: " + mail.encode()
    found = _NUMBER.search(text)
    assert found is not None, f"no numbered message: {text[:300]!r}"
    return int(found[1])


class NumberedLoad:
    """Sends messages 1, 2, 3 … over several sessions at once, without retries.

    A session reconnects when it loses its connection, and pauses between
    messages, so that an outage does not use them all up. It ends by itself after
    `messages`, or at `stop()`.
    """

    def __init__(
        self,
        port: int,
        *,
        messages: int = 5_000,
        sessions: int = 8,
        pause: float = 0.004,
        make: Callable[[int], bytes] = numbered,
        sender: str = "orders@shop.example",
        recipient: str = "jeanne@people.example",
    ) -> None:
        self.fates: list[Fate] = []
        self._port = port
        self._messages = messages
        self._pause = pause
        self._make = make
        self._sender = sender
        self._recipient = recipient
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(sessions)]

    def __enter__(self) -> "NumberedLoad":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self, timeout: float = 60.0) -> list[Fate]:
        """Let every session finish its message; return all fates."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout)
            assert not thread.is_alive(), "a session of the load hangs"
        return self.fates

    def finish(self, timeout: float = 120.0) -> list[Fate]:
        """Wait until all messages were sent; return all fates."""
        for thread in self._threads:
            thread.join(timeout)
        return self.stop()

    @property
    def accepted(self) -> set[int]:
        """The numbers of the messages that were answered 250."""
        return {fate.number for fate in list(self.fates) if fate.accepted}

    def wait_accepted(self, count: int, timeout: float = 60.0) -> None:
        """Wait until `count` more messages were answered 250."""
        self._wait_for(count, True, timeout)

    def wait_not_accepted(self, count: int, timeout: float = 60.0) -> None:
        """Wait until `count` more messages were not answered 250."""
        self._wait_for(count, False, timeout)

    def _wait_for(self, count: int, accepted: bool, timeout: float) -> None:
        start = len(self.fates)
        wait_for(
            lambda: sum(fate.accepted is accepted for fate in self.fates[start:]) >= count,
            f"{count} messages with accepted={accepted}; last: {self.fates[-3:]}",
            timeout=timeout,
        )

    def _run(self) -> None:
        client: smtplib.SMTP | None = None
        while not self._stopping.is_set() and (number := next(self._numbers)) <= self._messages:
            fate, client = self._send(client, number)
            self.fates.append(fate)
            time.sleep(self._pause)
        if client is not None:
            with contextlib.suppress(smtplib.SMTPException, OSError):
                client.quit()

    def _send(self, client: smtplib.SMTP | None, number: int) -> tuple[Fate, smtplib.SMTP | None]:
        """Send one message; return its result, and the connection if it is still usable."""
        reached: Reached = "nothing"
        try:
            if client is None:
                client = smtplib.SMTP(LOOPBACK, self._port, "client.example", timeout=60)
                client.ehlo()
            reached = "connect"
            code, text = client.mail(self._sender)
            if code == 250:
                reached = "mail"
                code, text = client.rcpt(self._recipient)
            if code == 250:
                reached = "rcpt"
                code, text = client.data(self._make(number))
                if code == 250:
                    reached = "data"
            if code == 421:
                client.close()
                return Fate(number, reached, code, text.decode(errors="replace")), None
            if reached in ("mail", "rcpt"):
                client.rset()
            return Fate(number, reached, code, text.decode(errors="replace")), client
        except smtplib.SMTPResponseException as error:  # refused greeting, or refused DATA
            if client is not None:
                client.close()
            return Fate(number, reached, error.smtp_code, str(error.smtp_error)), None
        except (smtplib.SMTPException, OSError) as error:
            if client is not None:
                client.close()
            return Fate(number, reached, None, f"{type(error).__name__}: {error}"), None
