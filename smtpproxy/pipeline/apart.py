"""Relaying a message to several recipients as one message each, and answering for it.

`fan_out` does the relaying; here is what the client, the sender and the record are told.
"""

from collections.abc import Mapping, Sequence

from smtpproxy.events import Decided
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.delivery import note_outcome
from smtpproxy.pipeline.fan_out import Copy, Delivered, FanOut
from smtpproxy.pipeline.judged import Asked, JudgedTransaction
from smtpproxy.pipeline.notices import Notices
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.relay.errors import UpstreamError
from smtpproxy.relay.transaction import MailParameters

SEVERAL_UNTOLD = Reply.of(
    554,
    "5.5.4",
    "each recipient gets a message of his own here: without a sender, or with a NOTIFY that"
    " leaves FAILURE out, send one each",
)
"""Nobody could be told of a recipient that fails after another was mailed."""


class Apart:
    """Relays one decided and recorded message. Nothing of it is with the upstream yet."""

    def __init__(self, parts: Parts, judged: JudgedTransaction, mail: MailParameters) -> None:
        self._parts = parts
        self._judged = judged
        self._mail = mail
        self._notices = Notices(parts, judged, mail)

    async def relay(
        self, decided: Decided, copies: Mapping[Asked, Copy], header: bytes
    ) -> tuple[Reply, Mapping[Asked, Reply]]:
        """Return the one answer for all, and each recipient's own.

        Where the client cannot be told of each, a notice tells the sender of who was not
        mailed while another was.
        """
        parts, judged = self._parts, self._judged
        start = parts.ticks()
        became = await self._delivered(decided, copies)
        spend(judged.seconds, "upstream", parts.ticks() - start)
        taken = {entry for entry, outcome in became.items() if outcome.accepted}
        perhaps = {entry.key for entry, o in became.items() if o.accepted or o.in_doubt}
        not_mailed = {entry.key for entry in became} - perhaps
        if not_mailed:
            await judged.not_mailed(not_mailed)
        reply = one_reply(list(became.values()), judged.id)
        if judged.mixed != "each" and taken and len(taken) < len(became):
            reply = await self._after_notice(reply, copies, became, header)
        each = tuple(
            str(became[entry].reply) if entry in became else "" for entry in judged.accepted
        )
        note_outcome(parts, decided, reply, len(taken), each)
        if not all(outcome.notifies for outcome in became.values()):
            await self._notices.relayed([copies[entry].rcpt for entry in taken], header)
        return reply, {entry: outcome.reply for entry, outcome in became.items()}

    async def _delivered(
        self, decided: Decided, copies: Mapping[Asked, Copy]
    ) -> dict[Asked, Delivered]:
        """Whoever was named twice gets one message."""
        once = {entry.path: copy for entry, copy in copies.items()}
        fan_out = FanOut(
            self._parts.upstream,
            self._mail,
            emit=self._parts.emit,
            listener=decided.client.listener,
        )
        outcomes = dict(zip(once, await fan_out.deliver(list(once.values())), strict=True))
        return {entry: outcomes[entry.path] for entry in copies}

    async def _after_notice(
        self,
        reply: Reply,
        copies: Mapping[Asked, Copy],
        became: Mapping[Asked, Delivered],
        header: bytes,
    ) -> Reply:
        """Return the client's answer once the sender is told of who was not mailed.

        Where he cannot be told the client is to send again: rather twice than never.
        """
        failed = [
            RefusedRecipient(entry.path, outcome.reply, copies[entry].rcpt.orcpt)
            for entry, outcome in became.items()
            if not outcome.accepted
        ]
        try:
            await self._notices.undelivered(failed, header)
        except UpstreamError as error:
            return self._judged.failed(error)
        return reply


def one_reply(outcomes: Sequence[Delivered], id: str) -> Reply:
    """Return the client's answer where one has to serve all recipients.

    Once somebody was mailed it is 250: the client must not send to him again, and the
    sender is told of the others. Else it is temporary if any failure is.
    """
    taken = sum(outcome.accepted for outcome in outcomes)
    if taken:
        of_them = f"{taken}" if taken == len(outcomes) else f"{taken} of {len(outcomes)}"
        return Reply.of(250, "2.0.0", f"relayed to {of_them} recipients, a message each, id={id}")
    replies = [outcome.reply for outcome in outcomes]
    return next((reply for reply in replies if reply.code < 500), replies[0])
