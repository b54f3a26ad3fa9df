"""The service extensions: one row for each line of the reply to EHLO (RFC 5321 4.1.1.1).

A new extension is a row here, its verbs are rows in `verbs`, its parameters of MAIL and
RCPT stand in `commands`.
"""

from collections.abc import Sequence

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import Hello
from smtpproxy.wire.session import Extension, SessionState

BASE: tuple[Extension, ...] = (
    Extension("PIPELINING"),
    Extension("SIZE", lambda session: str(session.size_limit)),
    Extension("8BITMIME"),
    Extension("SMTPUTF8"),
    Extension("ENHANCEDSTATUSCODES"),
    Extension("DSN"),
    Extension("CHUNKING"),
    Extension("LIMITS", lambda session: f"RCPTMAX={session.max_recipients}"),
)
"""What every listener offers."""

PRDR = Extension("PRDR")
"""Per-recipient replies over SMTP (draft-hall-prdr); LMTP has them anyway."""

STARTTLS = Extension("STARTTLS", lambda session: None if session.secure else "")


def auth(mechanisms: Sequence[str], *, without_tls: bool = False) -> Extension:
    """AUTH with these mechanisms, told only inside TLS unless `without_tls` (RFC 4954)."""
    words = " ".join(mechanisms)
    return Extension("AUTH", lambda session: words if session.secure or without_tls else None)


def hello_reply(session: SessionState, hostname: str, hello: Hello) -> Reply:
    """The reply to EHLO (with the extensions) or HELO."""
    greeting = f"{hostname} greets {hello.domain.encode('ascii', 'replace').decode()}"
    if not hello.extended:
        return Reply(250, None, (greeting,))
    lines = (extension.line(session) for extension in session.extensions)
    return Reply(250, None, (greeting, *(line for line in lines if line is not None)))
