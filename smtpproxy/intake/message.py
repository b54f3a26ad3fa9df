"""What an SMTP session does for one message: begin it, time it, answer it."""

from collections.abc import Sequence

from smtpproxy.auth.authenticator import network_of
from smtpproxy.core.relaying import RelayTransaction
from smtpproxy.intake import replies
from smtpproxy.intake.door import Door
from smtpproxy.intake.identity import Identity
from smtpproxy.mail.reply import Reply
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.settings import ListenerSettings
from smtpproxy.wire.commands import Mail
from smtpproxy.wire.server import ServerConnection

_UNHURRIED = 60.0
"""Seconds of content that count for no rate: an app may make its message while it sends it."""


def begin(door: Door, client: Identity, mail: Mail, engine: ServerConnection) -> RelayTransaction:
    """Begin the transaction of a MAIL that was answered."""
    return RelayTransaction(
        door.services,
        client.record,
        MailParameters(
            mail.reverse_path,
            mail.size,
            mail.body == "8BITMIME",
            mail.smtputf8,
            mail.ret,
            mail.envid,
            client.told,
            client.in_its_place,
            owner=network_of(client.address),
        ),
        client.choice(mail.reverse_path),
        client.protocol(extended=engine.extended, smtputf8=mail.smtputf8, lmtp=engine.lmtp),
        "each" if engine.lmtp or mail.prdr else None,
    )


def patience(settings: ListenerSettings, size: int) -> float:
    """How many seconds content may take of which `size` octets have come."""
    rate, most = settings.min_data_rate, settings.data_timeout
    return min(_UNHURRIED + size / rate, most) if rate else most


def final(engine: ServerConnection, answers: Sequence[Reply], mail: Mail | None) -> bytes:
    """The answer to the end of content, from a reply for each recipient."""
    if engine.lmtp:
        return engine.answer_each(answers)
    if mail is not None and mail.prdr:
        return engine.answer_each(answers, final=replies.for_all(answers))
    return engine.answer(answers[0])
