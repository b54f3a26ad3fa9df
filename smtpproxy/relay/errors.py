"""What can go wrong towards the upstream: each error carries the client's reply."""

from smtpproxy.mail.reply import Reply


class UpstreamError(Exception):
    """Trouble with the upstream; the text is private, `reply` is for the client.

    Always temporary: the client keeps the message and tries again.
    """

    reply = Reply.of(451, "4.4.0", "the next mail server did not answer as it should; try later")


class SigningFailed(Exception):
    """A message that is to be signed cannot be; the text is private."""


class UpstreamUnreachable(UpstreamError):
    """No connection could be made."""

    reply = Reply.of(451, "4.4.1", "the next mail server cannot be reached; try later")


class UpstreamInsecure(UpstreamError):
    """There is no TLS with the upstream, or not with a certificate that is good for its name."""

    reply = Reply.of(451, "4.7.5", "no secure connection to the next mail server; try later")


class UpstreamLost(UpstreamError):
    """The connection ended in mid-transaction."""

    reply = Reply.of(451, "4.4.2", "connection to the next mail server lost; try later")


class UpstreamTimeout(UpstreamError):
    """No answer in time."""

    reply = Reply.of(451, "4.4.2", "the next mail server did not answer in time; try later")


class UpstreamBusy(UpstreamError):
    """All connections are in use, and none came free in time."""

    reply = Reply.of(451, "4.4.5", "too many messages under way; try later")


class UpstreamShareUsed(UpstreamBusy):
    """The client's own messages hold as many connections as one client may."""

    reply = Reply.of(451, "4.4.5", "too many messages of this client under way; try later")
