"""The intakes' own replies, which are neither a verdict nor the upstream's."""

from collections.abc import Sequence

from smtpproxy.core.recording import BAD_ADDRESS
from smtpproxy.events import Limit
from smtpproxy.mail.address import PathError
from smtpproxy.mail.reply import Reply
from smtpproxy.wire.session import ContentProblem, HeaderLimits

FOR_SOME = Reply.of(250, "2.0.0", "accepted for some of the recipients")

AS_CLIENT = Reply.of(220, None, "continue as that client; greet first")
OK = Reply.of(250, "2.0.0", "OK")
SENDER_OK = Reply.of(250, "2.1.0", "sender noted")
GO_AHEAD = Reply.of(354, None, "end with <CR><LF>.<CR><LF>")
GO_SECURE = Reply.of(220, "2.0.0", "begin TLS")
RATE_LIMIT = Reply.of(450, "4.7.1", "rate limit; try again later")
TOO_MANY_REFUSED = Reply.of(452, "4.5.3", "too many recipients were refused; send the rest later")
SENDER_REFUSED = Reply.of(550, "5.7.1", "this client may not send from that address")
TOO_MANY_FAILURES = Reply.of(421, "4.7.0", "too many failures; closing the connection")
BYE = Reply.of(221, "2.0.0", "bye")
TOO_LARGE = Reply.of(552, "5.3.4", "message is larger than the limit announced by SIZE")
NUL = Reply.of(554, "5.6.0", "content contains a NUL octet")
NO_SPACE = Reply.of(452, "4.3.1", "no space for the message now; try later")
TIMEOUT = Reply.of(421, "4.4.2", "timeout; closing the connection")
REFUSED = {
    "limit": Reply.of(421, "4.3.2", "too many connections; try again later"),
    "address_limit": Reply.of(421, "4.3.2", "too many connections; try again later"),
    "files": Reply.of(421, "4.3.2", "too many connections; try again later"),
    "rate": Reply.of(421, "4.7.1", "rate limit: too many new connections; try again later"),
    "draining": Reply.of(421, "4.3.2", "the relay is shutting down; try again later"),
}
TOO_MANY_ERRORS = Reply.of(421, "4.7.0", "too many errors; closing the connection")
SHUTDOWN = Reply.of(421, "4.3.2", "the connection ends for a restart or reload; reconnect")
INTERNAL = Reply.of(421, "4.3.0", "temporary_failure; closing the connection")
BARE_NEWLINE = Reply.of(554, "5.6.0", "content contains a bare <CR> or <LF>")
LIMITED: dict[ContentProblem, Limit] = {
    ContentProblem.TOO_LARGE: "size",
    ContentProblem.HEADER_TOO_LARGE: "header_size",
    ContentProblem.TOO_MANY_FIELDS: "header_fields",
}
"""The limit that a content problem exceeds, if it is one."""


def content_problem(problem: ContentProblem, limits: HeaderLimits) -> Reply:
    """Return the reply to unacceptable content."""
    match problem:
        case ContentProblem.TOO_LARGE:
            return TOO_LARGE
        case ContentProblem.HEADER_TOO_LARGE:
            text = f"header section is larger than the limit of {limits.size} octets"
            return Reply.of(552, "5.3.4", text)
        case ContentProblem.TOO_MANY_FIELDS:
            text = f"header section has more fields than the limit of {limits.fields}"
            return Reply.of(554, "5.6.0", text)
        case ContentProblem.NUL:
            return NUL
        case ContentProblem.BARE_NEWLINE:
            return BARE_NEWLINE


def bad_recipient(error: PathError) -> Reply:
    """Return the reply that an MTA is to give to an unacceptable recipient path."""
    return BAD_ADDRESS if error.code == 501 else Reply.of(error.code, "5.1.3", str(error))


def bad_sender(error: PathError) -> Reply:
    """Return the reply that an MTA is to give to an unacceptable reverse path."""
    text = "sender address cannot be read" if error.code == 501 else str(error)
    return Reply.of(553, "5.1.7", text)


def for_all(answers: Sequence[Reply]) -> Reply:
    """Return the last reply of PRDR, for the message as a whole: permanent only if all are."""
    if len(set(answers)) == 1:
        return answers[0]
    if any(answer.code < 300 for answer in answers):
        return FOR_SOME
    return min(answers, key=lambda answer: answer.code)
