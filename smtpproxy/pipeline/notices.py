"""What the sender of a message is told outside of SMTP replies, after it was relayed."""

from collections.abc import Sequence

from smtpproxy.mail.dsn import Envelope, RefusedRecipient, relayed_notice, undelivered_notice
from smtpproxy.pipeline.delivery import hand_over
from smtpproxy.pipeline.judged import JudgedTransaction
from smtpproxy.pipeline.parts import Parts
from smtpproxy.relay.errors import UpstreamError
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.wire.commands import Rcpt


class Notices:
    """Hands notices about one message to the upstream."""

    def __init__(self, parts: Parts, judged: JudgedTransaction, mail: MailParameters) -> None:
        self._parts = parts
        self._judged = judged
        self._mail = mail

    async def relayed(self, accepted: Sequence[Rcpt], header: bytes) -> None:
        """Tell a sender that asked for it that an upstream without DSN has the mail.

        RFC 3461 5.2.2. The mail is accepted: a notice that cannot be sent is a log line.
        """
        told = [
            (rcpt.forward_path, rcpt.orcpt)
            for rcpt in accepted
            if rcpt.notify is not None and "SUCCESS" in rcpt.notify.upper()
        ]
        if not told or not self._mail.reverse_path:
            return
        envelope = self._about()
        try:
            await hand_over(self._parts, envelope, relayed_notice(envelope, told, header))
        except UpstreamError as error:
            self._judged.failed(error)

    async def undelivered(self, failed: Sequence[RefusedRecipient], header: bytes) -> None:
        """Tell the sender of recipients whom the upstream did not take the message for.

        Raises UpstreamError unless the upstream takes the responsibility for it.
        """
        envelope = self._about()
        await hand_over(self._parts, envelope, undelivered_notice(envelope, failed, header))

    def _about(self) -> Envelope:
        sender, envid = self._mail.reverse_path, self._mail.envid
        return Envelope(self._parts.hostname, self._judged.id, self._parts.now(), sender, envid)


def wants_no_notice(rcpt: Rcpt) -> bool:
    """Whether the sender asked not to be told of a failure (RFC 3461 4.1)."""
    return rcpt.notify is not None and "FAILURE" not in rcpt.notify.upper()
