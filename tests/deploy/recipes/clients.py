"""An app that sends through an MTA, and what came of it."""

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
    """A session from an address of the loopback network, greeted."""
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
    """The reply that decided: to the content, or the first that was not 2xx before."""
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
    """What Postfix has delivered that holds `about`, once there is that much of it."""

    def found() -> list[Delivered] | None:
        mails = [mail for mail in postfix.delivered() if about.encode() in mail.message]
        return mails if len(mails) >= count else None

    try:
        return wait_for(found, f"{count} of {about}", every=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{postfix.queued()}\n{postfix.log[-4000:]}") from None


def arrived(mta: FakeUpstream, about: str, count: int = 1) -> list[Accepted]:
    """What the MTA at the end has accepted that holds `about`, once there is that much."""

    def found() -> list[Accepted] | None:
        mails = [mail for mail in mta.messages if about.encode() in mail.data]
        return mails if len(mails) >= count else None

    return wait_for(found, f"{count} of {about}")
