"""Addresses as people and files write them, made what a recipient on the wire is matched by.

What is stored must be what mail is addressed to. So what surrounds an address is taken off,
and characters that no mailbox has but a spreadsheet or a web page leaves in an address are
named: stored, they would match nobody.
"""

import re
import unicodedata
from urllib.parse import unquote

from smtpproxy.mail.address import AddressError, canonical, whole_domain

_LONGEST = 2_000  # characters; the path of a command has 256 octets (RFC 5321 4.5.3.1.3)
_SIMPLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,253}@[A-Za-z0-9.-]*[A-Za-z0-9]")  # most are so
_MAILTO = re.compile(r"mailto:([^?]*)(?:\?.*)?", re.IGNORECASE | re.DOTALL)
_PAIRS = {'"': '"', "'": "'", "<": ">", "\N{LEFT DOUBLE QUOTATION MARK}": "\u201d", "«": "»"}
# Unseen, though Unicode does not count them among the format characters or spaces: joiners,
# fillers, variation selectors, what is kept for more of these, and the empty Braille cell.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_UNSEEN_KINDS = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
_PATTERNS = (
    "@example.com suppresses everybody at a domain, *.example.com everybody at it and its"
    " subdomains; other patterns are written out, one address each"
)


def entered(text: str) -> str:
    """Return the canonical address of what somebody wrote for one.

    Raises `AddressError`.
    """
    if _SIMPLE.fullmatch(text):
        return canonical(text)
    bare = _bare(text)
    if whole_domain_written(bare):
        raise AddressError("it is a whole domain, and here one address goes")
    return _address(bare)


def entered_name(text: str) -> str:
    """Return the canonical address, or the name of a whole domain, of what somebody wrote.

    Raises `AddressError`.
    """
    if _SIMPLE.fullmatch(text):
        return canonical(text)
    bare = _bare(text)
    if whole_domain_written(bare):
        _check_seen(bare)
        try:
            name = whole_domain(bare)
        except AddressError as error:
            raise AddressError(f"{error}; {_PATTERNS}") from None
        if name is not None:
            return name
    return _address(bare)


def whole_domain_written(text: str) -> bool:
    """Whether it begins as a whole domain does, rightly written or not."""
    return text.startswith(("@", "*@", "*."))


def _bare(text: str) -> str:
    """Take off what surrounds an address, and what cannot be seen at its ends."""
    if len(text) > _LONGEST:
        raise AddressError(f"it is longer than {_LONGEST} characters")
    bare = _trimmed(text)
    while True:
        inner = bare.rstrip(",;")
        if match := _MAILTO.fullmatch(inner):
            inner = unquote(match[1])
        if len(inner) > 1 and _PAIRS.get(inner[0]) == inner[-1]:
            inner = inner[1:-1]
        inner = _trimmed(inner)
        if inner == bare:
            return bare
        bare = inner


def _trimmed(text: str) -> str:
    start, end = 0, len(text)
    while start < end and _is_unseen(text[start]):
        start += 1
    while end > start and _is_unseen(text[end - 1]):
        end -= 1
    return text[start:end]


def _address(bare: str) -> str:
    _check_seen(bare)
    local, at, _ = bare.rpartition("@")
    for character in local if at else bare:
        if not character.isascii() and not _is_plain(character):
            plain = unicodedata.normalize("NFKC", character)
            raise AddressError(f"it holds {_named(character)}, which no mailbox has: write {plain}")
    if "*" in bare:
        raise AddressError(f"* stands for nothing in an address: {_PATTERNS}")
    if not at:
        hint = f"; for a whole domain write @{bare}" if re.fullmatch(r"[\w.-]+\.\w+", bare) else ""
        raise AddressError(f"there is no @: an address is local-part@domain{hint}")
    return canonical(bare)


def _check_seen(text: str) -> None:
    for character in text:
        if character != " " and _is_unseen(character):
            raise AddressError(f"it holds {_named(character)}, which cannot be seen: take it out")


def _is_unseen(character: str) -> bool:
    if "!" <= character <= "~":
        return False
    return unicodedata.category(character) in _UNSEEN_KINDS or bool(_UNSEEN.match(character))


def _is_plain(character: str) -> bool:
    """Whether it is no wide, small or other typographic form of a character (UAX 44, 5.7.3).

    What Unicode calls `<compat>` are letters of living scripts too, in Thai and Armenian.
    """
    form = unicodedata.decomposition(character)
    return not form.startswith("<") or form.startswith("<compat>")


def _named(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
