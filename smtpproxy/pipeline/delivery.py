"""Putting a decided message to the upstream, the record first."""

from collections.abc import Iterable, Sequence

from smtpproxy.events import Decided, Failed, Relayed, Stage
from smtpproxy.mail.dsn import Envelope, RefusedRecipient, failure_notice
from smtpproxy.mail.eight_bit import EIGHT_BIT, UTF8
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.relay.errors import UpstreamError
from smtpproxy.relay.transaction import MailParameters, UpstreamTransaction
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.wire.commands import Rcpt
from smtpproxy.wire.content import stuffed


async def deliver(
    parts: Parts,
    upstream: UpstreamTransaction,
    decided: Decided,
    content: Iterable[bytes],
    seconds: dict[Stage, float],
    *,
    recorded: bool = False,
) -> Reply:
    """Record the decision while the upstream answers DATA, then send the content.

    `content` is dot-stuffed. Returns the upstream's reply. Raises UpstreamError, and
    AuditUnavailable when there is no record: then the upstream got no end of data.
    """
    start = parts.ticks()
    upstream.begin_data()
    if not recorded:
        try:
            await put_on_record(parts, decided)
        except AuditUnavailable:
            upstream.abort()
            raise
    committed = parts.ticks()
    spend(seconds, "audit", committed - start)
    try:
        reply = await upstream.data_refusal()
        if reply is None:
            reply = await upstream.finish(content)
    except UpstreamError as error:
        note_outcome(parts, decided, error.reply, len(upstream.accepted))
        raise
    spend(seconds, "upstream", parts.ticks() - committed)
    note_outcome(parts, decided, reply, len(upstream.accepted))
    return reply


async def put_on_record(parts: Parts, decided: Decided) -> None:
    """Record a decision that is about to be carried out, and tell of it.

    Raises AuditUnavailable, but for what is only observed.
    """
    try:
        await parts.audit.commit(decided)
    except AuditUnavailable as error:
        if not decided.observed:
            raise
        parts.emit(Failed(decided.client.listener, "audit", f"observed: {error}"))
    parts.emit(decided)


def note_outcome(
    parts: Parts, decided: Decided, reply: Reply, recipients: int, each: tuple[str, ...] = ()
) -> None:
    """Add the client's answer to the record of what was to be relayed.

    `each` are the upstream's own replies where each recipient had a message of his own.
    """
    relayed = Relayed(
        id=decided.id,
        listener=decided.client.listener,
        stream=decided.decision.stream.name,
        code=reply.code,
        reply=str(reply),
        size=decided.size,
        recipients=recipients,
        each=each,
    )
    parts.audit.outcome(relayed)
    parts.emit(relayed)


async def narrowed(parts: Parts, mail: MailParameters, keep: Sequence[Rcpt]) -> UpstreamTransaction:
    """Begin anew with some of the recipients that the upstream has accepted before.

    Raises UpstreamError unless it accepts every one of them again.
    """
    upstream = UpstreamTransaction(parts.upstream, mail)
    replies = await upstream.recipients(keep)
    refused = [reply.code for reply in replies if reply.code >= 300]
    if refused:
        upstream.abort()
        raise UpstreamError(f"a recipient accepted before is refused now: {refused[0]}")
    return upstream


async def notify(
    parts: Parts,
    decided: Decided,
    refused: Sequence[RefusedRecipient],
    header: bytes,
    envid: str | None = None,
) -> None:
    """Hand a notice about refused recipients to the upstream, for the reverse path.

    Raises UpstreamError unless the upstream takes the responsibility for it.
    """
    envelope = Envelope(parts.hostname, decided.id, decided.at, decided.reverse_path, envid)
    await hand_over(parts, envelope, failure_notice(envelope, refused, header))


async def hand_over(parts: Parts, envelope: Envelope, notice: bytes) -> None:
    """Put a notice to the upstream, from the null path and asking for none about itself.

    Raises UpstreamError.
    """
    sender = envelope.reverse_path
    unicode = not sender.isascii() or b"message/global" in notice
    eight_bit = not notice.isascii()
    needs = frozenset({EIGHT_BIT} if eight_bit else ()) | frozenset({UTF8} if unicode else ())
    upstream = await narrowed(
        parts,
        MailParameters("", len(notice), eight_bit=eight_bit, utf8=unicode, needs=needs),
        [Rcpt(sender, notify="NEVER")],  # RFC 3461 6.1
    )
    upstream.begin_data()
    reply = await upstream.data_refusal() or await upstream.finish([stuffed(notice)])
    if reply.code >= 300:
        raise UpstreamError(f"notice to the sender not taken: {reply.code}")
