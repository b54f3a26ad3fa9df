"""How names and words are written: streams, purposes, senders, users, keys, text for people.

Each function takes a TOML value and returns its canonical form, or raises ValueError with what is
wrong and what is expected. The types below apply them.
"""

import hashlib
import re
from functools import partial
from typing import Annotated

from smtpproxy.locale import LANGS, PAGE_LANGS, Lang
from smtpproxy.mail.address import canonical
from smtpproxy.mail.mailboxes import entered
from smtpproxy.mail.visible_text import folded
from smtpproxy.settings.places import hostname
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Written
from smtpproxy.wire.sasl import USER_NAME_RULE, is_user_name

_SHORTEST_PASSAGE = 10  # characters: anything shorter occurs in any text
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LIST_ID = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
_FIELD_NAME = re.compile(r"[!-9;-~]{1,70}")  # RFC 5322 2.2: printable ASCII, no colon
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_OF_NOTHING = hashlib.sha256().hexdigest()
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SELECTOR = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def name(value: object) -> str:
    """Return the name of a listener or stream, which appears in replies and metric labels."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not a name: lower-case letters, digits, - and _, at most 63,"
            " beginning with a letter or digit"
        )
    return value


def purpose(value: object) -> str:
    """Return a purpose, which may be part of a suppression's scope."""
    if not isinstance(value, str) or not _PURPOSE.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not a purpose: letters, digits, -, _ and ., at most 63,"
            " beginning with a letter or digit"
        )
    return value


def scope(value: object) -> str:
    """Return the scope of suppressions: `all`, `marketing`, `brand:NAME` or `purpose:NAME`."""
    if isinstance(value, str) and value in ("all", "marketing"):
        return value
    if isinstance(value, str) and value.startswith("purpose:"):
        return f"purpose:{purpose(value.removeprefix('purpose:'))}"
    if isinstance(value, str) and value.startswith("brand:"):
        return f"brand:{name(value.removeprefix('brand:'))}"
    raise ValueError(
        f'{shown(value)} is not a scope: "all", "marketing", "brand:NAME" or "purpose:NAME"'
    )


def field_name(value: object) -> str:
    """Return the name of a header field (RFC 5322 2.2)."""
    if not isinstance(value, str) or not _FIELD_NAME.fullmatch(value):
        raise ValueError(f'{shown(value)} is not the name of a header field, "X-Mail-Stream"')
    return value


def sender(value: object) -> str:
    """Return a reverse path, all of a domain, or `<>` for the null path."""
    right = '"news@example.com", "@example.com" for a whole domain, or "<>" for the null path'
    if value == "<>":
        return "<>"
    if not isinstance(value, str) or "@" not in value:
        raise ValueError(f"{shown(value)} is not {right}")
    if value.startswith("@"):
        return "@" + hostname(value[1:])
    try:
        return entered(value)
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not {right}: {error}") from None


def mailbox(value: object) -> str:
    """Return an ASCII mail address as it is written in a header field."""
    wrong = f'{shown(value)} is not an address such as "unsubscribe@example.com"'
    if not isinstance(value, str) or not value.isascii() or value.count("@") != 1:
        raise ValueError(wrong)
    try:
        return canonical(value)
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from None


def list_id(value: object) -> str:
    """Return a list identifier, without angle brackets (RFC 2919 section 2)."""
    if not isinstance(value, str) or len(value) > 255 or not _LIST_ID.fullmatch(value):
        raise ValueError(
            f'{shown(value)} is not a list identifier such as "offers.example.com": letters,'
            " digits and dots, at most 255, without brackets (RFC 2919)"
        )
    return value.lower()


def user(value: object) -> str:
    """Return the name of a user, which is recorded."""
    if not isinstance(value, str) or not is_user_name(value):
        raise ValueError(f"{shown(value)} is not the name of a user: {USER_NAME_RULE}")
    return value


def certificate(value: object) -> str:
    """Return a client certificate's SHA-256 fingerprint (lower-case hex), or its subject."""
    if isinstance(value, str):
        digits = value.replace(":", "").lower()
        if re.fullmatch(r"[0-9a-f]{64}", digits):
            return digits
        if "=" in value and value.isprintable():
            return value
    raise ValueError(
        f"{shown(value)} is neither a SHA-256 fingerprint (64 hexadecimal digits) nor a subject"
        ' such as "CN=shop,O=Example"'
    )


def selector(value: object) -> str:
    """Return a selector, a name below `_domainkey` (RFC 6376 section 3.1), in lower case."""
    text = value.lower() if isinstance(value, str) else ""
    if _SELECTOR.fullmatch(text) is None or len(text) > 150:
        raise ValueError(
            f'{shown(value)} is not a selector such as "s2026": letters, digits and hyphens'
        )
    return text


def sha256(value: object) -> str:
    """Return the SHA-256 of a token, in lower-case hexadecimal."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(
            "must be the SHA-256 of a token, 64 hexadecimal digits, never the token itself:"
            " `smtpproxy token` makes both"
        )
    if value.lower() == _OF_NOTHING:
        raise ValueError("is the SHA-256 of nothing: the token was empty; make another")
    return value.lower()


def word(value: object) -> str:
    """Return a product or topic, without space around it."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f'must be text such as "shoes", not {shown(value)}')
    return value.strip()


def passage(value: object) -> str:
    """Return a passage that is searched for in the text of messages."""
    if not isinstance(value, str) or len(folded(value)) < _SHORTEST_PASSAGE:
        raise ValueError(
            f"must be text of at least {_SHORTEST_PASSAGE} characters, as it appears in the"
            f" message, not {shown(value)}"
        )
    return value


def line(value: object) -> str:
    """Return text for people, on one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"must be text on one line, not {shown(value)}")
    return value.strip()


def country(value: object) -> str:
    """Return a country by its two letters (ISO 3166-1)."""
    text = value.upper() if isinstance(value, str) else ""
    if not (len(text) == 2 and text.isascii() and text.isalpha()):
        raise ValueError(f'must be the two letters of a country such as "FR", not {shown(value)}')
    return text


def language(value: object, langs: tuple[Lang, ...] = LANGS) -> str:
    """Return a language in which all texts exist, or those of `langs`."""
    if value not in langs:
        raise ValueError(
            f"{shown(value)} is not an available language; there are {', '.join(langs)}"
        )
    return str(value)


page_language = partial(language, langs=PAGE_LANGS)
"""Return a language in which pages and mail to people exist."""

Name = Annotated[str, Written(name)]
Purpose = Annotated[str, Written(purpose)]
Scope = Annotated[str, Written(scope)]
FieldName = Annotated[str, Written(field_name)]
Sender = Annotated[str, Written(sender)]
Mailbox = Annotated[str, Written(mailbox)]
ListId = Annotated[str, Written(list_id)]
User = Annotated[str, Written(user)]
Certificate = Annotated[str, Written(certificate)]
Selector = Annotated[str, Written(selector)]
Sha256 = Annotated[str, Written(sha256)]
Word = Annotated[str, Written(word)]
Passage = Annotated[str, Written(passage)]
Line = Annotated[str, Written(line)]
Country = Annotated[str, Written(country)]
Language = Annotated[str, Written(language)]
PageLanguage = Annotated[str, Written(page_language)]
