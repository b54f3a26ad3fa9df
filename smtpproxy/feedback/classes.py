"""Why mail did not arrive, from a status and the words with it.

A server's words outweigh its code: gateways use 5.1.1 for mail that a filter refused, and 5.0.0 or
5.7.1 for unknown recipients. If words match several classes, the one that spares the person wins.
Every pattern has bounded gaps, so the time is linear in the length of the text.
"""

import re

from smtpproxy.feedback import words
from smtpproxy.feedback.records import Class

_LONGEST = 4096  # characters of text that are read

_DEAD_STATUS = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"})
_ADDRESS_REJECTED = re.compile(r"#?5\.1\.0 Address rejected\b(?!:)")  # IronPort's table
_OF_THE_SENDER = frozenset({"5.1.7", "5.1.8"})
_UNSAID = frozenset({"", "5.0.0", "5.1.0", "5.2.0", "5.3.0", "5.5.0", "5.5.1", "5.5.4"})
_STATUS = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_STATUS_OF_REPLY = re.compile(r"(?<![\d.])[245]\d\d[ -]\(?#?([245]\.\d{1,3}\.\d{1,3})(?![\d.])")
_CODE = re.compile(r"(?<![\w.:/-])([45])\d\d(?=[ \]-])")
_ADDRESS = re.compile(
    r"[<\[(\"']?(?<![^\s<>()\[\]\"'@:;,])[^\s<>()\[\]\"'@]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,9}[>\])\"']?"
)
# Codes, hosts and links, whose letters mean nothing.
_NOT_WORDS = re.compile(
    r"https?://\S{1,300}"
    r"|(?<![\w.])(?!resolver\.)(?:[\w-]{1,63}\.){1,9}[a-z]{2,24}(?![\w.])"  # not Exchange's
    r"|(?<![\w.])[245]\d\d[ -](?:[245]\.\d{1,3}\.\d{1,3}\b)?"
    r"|\(?#?\b[245]\.\d{1,3}\.\d{1,3}\b\)?"
)
_SPACE = re.compile(r"[\s>|*_=]+")


def classify(status: str, text: str) -> Class:
    """Return the class of a final failure.

    `status` is the field's (RFC 3463), "" for none; `text` is the server's text, which may contain
    a reply code and another status: that one is more reliable.
    """
    said = text[:_LONGEST]
    reply = _STATUS_OF_REPLY.search(said)
    found = reply or _STATUS.search(said)
    own = found[1] if found is not None else ""
    if _OF_THE_SENDER & {own, status}:
        return Class.BLOCKED
    codes = [reply[0][0]] if reply is not None else _CODE.findall(said)
    code = "5" if "5" in codes else next(iter(codes), "")  # 432 may be kilobytes, or seconds
    plain = _words(said)
    by_words = _by_words(plain, own or status, code)
    if by_words is not None:
        return by_words
    if _ADDRESS_REJECTED.search(said):
        return Class.DEAD
    if words.FILTER_LINK.search(said):
        return Class.SPAM
    by_status = _by_status(own if own not in _UNSAID else status or own)
    if by_status is Class.DEAD and own not in _DEAD_STATUS and not _is_vague(plain):
        return Class.UNKNOWN  # gateways use 5.1.1 for any refusal at RCPT
    return by_status


def _is_vague(plain: str) -> bool:
    """Whether words say nothing that could contradict a status."""
    return not _means_something(plain) or words.RECIPIENT.search(plain) is not None


def _means_something(plain: str) -> bool:
    return plain.strip(" @.,:;-()[]<>#\"'") != ""


def says_anything(text: str) -> bool:
    """Whether a text contains more than addresses, hosts and codes."""
    return _means_something(_words(text[:_LONGEST]))


def says_nobody_is_there(text: str) -> bool:
    """Whether a text says in words that an address does not exist."""
    return words.DEAD.search(_words(text)) is not None


def _words(text: str) -> str:
    plain = text.lower().replace("’", "'").replace("\u00a0", " ")
    plain = _NOT_WORDS.sub(" ", _ADDRESS.sub(" @ ", _SPACE.sub(" ", plain)))
    return _SPACE.sub(" ", words.NEUTRAL.sub(" ", plain)).strip()


def _by_words(said: str, status: str, code: str) -> Class | None:
    if words.SENDER.search(said):
        return Class.BLOCKED
    if words.SPAM.search(said):
        return Class.SPAM
    if words.FULL.search(said):
        return Class.TRANSIENT if status[1:] == ".3.1" else Class.FULL  # the system is full
    if words.POLICY.search(said):
        return Class.BLOCKED
    later = words.TRANSIENT.search(said) is not None
    if words.EARLIER.search(said):
        return Class.TRANSIENT if later or code == "4" else Class.BLOCKED
    if words.DEAD.search(said) or any(phrase in said for phrase in words.DEAD_ABROAD):
        final = code != "4" and (status[:1] != "4" or not later)
        return Class.DEAD if final and not words.NOT_FOR_GOOD.search(said) else Class.TRANSIENT
    if words.UNAVAILABLE.search(said):
        if status.startswith("5.7."):
            return Class.BLOCKED
        return Class.DEAD if (code or status[:1]) == "5" and not later else Class.TRANSIENT
    if later:
        return Class.TRANSIENT
    if words.MESSAGE.search(said):
        return Class.BLOCKED
    if words.REFUSAL.search(said):
        by_status = _by_status(status)
        return by_status if by_status in (Class.BLOCKED, Class.FULL) else Class.UNKNOWN
    return None


def _by_status(status: str) -> Class:
    if status in _DEAD_STATUS:
        return Class.DEAD
    if status.startswith(("4.", "5.4.")) or status in ("5.3.1", "5.3.2"):
        return Class.FULL if status == "4.2.2" else Class.TRANSIENT
    if status == "5.2.2":
        return Class.FULL
    if status.startswith(("5.7.", "5.6.")) or status in ("5.2.3", "5.3.4"):
        return Class.BLOCKED
    return Class.UNKNOWN
