"""Receives reports from the MTA by SMTP or LMTP, with aiosmtpd: one recipient per transaction, on
disk before the 250. Accepted reports are never answered and never return to the MTA as a bounce."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session, syntax

from smtpproxy.settings import FeedbackSettings
from smtpproxy.store.maildir import Maildir

_PIECE = 64 * 1024
"""Octets that are read at a time; no command is longer."""
_MAX_CONNECTIONS = 100
_WITHIN = 300.0  # seconds, for each command

_TAKEN = "250 2.0.0 taken"
_ONE = "452 4.5.3 one recipient in a transaction"
_TROUBLE = "451 4.3.0 temporary_failure"
_LARGE = "552 5.3.4 the report is larger than size_limit"
_BUSY = b"421 4.3.2 too many connections\r\n"

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Reports:
    """The handler for aiosmtpd."""

    maildir: Maildir
    new_id: Callable[[], str]
    arrived: Callable[[], None]
    failed: Callable[[], None]

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if envelope.rcpt_tos:
            return _ONE
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        sender, recipient = (envelope.mail_from or "").strip("<>"), envelope.rcpt_tos[0]
        trace = f"Return-Path: <{sender}>\r\nDelivered-To: {recipient}\r\n"
        head = trace.encode("utf-8", "surrogateescape")
        try:
            await asyncio.to_thread(self.maildir.deliver, self.new_id(), head + content)
        except OSError as error:
            log.error("report not taken", error=str(error))
            self.failed()
            return _TROUBLE
        self.arrived()
        return _TAKEN

    async def handle_exception(self, error: Exception) -> str:
        log.error("internal error", exc_info=error)
        return _TROUBLE


class Listener:
    """The listening socket and its connections."""

    def __init__(
        self,
        settings: FeedbackSettings,
        hostname: str,
        maildir: Maildir,
        *,
        new_id: Callable[[], str],
        arrived: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._hostname = hostname
        self._reports = _Reports(maildir, new_id, arrived, failed)
        self._connections: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None
        logging.getLogger("mail").setLevel(logging.CRITICAL)  # it logs commands, with addresses

    async def open(self, sock: Any) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=sock)

    def close(self) -> None:
        """Stop listening; the MTA still has every report without a 250."""
        if self._server is not None:
            self._server.close()
        for transport in list(self._connections):
            transport.abort()

    def _protocol(self) -> SMTP:
        kind = _Lmtp if self._settings.protocol == "lmtp" else _Bounded
        return kind(
            self._reports,
            data_size_limit=self._settings.size_limit,
            enable_SMTPUTF8=True,
            hostname=self._hostname,
            ident="feedback",
            timeout=_WITHIN,
            loop=asyncio.get_running_loop(),
            connections=self._connections,
        )


class _Bounded(SMTP):
    """Limits the number of connections to what fits into memory, and each to one report at a time.

    Lines may have any length: senders of reports write longer ones than RFC 5321 permits, and a
    permanent refusal here would lose the report.
    """

    line_length_limit = _PIECE

    def __init__(self, *given: Any, connections: set[asyncio.Transport], **named: Any) -> None:
        super().__init__(*given, **named)
        self._all = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._all) >= _MAX_CONNECTIONS:
            transport.write(_BUSY)
            transport.close()
            return
        self._all.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is None and self.session is None:
            return  # it was refused
        self._all.discard(self.transport)
        super().connection_lost(error)

    @syntax("DATA")
    async def smtp_DATA(self, arg: str | None) -> None:
        """Receive a message; aiosmtpd's own method answers 500 to a line longer than a piece, after
        storing all of it."""
        if await self.check_helo_needed():
            return
        if arg:
            await self.push("501 5.5.4 Syntax: DATA")
            return
        if self.envelope is None or not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 need RCPT command")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        content = await self._content()
        status = _LARGE
        if content is not None:
            self.envelope.content = self.envelope.original_content = content
            status = await self._call_handler_hook("DATA")
        self.envelope = Envelope()
        await self.push(status)

    async def _content(self) -> bytes | None:
        """Read a message to its end; return None if it is too large."""
        assert self.data_size_limit is not None
        kept, size, line_begins = bytearray(), 0, True
        while True:
            try:
                piece = await self._reader.readuntil(b"\r\n")
            except asyncio.LimitOverrunError as error:
                piece = await self._reader.read(error.consumed)  # never half of a line end
            if line_begins and piece == b".\r\n":
                return None if size > self.data_size_limit else bytes(kept)
            if line_begins:
                piece = piece.removeprefix(b".")  # RFC 5321 4.5.2
            line_begins = piece.endswith(b"\r\n")
            size += len(piece)
            if size > self.data_size_limit:
                kept.clear()
            else:
                kept += piece


class _Lmtp(_Bounded, LMTP):
    pass
