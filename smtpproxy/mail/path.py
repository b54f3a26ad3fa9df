"""The path of MAIL and RCPT: one grammar for every intake (RFC 5321 4.1.2, RFC 6531 3.3).

Taken besides what RFC 5321 allows, as Postfix and Exim do: dots anywhere in a local part (some
providers gave out such addresses), no angle brackets, spaces before the path. Source routes
are refused (RFC 5321 appendix C): MTAs differ in whom they take the recipient to be.
"""

import re

from smtpproxy.mail.address import AddressError

LOCAL_PART_LIMIT = 64  # octets, RFC 5321 4.5.3.1.1
DOMAIN_LIMIT = 255  # 4.5.3.1.2
PATH_LIMIT = 256  # 4.5.3.1.3, with the angle brackets

_SYNTAX = "bad address syntax; write <local-part@domain>"
_READ_LIMIT = 2048  # characters that are looked at: no path is nearly as long
# Sets name the ASCII that is left out: a range to U+10FFFF takes 30 ms to compile, each start.
_DOT_ATOM = r"[^\x00-\x20\"(),:;<>@\[\\\]\x7f]+"
_QUOTED = r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"'
_NO_LETTER = r"\x00-,./:-@\[-^`{-\x7f"  # nor a digit, `-` or `_`
_LABEL = rf"[^-{_NO_LETTER}](?:[^{_NO_LETTER}]*[^-{_NO_LETTER}])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Za-z.:-]+\]"
_ROUTE = rf"(?P<route>@(?:{_DOMAIN})(?:,@(?:{_DOMAIN}))*:)?"
_MAILBOX = rf"(?P<local>{_DOT_ATOM}|{_QUOTED})(?:@(?P<domain>{_DOMAIN}))?"
_BRACKETED = re.compile(rf" *<(?:{_ROUTE}{_MAILBOX})?>")
_BARE = re.compile(rf" *{_ROUTE}{_MAILBOX}")
_PLAIN = re.compile(r"<([a-z0-9+_-]+(?:\.[a-z0-9+_-]+)*)@[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)+>")
_QUOTED_ROUTE = re.compile(r'"[\\ ]*@')


class PathError(AddressError):
    """Not a path that is taken. `code` is the reply's: 501 for bad syntax, else 553."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def read_path(line: str, start: int = 0) -> tuple[str, int]:
    """Return the mailbox of the path that begins at `start`, and where what follows begins.

    The mailbox is as it was written, without brackets; empty for `<>`; and it may lack a
    domain, see `qualified`. Raises PathError.
    """
    plain = _PLAIN.fullmatch(line, start)
    if plain is not None and len(plain[1]) <= LOCAL_PART_LIMIT and len(line) <= PATH_LIMIT:
        return line[start + 1 : -1], len(line)
    end = start + _READ_LIMIT
    found = _BRACKETED.match(line, start, end) or _BARE.match(line, start, end)
    if found is None or line[found.end() : found.end() + 1] not in ("", " "):
        raise PathError(501, _SYNTAX)
    local, domain = found["local"], found["domain"]
    if local is None:
        return "", found.end()
    if found["route"] is not None or _QUOTED_ROUTE.match(local):  # Postfix takes both for one
        raise PathError(553, "source routes are not taken; write <local-part@domain>")
    if domain is None and (local.startswith('"') or found.end() < len(line)):
        raise PathError(501, _SYNTAX)  # a display name, rather
    _check_lengths(local, domain or "")
    return local if domain is None else f"{local}@{domain}", found.end()


def parse_path(text: str) -> str:
    """Return the mailbox of a path that has nothing behind it, as `read_path` does."""
    mailbox, end = read_path(text)
    if text[end:].strip(" "):
        raise PathError(501, _SYNTAX)
    return mailbox


def qualified(mailbox: str, origin: str | None) -> str:
    """Return a mailbox with the domain that the MTA gives to one that has none.

    Without `origin` that domain is not known: PathError, but for `postmaster`, which every
    server has (RFC 5321 4.1.1.3).
    """
    if "@" in mailbox or not mailbox:
        return mailbox
    if origin is not None:
        return f"{mailbox}@{origin}"
    if mailbox.lower() != "postmaster":
        text = "address has no domain, and this listener has no origin; write <local-part@domain>"
        raise PathError(553, text)
    return mailbox


def recipient(address: str) -> str:
    """Return an address if it can be a recipient's, as lists name them. Raises PathError."""
    parse_path(address)
    return address


def for_record(path: str) -> str:
    """Return a path with octets that are no UTF-8, lone surrogates, written as `\\xe9`.

    That is no address any more: no rule and no credential has it, and no mail can go to it.
    """
    if path.isascii():
        return path
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_lengths(local: str, domain: str) -> None:
    octets = _octets(local), _octets(domain)
    if octets[0] > LOCAL_PART_LIMIT:
        raise PathError(553, f"local part is longer than {LOCAL_PART_LIMIT} octets")
    if octets[1] > DOMAIN_LIMIT:
        raise PathError(553, f"domain is longer than {DOMAIN_LIMIT} octets")
    if sum(octets) + 3 > PATH_LIMIT:
        raise PathError(553, f"path is longer than {PATH_LIMIT} octets")


def _octets(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
