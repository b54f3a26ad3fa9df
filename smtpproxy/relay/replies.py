"""The client's replies made from the upstream's, and those for mail that the upstream cannot
take."""

from smtpproxy.mail.reply import Reply
from smtpproxy.relay.connection import UpstreamError, UpstreamLost

NO_ADDRESS = Reply.of(550, "5.6.7", "the next mail server does not take SMTPUTF8")
NO_UTF8 = Reply.of(554, "5.6.9", "the next mail server does not take UTF-8 in header fields")
NO_EIGHT_BIT = Reply.of(554, "5.6.3", "the next mail server does not take 8-bit content")


def mirrored(reply: Reply) -> Reply:
    """The client's reply: the upstream's, with an enhanced code if it had none (RFC 2034).

    A reply that does not answer the command is an internal failure, never the client's success.
    """
    if reply.code == 421:
        return UpstreamLost.reply
    if reply.enhanced is not None:
        return reply
    kind = reply.code // 100
    return UpstreamError.reply if kind == 3 else Reply.of(reply.code, f"{kind}.0.0", *reply.lines)
