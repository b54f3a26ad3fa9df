"""The log: structured lines on standard error, without addresses at info level.

An upstream's reply, a client's command, an exception's text: any of them may name a
recipient. Redacting too much is a nuisance, too little a breach: whatever may be an address goes.
"""

import fcntl
import logging
import os
import re
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, TextIO, cast

import structlog
from msgspec import Struct

from smtpproxy.events import (
    Authentication,
    ConnectionClosed,
    ConnectionRefused,
    Decided,
    Event,
    EventHandlers,
    Failed,
    FilesRead,
    Limited,
    ProxyHeaderRead,
    TlsHandshake,
)
from smtpproxy.policy.model import Action
from smtpproxy.settings import ServerSettings

_ALLOW = Action.ALLOW
ADDRESS, TOKEN = "[address]", "[secret]"

LONGEST = 1_000
"""Characters of one value; a traceback may have ten times as many."""

_AT = re.compile(
    r"[@\uff20\ufe6b]|&\#0*64;?|&\#x0*40;?|&commat;?|\\u0040|\\x40|\\100|[\[({]\ ?at\ ?[\])}]"
    r"|[%+=]40(?=\[|[a-z0-9_-]{1,63}\.[a-z0-9])",
    re.IGNORECASE,
)
"""The @ of an address, also as xtext, quoted-printable, URLs, HTML and source text write it."""

_ENDS = frozenset('<>,;"()[]{}|`')
_COMMENT = {")": "(", "]": "[", "}": "{"}

_SECRETS = re.compile(
    r"(/u/|\bbearer\s+|\bwhsec_|\bsubject=unsubscribe(?:%20|\s|\+)+|\bauth\s+[\w-]+\s+)"
    r"[^\s\"'<>()]+",
    re.IGNORECASE,
)
_ENCODED_WORD = re.compile(r"=\?[^?\s]{1,40}\?[bq]\?[^?\s]*(?:\?=)?", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_OF_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def redact(logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Redact all values of a line, except at debug. A processor of structlog."""
    if method == "debug":
        return event
    for name, value in event.items():
        if name == "exception":
            lines = redacted(str(value))[-10 * LONGEST :]
            event[name] = _CONTROL_OF_LINES.sub(_escaped, lines)
        else:
            event[name] = _loggable(value)
    return event


def redacted(text: str) -> str:
    """Return the text without addresses and secrets, in linear time."""
    text = _ENCODED_WORD.sub(ADDRESS, _SECRETS.sub(rf"\1{TOKEN}", text))
    parts, done = [], 0
    for at in _AT.finditer(text):
        if at.start() < done:  # it is part of the one before: a@b@c
            if at.end() > done:  # the `;` of `&#64;` ended that one
                done = _end(text, at.end())
            continue
        begin = _begin(text, at.start(), done)
        parts += [text[done:begin], ADDRESS]
        done = _end(text, at.end())
    return "".join([*parts, text[done:]])


def _begin(text: str, at: int, least: int) -> int:
    """Return where the local part in front of `at` begins."""
    begin = at
    while begin > least and text[begin - 1].isspace():
        begin -= 1
    if begin > least and text[begin - 1] in _COMMENT:
        found = text.rfind(_COMMENT[text[begin - 1]], least, begin)
        begin = begin - 1 if found < 0 else found
    if begin > least and text[begin - 1] == '"':
        found = begin - 1
        while (found := text.rfind('"', least, found)) > least and text[found - 1] == "\\":
            pass
        return max(found, least)
    while begin > least and text[begin - 1] not in _ENDS and not text[begin - 1].isspace():
        begin -= 1
    return begin


def _end(text: str, end: int) -> int:
    """Return where the domain that begins at `end` ends."""
    while end < len(text) and text[end].isspace():
        end += 1
    if text[end : end + 1] == "[":
        closing = text.find("]", end)
        return len(text) if closing < 0 else closing + 1
    while end < len(text) and text[end] not in _ENDS and not text[end].isspace():
        end += 1
    return end


def _loggable(value: Any) -> Any:
    """Return a value of any type as the log may show it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(_loggable(key)): _loggable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_loggable(each) for each in value]
    text = redacted(value if isinstance(value, str) else repr(value))
    if len(text) > LONGEST:  # not before: half an address cannot be recognised
        text = text[:LONGEST] + "…"
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


_TROUBLE: Mapping[type[Struct], tuple[str, ...]] = {
    Failed: ("failed", "part", "error"),
    ConnectionRefused: ("connection refused", "cause", "peer"),
    ConnectionClosed: ("connection ended", "cause", "peer"),
    Limited: ("limited", "limit", "peer"),
    ProxyHeaderRead: ("proxy header not accepted", "outcome", "peer", "detail"),
    TlsHandshake: ("tls handshake failed", "outcome", "peer", "detail"),
    Authentication: ("authentication failed", "outcome", "peer", "mechanism"),
}
"""An event's message, the field that names its kind of error, and the other fields logged."""

_EVERY = 1.0
"""Seconds between two lines about the same kind of error; those in between are counted."""

_NOTHING_WRONG = frozenset(
    {"quit", "eof", "error", "shutdown", "refused"} | {"ok", "local", "cancelled"}
)
"""Ends of connections not worth logging (`error` was logged with its cause), and outcomes of
clients that were let in."""


def configure_logging(settings: ServerSettings, *, process: str) -> None:
    """Set up structlog for this process."""
    renderer: Any = structlog.processors.JSONRenderer()
    if settings.log_format == "text":
        renderer = structlog.dev.ConsoleRenderer(colors=False)
    output = LogOutput()
    level = logging.getLevelName(settings.log_level.upper())
    structlog.configure(
        processors=[
            lambda logger, method, event: {"process": process, **event, **output.gap},
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, output)),
        cache_logger_on_first_use=True,
    )
    _take_over()


def _take_over() -> None:
    """Send what libraries and the interpreter report to the same log."""
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    log = structlog.get_logger()
    sys.excepthook = lambda kind, error, trace: log.critical("internal error", exc_info=error)
    threading.excepthook = lambda end: log.error("internal error", exc_info=end.exc_value or True)
    sys.unraisablehook = lambda end: log.error("internal error", exc_info=end.exc_value or True)


class _FromLibraries(logging.Handler):
    """Writes records of `logging` as lines of this log; a repeated one only once a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last, self._said_at, self._unsaid = ("", ""), -_EVERY, 0

    def emit(self, record: logging.LogRecord) -> None:
        said = record.name, record.getMessage()
        repeated, self._last, now = said == self._last, said, time.monotonic()
        if repeated and now - self._said_at < _EVERY:
            self._unsaid += 1
            return
        unsaid, self._unsaid = self._unsaid if repeated else 0, 0
        self._said_at = now
        error = record.exc_info[1] if record.exc_info else None
        structlog.get_logger().log(
            record.levelno,
            "library",
            logger=record.name,
            message=said[1],
            unsaid=unsaid,
            **({} if error is None else {"exc_info": error}),
        )


class Log:
    """The sink that writes what an operator should see. Call it, or the event's handler, with every
    event."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = structlog.get_logger()
        self._clock = clock
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        self.handlers: EventHandlers = {
            Decided: self._decided,
            FilesRead: self._files_read,
            **dict.fromkeys(_TROUBLE, self._trouble),
        }

    def __call__(self, event: Event) -> None:
        handle = self.handlers.get(type(event))
        if handle is not None:
            handle(event)

    def unexpected(self, error: Exception) -> None:
        """Log a fault of the program itself, with its traceback."""
        self._log.error("internal error", exc_info=error)

    def _decided(self, event: Decided) -> None:
        verdict = event.decision.message
        if event.stage == "rcpt":
            first = event.recipients[0].verdict
            if first.action is _ALLOW:  # a policy listener records these as well
                return
            reason = first.reason
        elif verdict is None or verdict.action is _ALLOW:
            return  # it is in the audit journal; a line per message would cost more than relaying
        else:
            reason = verdict.reason
        self._log.info(
            "would refuse" if event.observed else "refused",
            id=event.id,
            listener=event.client.listener,
            stream=event.decision.stream.name,
            stage=event.stage,
            reason=str(reason),
            recipients=len(event.recipients),
        )

    def _trouble(self, event: Event) -> None:
        """Warn, but only count it as unsaid if the same was logged just now."""
        if getattr(event, "outcome", getattr(event, "cause", "")) in _NOTHING_WRONG:
            return
        message, subject, *others = _TROUBLE[type(event)]
        values = {name: getattr(event, name) for name in ("listener", *others, subject)}
        key = f"{values['listener']} {message} {values[subject]}"
        now = self._clock()
        if now - self._last.get(key, -_EVERY) < _EVERY:
            self._unsaid[key] = self._unsaid.get(key, 0) + 1
            return
        self._last[key] = now
        self._log.warning(message, **values, unsaid=self._unsaid.pop(key, 0))

    def _files_read(self, event: FilesRead) -> None:
        where = {"listener": event.listener} if event.listener else {}
        if event.error is None:
            self._log.info(f"{event.what} read again", **where)
        else:
            self._log.error(f"{event.what} not read again", error=event.error, **where)


Send = Callable[[bytes], int]
"""Writes without waiting; returns how many octets it took. Raises OSError."""


class LogOutput:
    """A file for lines of text, each by one `write`.

    Mail never waits for the reader of the log, and is never refused or lost because of it: what
    cannot be written at once is left out, and counted.
    """

    def __init__(self) -> None:
        self._send = _sender(sys.stderr)
        self._rest = b""  # of a line that was partly written
        self._lost = 0

    @property
    def gap(self) -> Mapping[str, int]:
        """How many lines were lost since the last one, for the next one to say."""
        return {"lines_lost": self._lost} if self._lost else {}

    def write(self, line: str) -> None:
        data = self._rest + line.encode("utf-8", "backslashreplace")
        try:
            sent = self._send(data)
        except OSError:  # its reader is slow or gone, or the disk is full
            sent = 0
        if sent < len(self._rest) or not sent:
            self._rest = self._rest[sent:]
            self._lost += 1
        else:
            self._rest = data[sent:]
            self._lost = 0

    def flush(self) -> None:
        """Nothing waits here but the rest of a line, which goes with the next one."""


def _sender(stream: TextIO) -> Send:
    try:
        number = stream.fileno()
        mode = os.fstat(number).st_mode
    except OSError:  # it is not a file
        return partial(_print, stream)
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(number))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode):
        _stop_waiting(number)
    return partial(os.write, number)


def _stop_waiting(number: int) -> None:
    """Make writes to this pipe fail instead of waiting: only ours, if others have it open too."""
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_NONBLOCK:
        return
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        ours = os.open(f"/proc/self/fd/{number}", flags)
    except OSError:  # nobody reads it, or it belongs to another user
        return
    os.dup2(ours, number)
    os.close(ours)


def _print(stream: TextIO, data: bytes) -> int:
    stream.write(data.decode())
    stream.flush()
    return len(data)
