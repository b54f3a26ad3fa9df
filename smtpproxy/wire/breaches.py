"""What ends a connection: from there on nobody could tell commands from content."""

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.events import Broken


def _breach(code: int, enhanced: str, text: str, cause: str) -> Broken:
    return Broken(Reply.of(code, enhanced, f"{text}; closing the connection").encode(), cause)


TOO_LONG = _breach(500, "5.5.2", "command line too long", "line_too_long")
OUT_OF_STEP = _breach(554, "5.5.0", "content was sent though DATA was refused", "pipelining")
BEHIND_STARTTLS = _breach(554, "5.5.0", "commands were sent behind STARTTLS", "pipelining")
EARLY = _breach(554, "5.5.0", "input came before it was asked for", "pipelining")


def bare_newline_received(name: str) -> Broken:
    """`name` is <CR> or <LF>."""
    text = f"bare {name} received; lines must end with <CR><LF>"
    return _breach(521, "5.5.2", text, "bare_newline")
