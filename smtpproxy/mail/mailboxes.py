"""Addresses as people write them: in a From field, and in files and forms.

In a From field (RFC 5322 section 3.4 and its obsolete forms) display names are skipped, never
interpreted: the content of quotes, comments and encoded words is not an address. Nothing is
guessed: an ambiguous field is an error.

Elsewhere, what is stored must be what mail is addressed to. So whatever surrounds an address is
removed, and characters that no mailbox has but spreadsheets and web pages leave in an address are
an error, because once stored they would match nobody.
"""

import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote

from msgspec import Struct

from smtpproxy.mail.address import (
    AddressError,
    AmbiguousAddress,
    canonical,
    compose,
    readings,
    whole_domain,
)
from smtpproxy.mail.headers import CommentError, skip_cfws

# What nearly every message has: one address, alone or in brackets after a simple name.
_PLAIN = re.compile(
    rb"(?:(?:[A-Za-z0-9 \t!#$%&'*+/=?^_`{|}~.\x80-\xff-]*|\"[^\"\\\r\n]*\"[ \t]*)"
    rb"<([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+)>"
    rb"|([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+))"
)

_TOKEN = re.compile(
    r"""(?P<atom>[^\x00-\x20\x7f()<>\[\]:;@\\,."]+)
      | (?P<special>[<>:;@,.])
      | (?P<quoted>"[^"\\]*(?:\\.[^"\\]*)*")
      | (?P<literal>\[[^\[\]\\]*\])""",
    re.VERBOSE | re.DOTALL,
)

_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_LONGEST = 16_384  # octets: nobody reads a longer From field
# Sendmail cuts an address that, with its name and the quotes that it adds, has over 256 octets. A
# name that alone has 252 is left out, unless Sendmail takes a long word or a very long name for
# another address.
_WHOLE = 254
_LONG_NAME = 252
_LONGEST_MAILBOX = 600

_Token = tuple[str, str, int]
"""Kind, text, and how many octets of spaces and comments come before. The kind of a special is
itself."""


class MailboxError(ValueError):
    """A field that cannot be read as a list of mailboxes; the message says why."""


def addresses(value: bytes, folds: int = 0) -> tuple[str, ...]:
    """Return the canonical address of every mailbox in an unfolded field value, in order.

    Members of groups count (RFC 6854). Raises `MailboxError` if the value cannot be read, has an
    invalid address, or one that MTAs cut, for which each of the `folds` in the field counts as an
    octet. A value without a mailbox gives an empty tuple.
    """
    if len(value) > _LONGEST:
        raise MailboxError(f"the field is longer than {_LONGEST} octets")
    added = folds + value.count(b'"') + value.count(b"\\")
    try:
        sole = _sole(value) if len(value) + added <= _WHOLE else None
        if sole is not None:
            return sole
        return _Reader(added).read(_tokens(value.decode("utf-8", "surrogateescape")))
    except (AddressError, CommentError) as error:
        raise MailboxError(str(error)) from None


def _sole(value: bytes) -> tuple[str] | None:
    """The canonical address of a value that is one plain mailbox. Raises AddressError."""
    plain = _PLAIN.fullmatch(value)
    return None if plain is None else (canonical((plain[1] or plain[2]).decode("ascii")),)


def _tokens(text: str) -> list[_Token]:
    tokens = []
    ended, position = 0, skip_cfws(text, 0)
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None and text[position] == '"':
            raise MailboxError("a quoted string is opened and not closed")
        if token is None:
            raise MailboxError(
                f"{_named(text[position])} is outside quotes: put the name in double quotes"
            )
        kind = token.lastgroup or ""
        spaces = len(_octets(text[ended:position]))
        tokens.append((token[0] if kind == "special" else kind, token[0], spaces))
        ended = token.end()
        position = skip_cfws(text, ended)
    return tokens


class _Reader(Struct):
    """Walks over the tokens once, keeping those since the last delimiter."""

    added: int  # octets in Sendmail: line ends, and a \ before each of " and \
    found: list[str] = []
    pending: list[_Token] = []
    in_group: bool = False
    in_brackets: bool = False
    named: str | None = None  # the address in place of a name
    octets: int = 0  # of this mailbox so far
    name_is_long: bool = False
    closed: bool = False  # a mailbox or group has ended: only a delimiter may follow

    def read(self, tokens: list[_Token]) -> tuple[str, ...]:
        for token in tokens:
            self._take(token)
        if self.in_brackets:
            raise MailboxError("an address is opened with < and not closed with >")
        if self.in_group:
            raise MailboxError("a group is opened with : and not closed with ;")
        self._end_mailbox()
        return tuple(self.found)

    def _take(self, token: _Token) -> None:
        kind, text, spaces = token
        self.octets += spaces + len(_octets(text))
        if self.in_brackets:
            self._take_in_brackets(token)
        elif kind == ",":
            self._end_mailbox()
        elif kind == ";":
            if not self.in_group:
                raise MailboxError("a ; without a group: put the name in double quotes")
            self._end_mailbox()
            self.in_group, self.closed = False, True
        elif self.closed:
            raise MailboxError("a comma is missing between two addresses")
        elif kind == ">":
            raise MailboxError("a > without a <: put the name in double quotes")
        elif kind == "<":
            self.named = _named_address(self.pending)
            words = [len(_octets(text)) for _, text, _ in self.pending]
            self.name_is_long = sum(words) >= _LONG_NAME and max(words) <= _WHOLE
            self.pending, self.in_brackets = [], True
        elif kind == ":":
            if self.in_group or not self.pending:
                raise MailboxError("a : without a group name: put the name in double quotes")
            _check_phrase(self.pending)
            self.pending, self.in_group = [], True
        else:
            self.pending.append(token)

    def _take_in_brackets(self, token: _Token) -> None:
        match token[0]:
            case ">" if not self.pending:
                raise MailboxError("there is no address between < and >")
            case ">":
                self.found.append(_address(self.pending))
                if self.named not in (None, self.found[-1]):
                    raise MailboxError("a name contains @: put the name in double quotes")
                self.pending, self.in_brackets, self.closed = [], False, True
            case "<" | ";" | ":":  # before a : is a route (RFC 5322 4.4): some read only that
                raise MailboxError(f"a {token[0]} inside < >")
            case _:
                self.pending.append(token)

    def _end_mailbox(self) -> None:
        """End at a comma, a semicolon or the end, when nothing or a bare address is pending."""
        if self.pending:
            self.found.append(_address(self.pending))
        octets = self.octets + self.added
        if octets > (_LONGEST_MAILBOX if self.name_is_long else _WHOLE):
            raise MailboxError(
                f"an address that with its name has {octets} octets is cut by some MTAs: shorten"
                " the name"
            )
        self.pending, self.closed, self.octets, self.name_is_long = [], False, 0, False


def _named_address(tokens: list[_Token]) -> str | None:
    """Return the address that stands in place of a name: some programs read it as the sender.

    Raises `MailboxError` if it is neither a name nor an address.
    """
    if any(kind == "@" for kind, *_ in tokens):
        with suppress(AddressError, MailboxError):
            return _address(tokens)
    _check_phrase(tokens)
    return None


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check_phrase(tokens: list[_Token]) -> None:
    for kind, text, _ in tokens:
        if kind not in ("atom", "quoted", "."):
            raise MailboxError(f"a name contains {_named(text[0])}: put the name in double quotes")


def _address(tokens: list[_Token]) -> str:
    """Return the canonical address of an addr-spec's tokens."""
    at = [i for i, (kind, *_) in enumerate(tokens) if kind == "@"]
    if len(at) != 1:
        raise MailboxError(
            "an address has one @: local-part@domain" if at else "a name without an address"
        )
    local, domain = tokens[: at[0]], tokens[at[0] + 1 :]
    if not local or not domain:
        raise MailboxError("an address is local-part@domain")
    if any(spaced for *_, spaced in domain[1:]):
        raise MailboxError("the domain of an address contains a space or a comment")
    if [kind for kind, *_ in domain] == ["literal"]:
        return compose(_dotted(local, "quoted"), domain[0][1])
    return compose(_dotted(local, "quoted"), _dotted(domain))


def _dotted(tokens: list[_Token], *also: str) -> str:
    """Join dotted words, from which comments and spaces are already removed (RFC 5322 4.4)."""
    words = []
    after_word = False
    for kind, text, _ in tokens:
        if kind != ".":
            if kind != "atom" and kind not in also:
                raise MailboxError(f"an address contains {_named(text[0])}")
            if after_word:
                raise MailboxError("an address contains a space")
        after_word = kind != "."
        words.append(_QUOTED_PAIR.sub(r"\1", text[1:-1]) if kind == "quoted" else text)
    return "".join(words)


def _named(character: str) -> str:
    return character if " " < character <= "~" else f"U+{ord(character):04X}"


_LONGEST_ENTRY = 2_000  # characters; the path of a command has 256 octets (RFC 5321 4.5.3.1.3)
_SIMPLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,253}@[A-Za-z0-9.-]*[A-Za-z0-9]")  # nearly all
_MAILTO = re.compile(r"mailto:([^?]*)(?:\?.*)?", re.IGNORECASE | re.DOTALL)
_PAIRS = {'"': '"', "'": "'", "<": ">", "\N{LEFT DOUBLE QUOTATION MARK}": "\u201d", "«": "»"}
# Invisible, though not format characters or spaces in Unicode: joiners, fillers, variation
# selectors, code points reserved for more of these, and the empty Braille cell.
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
    """Return the canonical form of an address as a person wrote it.

    Raises `AddressError`.
    """
    if _SIMPLE.fullmatch(text):
        return canonical(text)
    bare = _bare(text)
    if whole_domain_written(bare):
        raise AddressError("it is a whole domain, and a single address is needed here")
    return _checked(bare)


def entered_name(text: str) -> str:
    """Return the canonical form of an address or a whole domain as a person wrote it.

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
    return _checked(bare)


def recorded(address: str, read: Callable[[str], str] = canonical) -> str:
    """Return what `read` does, also for an ambiguous address, to which no mail goes.

    For a person's rights over what is on record. Raises `AddressError`.
    """
    try:
        return read(address)
    except AmbiguousAddress as error:
        if error.form is None:
            raise
        readings(error.form)  # whoever looks it up needs them
        return error.form


def whole_domain_written(text: str) -> bool:
    """Whether the text begins like a whole domain, valid or not."""
    return text.startswith(("@", "*@", "*."))


def _bare(text: str) -> str:
    """Remove what surrounds an address, and invisible characters at its ends."""
    if len(text) > _LONGEST_ENTRY:
        raise AddressError(f"it is longer than {_LONGEST_ENTRY} characters")
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


def _checked(bare: str) -> str:
    _check_seen(bare)
    local, at, _ = bare.rpartition("@")
    for character in local if at else bare:
        if not character.isascii() and not _is_plain(character):
            plain = unicodedata.normalize("NFKC", character)
            raise AddressError(
                f"it contains {_code_point(character)}, which no mailbox has: write {plain}"
            )
    if "*" in bare:
        raise AddressError(f"* has no meaning in an address: {_PATTERNS}")
    if not at:
        hint = f"; for a whole domain write @{bare}" if re.fullmatch(r"[\w.-]+\.\w+", bare) else ""
        raise AddressError(f"there is no @: an address is local-part@domain{hint}")
    return canonical(bare)


def _check_seen(text: str) -> None:
    for character in text:
        if character != " " and _is_unseen(character):
            raise AddressError(
                f"it contains {_code_point(character)}, which is invisible: remove it"
            )


def _is_unseen(character: str) -> bool:
    if "!" <= character <= "~":
        return False
    return unicodedata.category(character) in _UNSEEN_KINDS or bool(_UNSEEN.match(character))


def _is_plain(character: str) -> bool:
    """Whether it is not a wide, small or other typographic form of a character (UAX 44, 5.7.3).

    Unicode's `<compat>` forms include letters of living scripts, Thai and Armenian.
    """
    form = unicodedata.decomposition(character)
    return not form.startswith("<") or form.startswith("<compat>")


def _code_point(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
