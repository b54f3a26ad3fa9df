"""The client side of SMTP, sans I/O: replies parsed, commands written (RFC 5321).

Replies are kept as they came (code, enhanced code, every line), so that a relay can
mirror them.
"""

import re

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import Rcpt

LINE_LIMIT = 4096  # octets before the LF; RFC 5321 4.5.3.1.5 requires at least 512
LINES_LIMIT = 200

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_SIZE = re.compile("[0-9]{1,20}")  # RFC 1870, section 4
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # must not reach the client
_ENHANCED = re.compile(rb"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")


class ReplyError(Exception):
    """The upstream sent something that is not an SMTP reply."""


class ReplyReader:
    """Turns bytes into whole replies, in order."""

    __slots__ = ("_code", "line", "texts")

    def __init__(self) -> None:
        self.line = b""  # its end has yet to come
        self.texts: list[bytes] = []  # the lines so far of a multi-line reply
        self._code = 0  # of that reply

    def receive_data(self, data: bytes) -> list[Reply]:
        """Return the replies that are now complete.

        Raises ReplyError on what is not a reply; the connection is then unusable.
        """
        data = self.line + data
        lines = data.split(b"\n")
        self.line = lines.pop()
        if len(data) > LINE_LIMIT and max(map(len, (*lines, self.line))) > LINE_LIMIT:
            raise ReplyError("reply line too long")
        replies = []
        for line in lines:
            reply = None if self.texts else _known.get(line)
            if reply is None:
                reply = self._line(line)
            if reply is not None:
                replies.append(reply)
        return replies

    def _line(self, line: bytes) -> Reply | None:
        """Take a line; return the reply if this is its last."""
        code, more, text = _parsed(line)
        if self.texts and code != self._code:
            raise ReplyError(f"reply changes its code from {self._code} to {code}")
        self._code = code
        self.texts.append(text)
        if more:
            if len(self.texts) > LINES_LIMIT:
                raise ReplyError("reply has too many lines")
            return None
        texts, self.texts = self.texts, []
        reply = _reply(code, texts)
        if len(texts) == 1:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[line] = reply
        return reply


_known: dict[bytes, Reply] = {}
"""Replies of one line: an upstream repeats the same few all day long."""
_MOST_KNOWN = 256


def _parsed(line: bytes) -> tuple[int, bool, bytes]:
    """Return (code, whether more lines follow, text)."""
    found = _LINE.fullmatch(line.rstrip(b"\r"))
    if found is None:
        raise ReplyError(f"not a reply line: {line[:80]!r}")
    code, sign, text = found.groups(b"")
    return int(code), sign == b"-", _CONTROL.sub(b" ", text)


def _reply(code: int, texts: list[bytes]) -> Reply:
    """Separate the enhanced code from the text (RFC 2034).

    The first line's counts; some servers omit it from the others. One whose class differs from the
    code's is only text.
    """
    found = _ENHANCED.match(texts[0])
    if found is None or int(texts[0][:1]) != code // 100:
        return Reply.with_texts(code, None, texts)
    enhanced = found[1]
    without = [_without(text, enhanced) for text in texts]
    return Reply.with_texts(code, enhanced.decode(), without)


def _without(text: bytes, enhanced: bytes) -> bytes:
    return b"" if text == enhanced else text.removeprefix(enhanced + b" ")


class Capabilities(Struct, frozen=True):
    """What the upstream's EHLO reply offers."""

    keywords: frozenset[str] = frozenset()
    size: int | None = None  # None: it states no limit
    xforward: frozenset[str] = frozenset()  # the attributes that it accepts
    xclient: frozenset[str] = frozenset()
    pipelining: bool = False

    @classmethod
    def of(cls, reply: Reply) -> "Capabilities":
        keywords = set()
        size = None
        extensions: dict[str, frozenset[str]] = {}
        for line in reply.lines[1:]:
            words = line.upper().split()
            if not words:
                continue
            keywords.add(words[0])
            if words[0] == "SIZE" and len(words) > 1 and _SIZE.fullmatch(words[1]):
                size = int(words[1]) or None
            elif words[0] in ("XFORWARD", "XCLIENT"):
                extensions[words[0].lower()] = frozenset(words[1:])
        return cls(frozenset(keywords), size, **extensions, pipelining="PIPELINING" in keywords)


def rcpt_command(rcpt: Rcpt, capabilities: Capabilities) -> bytes:
    """RCPT, with its DSN parameters unchanged if the upstream supports them (RFC 3461 5.2.1)."""
    if (rcpt.notify is None and rcpt.orcpt is None) or "DSN" not in capabilities.keywords:
        return f"RCPT TO:<{rcpt.forward_path}>\r\n".encode()
    parameters = f" NOTIFY={rcpt.notify}" if rcpt.notify else ""
    parameters += f" ORCPT={rcpt.orcpt}" if rcpt.orcpt else ""
    return f"RCPT TO:<{rcpt.forward_path}>{parameters}\r\n".encode()
