"""One SMTP session: what a server knows about it, what it offers, and the events for its caller.

A new service extension is a row here; its verbs are rows in `verbs`, its parameters of MAIL and
RCPT are in `commands`.
"""

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum, auto
from functools import cached_property, lru_cache
from typing import Literal

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import (
    Auth,
    AuthResponse,
    Data,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Reset,
    StartTls,
    XClient,
    XForward,
)

NO_TLS = Reply.of(530, "5.7.0", "this listener takes mail over TLS only; send STARTTLS first")
NO_AUTH = Reply.of(530, "5.7.0", "authentication required; send AUTH first")


class EhloContext(Struct, frozen=True):
    """The part of a session that the reply to EHLO depends on."""

    size_limit: int
    max_recipients: int
    secure: bool


def _bare(context: EhloContext) -> str:
    return ""


class Extension(Struct, frozen=True):
    """A service extension: `parameters` returns what follows its keyword; None: not offered."""

    keyword: str
    parameters: Callable[[EhloContext], str | None] = _bare


class State(IntEnum):
    START = auto()  # no greeting from the client yet
    READY = auto()  # no transaction
    MAIL = auto()  # MAIL accepted
    CONTENT = auto()  # 354 sent
    CHUNK = auto()  # the octets after a BDAT
    CHUNKS = auto()  # between two BDAT
    AUTH = auto()  # 334 sent: the next line is not a command
    OUT_OF_STEP = auto()  # content has come, although DATA was refused
    CLOSED = auto()  # QUIT answered, or the client broke the framing


@lru_cache(maxsize=64)
def _offered(extensions: tuple[Extension, ...], context: EhloContext) -> bytes:
    """The reply to EHLO after its first line. Most sessions of a listener get the same."""
    each = [(extension.keyword, extension.parameters(context)) for extension in extensions]
    texts = [f"{word} {more}".rstrip().encode() for word, more in each if more is not None]
    return Reply.with_texts(250, None, texts).wire if texts else b""


BASE: tuple[Extension, ...] = (
    Extension("PIPELINING"),
    Extension("SIZE", lambda context: str(context.size_limit)),
    Extension("8BITMIME"),
    Extension("SMTPUTF8"),
    Extension("ENHANCEDSTATUSCODES"),
    Extension("DSN"),
    Extension("CHUNKING"),
    Extension("LIMITS", lambda context: f"RCPTMAX={context.max_recipients}"),
)
"""What every listener offers."""

PRDR = Extension("PRDR")
"""Per-recipient replies over SMTP (draft-hall-prdr); LMTP has them anyway."""

STARTTLS = Extension("STARTTLS", lambda context: None if context.secure else "")


def auth(mechanisms: Sequence[str], *, without_tls: bool = False) -> Extension:
    """AUTH with these mechanisms, offered only inside TLS unless `without_tls` (RFC 4954)."""
    words = " ".join(mechanisms)
    return Extension("AUTH", lambda context: words if context.secure or without_tls else None)


BareNewline = Literal["reject", "normalize"]


class HeaderLimits(Struct, frozen=True):
    """How many octets a header section may have before its empty line, and how many fields."""

    size: int = 256 * 1024
    fields: int = 1000


_HEADER_LIMITS = HeaderLimits()


class Terms(Struct, frozen=True, kw_only=True, dict=True):
    """What the sessions of one listener have in common."""

    hostname: str
    size_limit: int
    header_limits: HeaderLimits = _HEADER_LIMITS
    bare_newline: BareNewline = "reject"
    max_recipients: int = 1000
    max_refused: int = 1000  # recipients of one transaction
    max_refused_in_all: int = 10_000
    extensions: tuple[Extension, ...] = BASE  # in the order in which EHLO offers them
    require_tls: bool = False
    require_auth: bool = False
    lmtp: bool = False
    refuse_early: bool = False  # refuse a client that does not wait where it has to

    @cached_property
    def greeting(self) -> bytes:
        """The reply that opens a session."""
        return f"220 {self.hostname} {'LMTP' if self.lmtp else 'ESMTP'} smtpproxy\r\n".encode()

    @cached_property
    def keywords(self) -> frozenset[str]:
        return frozenset(extension.keyword for extension in self.extensions)


_TRANSACTION = frozenset({State.MAIL, State.CONTENT, State.CHUNK, State.CHUNKS})


class SessionState:
    """The state of a session. `barred` refuses MAIL while required TLS or AUTH is missing."""

    __slots__ = (
        *("authenticated", "barred", "extended", "extensions", "keywords", "recipients"),
        *("refusal", "refused", "refused_in_all", "secure", "terms", "smtputf8", "state"),
        *("unanswered",),
    )

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.state = State.START
        self.extended = False  # greeted by EHLO
        self.smtputf8 = False  # of the transaction
        self.extensions = terms.extensions
        self.keywords = terms.keywords
        self.recipients = 0  # of the transaction, accepted or unanswered
        self.unanswered = 0  # how many of these
        self.refused = 0  # of the transaction
        self.refusal = b""  # the reply to one of these, or to a RCPT that could not be read
        self.refused_in_all = 0
        self.secure = False
        self.authenticated = False
        self.barred = self._bar()

    @property
    def ehlo_context(self) -> EhloContext:
        return EhloContext(self.terms.size_limit, self.terms.max_recipients, self.secure)

    @property
    def in_transaction(self) -> bool:
        return self.state in _TRANSACTION

    def offer(self, *extensions: Extension) -> None:
        """Offer more extensions to this client."""
        self.extensions = (*self.extensions, *extensions)
        self.keywords |= {extension.keyword for extension in extensions}

    def recipient_refused(self, reply: bytes) -> None:
        """Keep the reply for clients that look only at the one to DATA: the first, or the first
        temporary one, which makes the client try again."""
        if not self.refusal or self.refusal[:1] > reply[:1]:
            self.refusal = reply

    def restart(self, login: str | None = None) -> None:
        """Start again with another client, which has to greet first.

        `login`: who it authenticated as at the trusted host, empty if it did not; None: unchanged.
        """
        self.state = State.START
        self.extended = False
        if login is not None:
            self.authenticated = bool(login)
            self.barred = self._bar()

    def hello_reply(self, hello: Hello) -> Reply:
        """The reply to EHLO (with the extensions) or HELO."""
        offered = _offered(self.extensions, self.ehlo_context) if hello.extended else b""
        domain = hello.domain.encode("ascii", "replace").decode()
        greeting = f"250{'-' if offered else ' '}{self.terms.hostname} greets {domain}\r\n"
        return Reply(250, None, greeting.encode() + offered)

    def offers(self, keyword: str) -> bool:
        """Whether the listener has the extension, now or in another state."""
        return keyword in self.keywords

    def now_secure(self, *, authenticated: bool = False) -> None:
        """Start again inside TLS (RFC 3207 4.2).

        `authenticated`: the client's certificate identifies it.
        """
        self.state = State.START
        self.extended = False
        self.secure = True
        self.authenticated = authenticated
        self.barred = self._bar()

    def now_authenticated(self) -> None:
        self.authenticated = True
        self.barred = self._bar()

    def _bar(self) -> bytes | None:
        if self.terms.require_tls and not self.secure:
            return NO_TLS.encode()
        if self.terms.require_auth and not self.authenticated:
            return NO_AUTH.encode()
        return None


class Signal(Enum):
    NEED_DATA = auto()
    BLOCKED = auto()  # answer the earlier events first


NEED_DATA = Signal.NEED_DATA
BLOCKED = Signal.BLOCKED


class ContentChunk(Struct, frozen=True):
    """A piece of the content, dot-stuffed as it came; it may end within a line."""

    data: bytes


class ContentBegins(Struct, frozen=True):
    """The first BDAT of a message: content follows. It needs no answer."""


class ContentProblem(Enum):
    """Why content was read but cannot be accepted."""

    TOO_LARGE = auto()
    HEADER_TOO_LARGE = auto()
    TOO_MANY_FIELDS = auto()
    NUL = auto()
    BARE_NEWLINE = auto()  # only in chunks: after DATA it ends the connection


class EndOfContent(Struct, frozen=True):
    """All content was read. `size` is in octets as received, without the terminator of DATA; `data`
    is the last piece, not sent as a ContentChunk."""

    size: int
    problem: ContentProblem | None = None
    data: bytes = b""


class Answered(Struct, frozen=True):
    """A command that the engine answered itself; send `data`."""

    data: bytes
    error: bool = False  # a client error, which DATA pipelined after refused recipients is not


class Broken(Struct, frozen=True):
    """The session cannot continue: send `data` and close the connection."""

    data: bytes
    cause: str  # bare_newline, line_too_long, pipelining, errors


Command = (
    Hello
    | Mail
    | Rcpt
    | Data
    | Reset
    | Quit
    | StartTls
    | Auth
    | AuthResponse
    | EndOfContent
    | XClient
    | XForward
)
Event = Command | ContentBegins | ContentChunk | Answered | Broken


def _breach(code: int, enhanced: str, text: str, cause: str) -> Broken:
    return Broken(Reply.of(code, enhanced, f"{text}; closing the connection").encode(), cause)


TOO_LONG = _breach(500, "5.5.2", "command line too long", "line_too_long")
OUT_OF_STEP = _breach(554, "5.5.0", "content was sent though DATA was refused", "pipelining")
BEHIND_STARTTLS = _breach(554, "5.5.0", "commands were sent after STARTTLS", "pipelining")
EARLY = _breach(554, "5.5.0", "input came before it was asked for", "pipelining")


def bare_newline_received(name: str) -> Broken:
    """`name` is <CR> or <LF>."""
    text = f"bare {name} received; lines must end with <CR><LF>"
    return _breach(521, "5.5.2", text, "bare_newline")
