"""Verdicts as SMTP replies (design.md section 6): one line of ASCII, at most 511 octets.

With a `help_url` a reply ends with ` see URL/REASON`, if all of that fits beside the rest.
"""

import re
from collections.abc import Sequence

from smtpproxy.mail.reply import LINE_OCTETS, Reply
from smtpproxy.policy.model import Action, Reason, Verdict

_NAME_OCTETS = 64  # of a stream's name or an id, to leave room for an address

_CUT_ESCAPE = re.compile(r"\\(x(\{[0-9A-F]*)?)?\Z")

_REFUSED = (550, "5.7.1")
_DEFERRED = (450, "4.7.0")
_OTHERS = {
    Reason.HEADER_MALFORMED: (554, "5.6.0"),
    Reason.UNSUBSCRIBE_MISSING: (550, "5.7.0"),
    Reason.UNSUBSCRIBE_MALFORMED: (550, "5.7.0"),
    Reason.ONE_CLICK_MISSING: (550, "5.7.0"),
    Reason.UNSUBSCRIBE_UNSIGNED: (550, "5.7.0"),
    Reason.BODY_OPTOUT_MISSING: (550, "5.7.0"),
    Reason.SENDER_UNIDENTIFIED: (550, "5.7.0"),
    Reason.SUBJECT_MISLEADING: (550, "5.7.0"),
    Reason.CONFIRM_LINK_MISSING: (550, "5.7.0"),
    Reason.RECIPIENT_LIMIT: (550, "5.5.3"),
    Reason.SINGLE_RECIPIENT_REQUIRED: (554, "5.5.4"),
    Reason.NULL_MX: (556, "5.1.10"),  # RFC 7505 4.1
    Reason.RESTORE_PENDING: (451, "4.3.0"),
    Reason.TEMPORARY_FAILURE: (451, "4.3.0"),
}


def reply_codes(verdict: Verdict) -> tuple[int, str]:
    """Return code and enhanced code. Raises `ValueError` for a verdict that allows."""
    if verdict.action is Action.ALLOW:
        raise ValueError("an allowed recipient gets the upstream's own reply")
    usual = _REFUSED if verdict.action is Action.REFUSE else _DEFERRED
    return _OTHERS.get(verdict.reason, usual)


def recipient_reply(
    address: str, verdict: Verdict, stream: str, id: str, help_url: str = ""
) -> Reply:
    """Return the reply to one recipient; `address` is as the client gave it, without brackets.

    Anything but printable ASCII in the address is shown as `\\x{E9}` (RFC 6533 section 3), and what
    does not fit into the line is left out.
    """
    head = f" {_verb(verdict)}: {verdict.reason}"
    tail = _tail(stream, id)
    room = _room(verdict) - len(head) - len(tail)
    return _reply(verdict, f"{_bracketed(address, room)}{head}{tail}", help_url)


def message_reply(verdict: Verdict, stream: str, id: str, help_url: str = "") -> Reply:
    """Return the reply to a message as a whole, or to a recipient that is not named."""
    return _reply(verdict, f"{_verb(verdict)}: {verdict.reason}{_tail(stream, id)}", help_url)


def recipients_reply(
    named: Sequence[tuple[str, Verdict]],
    stream: str,
    id: str,
    help_url: str = "",
) -> Reply:
    """Return the one reply for a message that nobody gets, naming the refused recipients.

    If any recipient is refused, only the refused are named and the reply is permanent; otherwise it
    is the first deferral's. As many as fit are named; the others are counted. The help is for the
    first.
    """
    refused = [entry for entry in named if entry[1].action is Action.REFUSE]
    shown = refused or [entry for entry in named if entry[1].action is Action.DEFER]
    if not shown:
        raise ValueError("nobody is refused or deferred")
    verdict = shown[0][1]
    head, tail = f"{_verb(verdict)}: ", _tail(stream, id)
    room = _room(verdict) - len(head) - len(tail)
    return _reply(verdict, f"{head}{_listed(shown, room)}{tail}", help_url)


def _listed(shown: Sequence[tuple[str, Verdict]], room: int) -> str:
    text = ""
    for count, (address, verdict) in enumerate(shown):
        more = len(shown) - count - 1
        others = f" and {more} more" if more else ""
        reason = f" {verdict.reason}"
        if not text:
            text = _bracketed(address, room - len(reason) - len(others)) + reason
            continue
        longer = f"{text}, <{_printable(address)}>{reason}"
        if len(longer) + len(others) > room:
            return f"{text} and {more + 1} more"
        text = longer
    return text


def _bracketed(address: str, room: int) -> str:
    shown = f"<{_printable(address)}>"
    if len(shown) <= room:
        return shown
    return _CUT_ESCAPE.sub("", shown[: room - 4]) + "...>"


def _printable(text: str) -> str:
    """Return `text` as printable ASCII, without angle brackets or line ends."""
    if text.isascii() and text.isprintable() and "<" not in text and ">" not in text:
        return text
    return "".join(
        c if " " <= c <= "~" and c not in "<>" else f"\\x{{{_code_point(c):X}}}" for c in text
    )


def _code_point(character: str) -> int:
    """The number to show; an octet that was not UTF-8 came in as a lone surrogate."""
    code = ord(character)
    return code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code


def _verb(verdict: Verdict) -> str:
    return "refused" if verdict.action is Action.REFUSE else "deferred"


def _tail(stream: str, id: str) -> str:
    return f" (stream {_printable(stream)[:_NAME_OCTETS]}) id={_printable(id)[:_NAME_OCTETS]}"


def _room(verdict: Verdict) -> int:
    """Return the octets left for text: the line without codes, spaces and CRLF."""
    _, enhanced = reply_codes(verdict)
    return LINE_OCTETS - len(f"550 {enhanced} \r\n")


def _reply(verdict: Verdict, text: str, help_url: str) -> Reply:
    code, enhanced = reply_codes(verdict)
    if help_url:
        helping = f"{text} see {help_url}/{verdict.reason}"
        text = helping if len(helping) <= _room(verdict) else text
    return Reply.of(code, enhanced, text)
