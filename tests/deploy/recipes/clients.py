"""An application that sends through an MTA, and what arrived."""

import contextlib
import smtplib
from collections.abc import Iterator, Sequence

from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.postfix import Delivered, PostfixInstance
from tests.kit.upstream import Accepted, FakeUpstream

SENDER = "news@shop.example"
ORDERS = "orders@shop.example"


@contextlib.contextmanager
def session(port: int, source: str = LOOPBACK) -> Iterator[smtplib.SMTP]:
    """An SMTP session, already greeted, from an address of the loopback network."""
    with smtplib.SMTP(LOOPBACK, port, timeout=60, source_address=(source, 0)) as client:
        client.ehlo("client.example")
        yield client


def send(
    client: smtplib.SMTP,
    mail: bytes,
    *recipients: str,
    sender: str = SENDER,
    options: Sequence[str] = (),
) -> tuple[int, str]:
    """The deciding reply: the one to the content, or the first before it that was not 2xx."""
    code, text = client.mail(sender, options)
    for recipient in recipients:
        if code < 400:
            code, text = client.rcpt(recipient)
    if code < 400:
        code, text = client.data(mail)
    if code >= 400:
        client.rset()
    return code, text.decode()


def delivered(postfix: PostfixInstance, about: str, count: int = 1) -> list[Delivered]:
    """The messages holding `about` that Postfix delivered, once there are that many."""

    def found() -> list[Delivered] | None:
        mails = [mail for mail in postfix.delivered() if about.encode() in mail.message]
        return mails if len(mails) >= count else None

    try:
        return wait_for(found, f"{count} of {about}", every=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{postfix.queued()}\n{postfix.log[-4000:]}") from None


def arrived(mta: FakeUpstream, about: str, count: int = 1) -> list[Accepted]:
    """The messages holding `about` that the last MTA accepted, once there are that many."""

    def found() -> list[Accepted] | None:
        mails = [mail for mail in mta.messages if about.encode() in mail.data]
        return mails if len(mails) >= count else None

    return wait_for(found, f"{count} of {about}")
