"""The MTA behind the demo's relay: takes everything, keeps it in memory, delivers nothing."""

import asyncio
import socket
import threading
from dataclasses import dataclass

from aiosmtpd.smtp import SMTP, Envelope, Session

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Captured:
    """One message as it arrived."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


class CaptureMta:
    """aiosmtpd, another author's server, in a thread; `with` starts and ends it."""

    def __init__(self) -> None:
        self.messages: list[Captured] = []
        self._socket = socket.create_server((LOOPBACK, 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="capture-mta", daemon=True)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._socket.getsockname()[1]}"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the message; aiosmtpd calls this at the end of data."""
        content = envelope.original_content
        assert content is not None  # always set at the end of data
        self.messages.append(Captured(envelope.mail_from or "", tuple(envelope.rcpt_tos), content))
        return f"250 2.0.0 kept as {len(self.messages)}"

    def __enter__(self) -> "CaptureMta":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._loop.create_server(self._session, sock=self._socket))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _session(self) -> SMTP:
        return SMTP(self, hostname="mta.example", enable_SMTPUTF8=True, loop=self._loop)
