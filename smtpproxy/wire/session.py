"""What a server knows of one SMTP session, for the verbs and extensions to look at."""

from collections.abc import Callable, Sequence
from enum import Enum, auto

from msgspec import Struct

from smtpproxy.mail.reply import Reply

NO_TLS = Reply.of(530, "5.7.0", "this listener takes mail over TLS only; send STARTTLS first")
NO_AUTH = Reply.of(530, "5.7.0", "authentication required; send AUTH first")


def _bare(session: "SessionState") -> str:
    return ""


class Extension(Struct, frozen=True):
    """What EHLO says of it: `parameters` behind the keyword, None when not offered now."""

    keyword: str
    parameters: Callable[["SessionState"], str | None] = _bare

    def line(self, session: "SessionState") -> str | None:
        parameters = self.parameters(session)
        return f"{self.keyword} {parameters}" if parameters else _only(self.keyword, parameters)


def _only(keyword: str, parameters: str | None) -> str | None:
    return None if parameters is None else keyword


class State(Enum):
    START = auto()  # no greeting from the client yet
    READY = auto()  # no transaction
    MAIL = auto()  # MAIL accepted
    CONTENT = auto()  # 354 sent
    CHUNK = auto()  # the octets behind a BDAT
    CHUNKS = auto()  # between two BDAT
    AUTH = auto()  # 334 sent: the next line is no command
    CLOSED = auto()  # QUIT answered, or the client broke the framing


_TRANSACTION = frozenset({State.MAIL, State.CONTENT, State.CHUNK, State.CHUNKS})


class SessionState:
    """The state of a session. `extensions` is what EHLO offers, in this order.

    `require_tls` and `require_auth` bar MAIL until there is such a thing; `barred` is the
    refusal that stands meanwhile.
    """

    def __init__(
        self,
        extensions: Sequence[Extension],
        *,
        size_limit: int,
        max_recipients: int,
        max_refused: int = 1_000,
        max_refused_in_all: int = 10_000,
        require_tls: bool = False,
        require_auth: bool = False,
    ) -> None:
        self.state = State.START
        self.extended = False  # greeted by EHLO
        self.smtputf8 = False  # of the transaction
        self.extensions = extensions
        self.keywords = frozenset(extension.keyword for extension in extensions)
        self.size_limit = size_limit
        self.max_recipients = max_recipients
        self.max_refused = max_refused  # recipients of one transaction
        self.max_refused_in_all = max_refused_in_all
        self.recipients = 0  # of the transaction: accepted, or not answered yet
        self.unanswered = 0  # of these
        self.refused = 0  # of the transaction
        self.refused_in_all = 0
        self.secure = False
        self.authenticated = False
        self._require_tls = require_tls
        self._require_auth = require_auth
        self.barred = self._bar()

    @property
    def in_transaction(self) -> bool:
        return self.state in _TRANSACTION

    def offer(self, *extensions: Extension) -> None:
        """Offer more, to this client alone."""
        self.extensions = (*self.extensions, *extensions)
        self.keywords |= {extension.keyword for extension in extensions}

    def begin_anew(self, login: str | None = None) -> None:
        """The client is another one from now on: it has to greet first.

        `login`: as whom it has authenticated where it came in, empty if it has not; None: as
        before.
        """
        self.state = State.START
        self.extended = False
        if login is not None:
            self.authenticated = bool(login)
            self.barred = self._bar()

    def offers(self, keyword: str) -> bool:
        """Whether the listener has the extension, be it now or in another state."""
        return keyword in self.keywords

    def now_secure(self, *, authenticated: bool = False) -> None:
        """The session is inside TLS: it begins anew (RFC 3207 4.2).

        `authenticated`: the client's certificate says who it is.
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
        if self._require_tls and not self.secure:
            return NO_TLS.encode()
        if self._require_auth and not self.authenticated:
            return NO_AUTH.encode()
        return None
