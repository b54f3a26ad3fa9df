"""A relay as written in an afternoon: aiosmtpd in front, aiosmtplib behind.

It has one upstream connection per client session and holds whole messages in memory.

    python -m benchmarks.peers.plain LISTEN_PORT UPSTREAM_PORT
"""

import asyncio
import contextlib
import sys
from weakref import WeakKeyDictionary

import aiosmtplib
from aiosmtpd.smtp import SMTP, Envelope, Session

LOOPBACK = "127.0.0.1"


class Relay:
    """aiosmtpd's handler."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._clients: WeakKeyDictionary[Session, aiosmtplib.SMTP] = WeakKeyDictionary()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        client = self._clients.get(session)
        if client is None or not client.is_connected:
            client = aiosmtplib.SMTP(hostname=LOOPBACK, port=self._upstream_port, start_tls=False)
            await client.connect()
            self._clients[session] = client
        try:
            _, text = await client.sendmail(
                envelope.mail_from or "", envelope.rcpt_tos, envelope.original_content or b""
            )
        except aiosmtplib.SMTPException as error:
            return f"451 4.3.0 {error}"
        return f"250 {text}"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        client = self._clients.pop(session, None)
        if client is not None:
            with contextlib.suppress(aiosmtplib.SMTPException):
                await client.quit()
        return "221 2.0.0 bye"


async def main(port: int, upstream_port: int) -> None:
    loop = asyncio.get_running_loop()
    handler = Relay(upstream_port)
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="plain.example", loop=loop), LOOPBACK, port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
