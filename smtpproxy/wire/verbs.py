"""The commands of SMTP: a table with a row for each verb, saying where it may come, how it is read
and what its answer changes.

A new verb is a function and a row in `VERBS`. The function gets the session and what follows the
verb, and returns a command for the caller, or `Answered` if there is nothing to ask; it raises
`CommandError` if something is wrong.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import (
    SIMPLE_MAIL,
    SIMPLE_RCPT,
    Auth,
    AuthResponse,
    CommandError,
    Data,
    Mail,
    Quit,
    Rcpt,
    Reset,
    StartTls,
    XClient,
    XForward,
    check_characters,
    no_argument,
    parse_auth,
    parse_hello,
    parse_mail,
    parse_rcpt,
    unknown,
)
from smtpproxy.wire.content import Chunk, bare_newline, read_bdat
from smtpproxy.wire.forwarding import read_xclient, read_xforward
from smtpproxy.wire.session import (
    Answered,
    Broken,
    Command,
    SessionState,
    State,
    bare_newline_received,
)

_READY, _MAIL = State.READY, State.MAIL  # an Enum's members are slow to look up

Read = Callable[[SessionState, str], Command | Answered | Chunk | Broken]


class Verb(Struct, frozen=True):
    """`refused` has the replies for the states in which it may not come."""

    read: Read
    refused: Mapping[State, Answered] = {}


def _refusal(text: str) -> Answered:
    return Answered(Reply.of(503, "5.5.1", text).encode(), error=True)


_HELLO_FIRST = _refusal("send EHLO first")
_LHLO_FIRST = _refusal("send LHLO first")
_IN_TRANSACTION = _refusal("not in a transaction; send RSET first")
_CHUNKING = _refusal("BDAT has begun; go on with BDAT, or send RSET")
_OPEN = _refusal("a transaction is open; send RSET first")
_NO_RECIPIENTS = Answered(Reply.of(554, "5.5.1", "no valid recipients").encode())
_NO_RECIPIENTS_LMTP = Answered(Reply.of(503, "5.5.1", "no valid recipients").encode())
TOO_MANY_RECIPIENTS = Answered(
    Reply.of(452, "4.5.3", "too many recipients; send the rest later").encode()
)
TOO_MANY_REFUSED = Answered(
    Reply.of(452, "4.5.3", "too many recipients were refused; send the rest later").encode()
)
_REFUSED_IN_ALL = Broken(
    Reply.of(421, "4.7.0", "too many recipients were refused; closing the connection").encode(),
    "errors",
)
NOOP = Answered(Reply.of(250, "2.0.0", "OK").encode())
_DATA, _RESET, _QUIT = Data(), Reset(), Quit()
_VRFY = Answered(Reply.of(252, "2.5.2", "cannot verify; send mail and it will be tried").encode())


def _rcpt(session: SessionState, argument: str) -> Command | Answered:
    if session.recipients >= session.terms.max_recipients:
        return TOO_MANY_RECIPIENTS
    if session.refused + session.unanswered >= session.terms.max_refused:
        return TOO_MANY_REFUSED  # sent once all before it are answered
    plain = SIMPLE_RCPT.fullmatch(argument)
    if plain is not None:
        return Rcpt(plain[1])
    return parse_rcpt(
        argument,
        extended=session.extended,
        smtputf8=session.smtputf8,
        offered=session.keywords,
    )


def _mail(session: SessionState, argument: str) -> Command | Answered | Broken:
    """MAIL after a refused recipient begins another transaction: clients in Ruby, Go and Perl give
    the message up, and send the next one without RSET."""
    if session.state is _MAIL and not session.refusal:
        return _OPEN
    if session.refused_in_all >= session.terms.max_refused_in_all:
        return _REFUSED_IN_ALL
    if session.barred is not None:
        return Answered(session.barred, error=True)
    return _plain_mail(argument) or parse_mail(
        argument,
        extended=session.extended,
        size_limit=session.terms.size_limit,
        offered=session.keywords,
    )


@lru_cache(maxsize=256)  # the messages of a campaign share it
def _plain_mail(argument: str) -> Mail | None:
    plain = SIMPLE_MAIL.fullmatch(argument)
    return None if plain is None else Mail(plain[1])


def _data(session: SessionState, argument: str) -> Command | Answered:
    no_argument("DATA", argument)
    if session.recipients:
        return _DATA
    return Answered(session.refusal) if session.refusal else _NO_RECIPIENTS


def _ehlo(session: SessionState, argument: str) -> Command | Answered:
    return parse_hello("EHLO", argument)


def _lhlo(session: SessionState, argument: str) -> Command | Answered:
    return parse_hello("LHLO", argument)


def _helo(session: SessionState, argument: str) -> Command | Answered:
    return parse_hello("HELO", argument)


def _rset(session: SessionState, argument: str) -> Command | Answered:
    no_argument("RSET", argument)
    return _RESET


def _quit(session: SessionState, argument: str) -> Command | Answered:
    no_argument("QUIT", argument)
    return _QUIT


def _starttls(session: SessionState, argument: str) -> Command | Answered:
    """RFC 3207. The engine checks that nothing follows it in the same packet."""
    if not session.offers("STARTTLS"):
        return _not_here(session, "STARTTLS")
    no_argument("STARTTLS", argument)
    if session.secure:
        raise CommandError(503, "5.5.1", "TLS is already active")
    return StartTls()


def _auth(session: SessionState, argument: str) -> Command | Answered:
    """RFC 4954, section 4."""
    offer = next((each for each in session.extensions if each.keyword == "AUTH"), None)
    if offer is None:
        return _not_here(session, "AUTH")
    if session.authenticated:
        raise CommandError(503, "5.5.1", "already authenticated")
    mechanisms = offer.parameters(session.ehlo_context)
    if mechanisms is None:
        raise CommandError(538, "5.7.11", "encryption required for authentication; use TLS")
    return parse_auth(argument, mechanisms.split(" "))


def _noop(session: SessionState, argument: str) -> Command | Answered:
    return NOOP


def _vrfy(session: SessionState, argument: str) -> Command | Answered:
    if not argument.strip():
        raise CommandError(501, "5.5.4", "syntax: VRFY address")
    return _VRFY


def _help(session: SessionState, argument: str) -> Command | Answered:
    return _known_verbs(session, *VERBS)


def _known_verbs(session: SessionState, *names: str) -> Answered:
    known = [name for name in names if name not in _ABSENT]
    known = [name for name in known if name not in _OFFERED or session.offers(name)]
    return Answered(Reply.of(214, "2.0.0", " ".join(known), "see RFC 5321").encode())


def _not_here(session: SessionState, verb: str) -> Command | Answered:
    raise CommandError(502, "5.5.1", f"{verb} is not implemented here")


def _absent(verb: str) -> Verb:
    return Verb(lambda session, argument: _not_here(session, verb))


_BETWEEN_TRANSACTIONS = {
    State.START: _HELLO_FIRST,
    State.MAIL: _IN_TRANSACTION,
    State.CHUNKS: _IN_TRANSACTION,
}
_OUTSIDE_TRANSACTIONS = {State.MAIL: _IN_TRANSACTION, State.CHUNKS: _IN_TRANSACTION}
_OFFERED = ("STARTTLS", "AUTH", "XCLIENT", "XFORWARD")  # known only if EHLO offers them
_ABSENT = ("EXPN", "TURN", "ETRN")

VERBS: Mapping[str, Verb] = {
    "EHLO": Verb(_ehlo),
    "HELO": Verb(_helo),
    "MAIL": Verb(
        _mail,
        {
            State.START: _HELLO_FIRST,
            State.CHUNKS: _CHUNKING,
        },
    ),
    "RCPT": Verb(
        _rcpt,
        {
            State.START: _HELLO_FIRST,
            State.READY: _refusal("send MAIL first"),
            State.CHUNKS: _CHUNKING,
        },
    ),
    "DATA": Verb(
        _data,
        {
            State.START: _HELLO_FIRST,
            State.READY: _refusal("send MAIL and RCPT first"),
            State.CHUNKS: _CHUNKING,
        },
    ),
    "BDAT": Verb(read_bdat),
    "RSET": Verb(_rset),
    "NOOP": Verb(_noop),
    "VRFY": Verb(_vrfy),
    "HELP": Verb(_help),
    "QUIT": Verb(_quit),
    "STARTTLS": Verb(_starttls, _BETWEEN_TRANSACTIONS),
    "AUTH": Verb(_auth, _BETWEEN_TRANSACTIONS),
    "XCLIENT": Verb(read_xclient, _OUTSIDE_TRANSACTIONS),
    "XFORWARD": Verb(read_xforward, _BETWEEN_TRANSACTIONS),
    **{verb: _absent(verb) for verb in _ABSENT},
}
"""Every verb; it may come in any state that is not in `refused`."""


def _not_lmtp(session: SessionState, argument: str) -> Command | Answered:
    raise CommandError(500, "5.5.1", "this is LMTP; send LHLO")


def _lmtp_data(session: SessionState, argument: str) -> Command | Answered:
    """RFC 2033 4.2: without a recipient it must be 503."""
    command = _data(session, argument)
    return command if session.recipients else _NO_RECIPIENTS_LMTP


def _lmtp_help(session: SessionState, argument: str) -> Command | Answered:
    return _known_verbs(session, "LHLO", *(name for name in VERBS if name not in _GREETINGS))


def _after_lhlo(verb: Verb) -> Verb:
    refused = {
        state: _LHLO_FIRST if answer is _HELLO_FIRST else answer
        for state, answer in verb.refused.items()
    }
    return Verb(verb.read, refused)


_GREETINGS = ("EHLO", "HELO")

LMTP_VERBS: Mapping[str, Verb] = {
    **{name: _after_lhlo(verb) for name, verb in VERBS.items()},
    **{name: Verb(_not_lmtp) for name in _GREETINGS},
    "LHLO": Verb(_lhlo),
    "DATA": _after_lhlo(Verb(_lmtp_data, VERBS["DATA"].refused)),
    "HELP": Verb(_lmtp_help),
}
"""The verbs of LMTP, which has LHLO instead of EHLO and HELO (RFC 2033 4.1)."""


def _unknown(session: SessionState, argument: str) -> Command:
    raise unknown()


def _refusing(answer: Answered) -> Read:
    return lambda session, argument: answer


Commands = Mapping[State, Mapping[str, Read]]
"""How each verb is read, by state; states in which the input is not a command are missing."""
_WITHOUT_COMMANDS = frozenset(
    {State.CONTENT, State.CHUNK, State.AUTH, State.OUT_OF_STEP, State.CLOSED}
)


def _by_state(verbs: Mapping[str, Verb]) -> Commands:
    return {
        state: {}
        if state in _WITHOUT_COMMANDS
        else {
            name: _refusing(verb.refused[state]) if state in verb.refused else verb.read
            for name, verb in verbs.items()
        }
        for state in State
    }


SMTP_COMMANDS, LMTP_COMMANDS = _by_state(VERBS), _by_state(LMTP_VERBS)


def read_command(
    session: SessionState, commands: Mapping[str, Read], line: bytes
) -> Command | Answered | Chunk | Broken:
    """Read a line without its CRLF. If anything is wrong with it, the answer says so.

    `commands` are those of the session's state.
    """
    text = line.decode("utf-8", "surrogateescape")
    verb, _, argument = text.partition(" ")
    try:
        if not (text.isascii() and text.isprintable()):
            name = bare_newline(line)
            if name is not None:
                return bare_newline_received(name)
            check_characters(verb, text)
        read = commands.get(verb) or commands.get(verb.upper(), _unknown)
        return read(session, argument)
    except CommandError as error:
        return Answered(error.reply.encode(), error=True)


def _mail_answered(session: SessionState, mail: Mail, code: int) -> None:
    session.state = _MAIL if code < 400 else _READY
    session.smtputf8 = mail.smtputf8
    session.recipients = session.refused = 0
    session.refusal = b""


def _auth_answered(session: SessionState, command: Auth | AuthResponse, code: int) -> None:
    session.state = State.AUTH if code == 334 else State.READY
    if code < 300:
        session.now_authenticated()


def _xclient_answered(session: SessionState, command: XClient, code: int) -> None:
    if code < 400:
        session.restart(command.client.login)


def _xforward_answered(session: SessionState, command: XForward, code: int) -> None:
    """Nothing changes here: the caller keeps what XFORWARD said."""


def _quit_answered(session: SessionState, command: Quit, code: int) -> None:
    session.state = State.CLOSED


ANSWERED: Mapping[type, Callable[[SessionState, Any, int], None]] = {
    Mail: _mail_answered,
    Auth: _auth_answered,
    AuthResponse: _auth_answered,
    XClient: _xclient_answered,
    XForward: _xforward_answered,
    Quit: _quit_answered,
}
"""What the code of an answer changes, for commands that change only the session's state."""
