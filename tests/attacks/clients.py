"""Clients that pause between the steps of a transaction while a test changes something."""

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.kit.ports import LOOPBACK
from tests.kit.relay import STREAMS, listener

SENDER = "news@shop.example"


class Smtp(smtplib.SMTP):
    """An app."""

    accepted = 0

    def begin(self, *recipients: str, sender: str = SENDER) -> None:
        """MAIL and RCPT, each of which must be accepted."""
        self.ehlo("client.example")
        assert self.mail(sender)[0] == 250
        for recipient in recipients:
            code, text = self.rcpt(recipient)
            assert code == 250, text
        self.accepted = len(recipients)

    def end(self, content: bytes) -> list[tuple[int, str]]:
        """Send DATA and the whole content; return the replies to its end."""
        code, text = self.docmd("DATA")
        assert code == 354, text
        self.send(content + b".\r\n")
        return self.answers()

    def answers(self) -> list[tuple[int, str]]:
        """The replies to the end of the content: one, or over LMTP one for each recipient."""
        replies = [self.getreply() for _ in range(self._answers())]
        return [(code, text.decode()) for code, text in replies]

    def _answers(self) -> int:
        return 1


class Lmtp(Smtp, smtplib.LMTP):
    """A client of LMTP, which gets a reply for each recipient."""

    def _answers(self) -> int:
        return self.accepted


C = TypeVar("C", bound=Smtp)


@contextmanager
def submission(kind: type[C], port: int, *recipients: str, sender: str = SENDER) -> Iterator[C]:
    """A client whose recipients have been accepted."""
    with kind(LOOPBACK, port, timeout=60) as client:
        client.begin(*recipients, sender=sender)
        yield client


def adding(protocol: str = "smtp", **more: Any) -> dict[str, Any]:
    """A relay's configuration where each recipient of `offers` gets their own copy."""
    added = {"unsubscribe": "add", "unsubscribe_mailto": "stop@shop.example"}
    return {
        "stream": [{**STREAMS[0], **added}, *STREAMS[1:]],
        "web": {"public_url": "https://unsubscribe.shop.example"},
        "listener": [listener("apps", "offers", default="offers", protocol=protocol)],
        **more,
    }
