"""Addresses: canonical form, widened keys, and the path of MAIL and RCPT.

Every intake uses the same grammar of paths (RFC 5321 4.1.2, RFC 6531 3.3). Like Postfix and Exim it
also accepts dots anywhere in a local part (some providers gave out such addresses), no angle
brackets, and spaces before the path. Source routes are refused (RFC 5321 appendix C), because MTAs
differ in whom they take to be the recipient.
"""

import re
import unicodedata
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import idna

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PLAIN = re.compile(  # without % and !
    rf"[a-z0-9#$&'*+/=?^_`{{|}}~.-]+@{_DOMAIN.pattern}".replace("a-z", "A-Za-z")
)
_UNQUOTED = re.compile(r'[^\x00-\x20\x7f"(),:;<>@\[\\\]]+')
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*)"')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ROUTED = re.compile(r"[%!@]")  # in a local part, an MTA may take these for a route
_OBSCURED = re.compile(r'[ ",:;\[\\\]]')  # other characters that split an address
_LEFT_OUT = re.compile(r"[()<>]")  # Sendmail takes them for comments and brackets, even in quotes
_WHOLE_DOMAIN = re.compile(r"(?:\*?@|(?=\*\.))(\*\.)?([^*@]*)")

_UUCP = ".uucp"  # not a domain: before it is a host of bang paths
_NO_DOMAIN = "the local part routes to an invalid domain: write it without %, ! and quotes"

MAX_READINGS = 16
"""How many other addresses one address may be read as."""

_AT_GMAIL = ("@gmail.com", "@googlemail.com")
_CAPITAL_SHARP_S = "\u1e9e"  # ss until version 15.0 of UTS 46, \u00df since 15.1
_DOMAIN_OCTETS = 253  # RFC 1035 3.1, written without the root's dot


class AddressError(ValueError):
    """Not an address; the message says what is wrong and what is expected."""


class AmbiguousAddress(AddressError):
    """An address that MTAs may read as others that cannot all be looked up.

    `form` is its canonical form, by which it may be on record; None if there are too many others.
    """

    def __init__(self, text: str, form: str | None = None) -> None:
        super().__init__(text)
        self.form = form


def canonical(address: str) -> str:
    """Return the form that is matched: unquoted, NFC, casefolded, the domain as A-label.

    `address` is a mailbox without angle brackets or source route. A local part that cannot be
    written without quotes keeps them, in the shortest form (RFC 5321 4.1.2), so that the result is
    an address again. Raises `AddressError`.
    """
    if len(address) <= _DOMAIN_OCTETS and _PLAIN.fullmatch(address):
        return address.lower()
    local, at, domain = address.rpartition("@")
    if not at:
        raise AddressError("there is no @: an address is local-part@domain")
    return compose(_unquoted(local), domain)


def widened(canonical_address: str) -> str:
    """Return the form for keys that variants of one mailbox share.

    The plus-tag is removed on any domain, dots on Gmail's only (googlemail.com is gmail.com). Equal
    canonical addresses have equal widened forms. A match by it may only refuse, never allow.
    """
    gmail = canonical_address.endswith(_AT_GMAIL)
    if "+" not in canonical_address and not gmail:
        return canonical_address
    local, _, domain = canonical_address.rpartition("@")
    if local.startswith('"'):
        local = _unquoted(local)
    local = local.partition("+")[0] or local
    if gmail:
        local = local.replace(".", "") or local
        domain = "gmail.com"
    return f"{_quoted(_folded(local))}@{domain}"  # a mark after a dot now joins its letter


def compose(local: str, domain: str) -> str:
    """Return the canonical address of an unquoted local part and a domain; raise AddressError."""
    if _CONTROL.search(local):
        raise AddressError("the local part contains a control character")
    written = local
    local, domain = _folded(local), _canonical_domain(domain)
    form = f"{_quoted(local)}@{domain}"
    if _LEFT_OUT.search(local):
        raise AmbiguousAddress(
            "the local part contains one of ()<>, which makes some MTAs leave a part of it out:"
            " write the address without them",
            form,
        )
    if _ROUTED.search(local):
        if _OBSCURED.search(local):
            raise AmbiguousAddress(
                "the local part contains %, ! or @ beside a space or one of"
                ' "(),:;<>[\\], which no two MTAs read alike: write the address without them',
                form,
            )
        found = _read_on(local, domain, form)
        if not written.isascii() and set(found) != set(_read_on(written, domain)):
            raise AmbiguousAddress(  # readings are made from the canonical form
                "the local part contains a domain with \u00df or \u03c2, which becomes another one"
                " in the form that is matched: write the address without %, ! and quotes",
                form,
            )
    return form


def readings(canonical_address: str) -> tuple[str, ...]:
    """Return the other canonical addresses that an MTA may read this one as.

    An MTA for which a domain is local looks for a route in the local part: Postfix and Sendmail
    deliver `user%example.com@localhost`, `example.com!user@localhost` and
    `"user@example.com"@localhost` to `user@example.com` (Postfix: allow_percent_hack,
    swap_bangpath, resolve_dequoted_address). Sendmail does that with `user@example.com.uucp` too.
    Which domains are local is not known here, so any may be. At most `MAX_READINGS`; a match by a
    reading may only refuse, never allow.
    """
    address = canonical_address
    if not ("%" in address or "!" in address or address[:1] == '"' or address.endswith(".uucp")):
        return ()
    local, _, domain = address.rpartition("@")
    return _read_on(_unquoted(local), domain)


def whole_domain(text: str) -> str | None:
    """Return the canonical name of a whole domain, or None if `text` is not one.

    `@example.com` (or `*@example.com`) is everybody at that domain, `*.example.com` (or
    `*@*.example.com`) everybody at it and at its subdomains. Raises `AddressError`.
    """
    match = _WHOLE_DOMAIN.fullmatch(text) if text.startswith(("@", "*")) else None
    if match is None:
        return None
    domain = _canonical_domain(match[2])
    if not match[1]:
        return f"@{domain}"
    if "." not in domain or domain.startswith("["):
        raise AddressError("*. goes before a domain of at least two labels: *.example.com")
    return f"*.{domain}"


def names_domain(name: str) -> bool:
    """Whether a canonical name is a whole domain's rather than an address."""
    return name[0] == "@" or (name[0] == "*" and "@" not in name)


def domains_over(name: str) -> tuple[str, ...]:
    """Return the names of the whole domains that include a canonical address or such a name."""
    domain = name.rpartition("@")[2]
    over = [] if domain.startswith("*.") else [f"@{domain}"]
    domain = domain.removeprefix("*.")
    while "." in domain and not domain.startswith("["):
        over.append(f"*.{domain}")
        domain = domain.partition(".")[2]
    return tuple(over)


def _read_on(local: str, domain: str, form: str | None = None) -> tuple[str, ...]:
    """Return the readings of an unquoted local part at a domain, with its routes in any order.

    Raises AmbiguousAddress; with `form`, also for a host that only some MTAs take for a domain's.
    """
    found: dict[str, None] = {}
    if domain.endswith(_UUCP):
        found[f"{_quoted(local)}@{domain.removesuffix(_UUCP)}"] = None
    rests = [local]
    for rest in rests:  # the list grows in the loop
        for user, host in _routes(rest):
            if user not in rests:
                rests.append(user)
            try:
                there = _canonical_domain(host.strip("."))  # as Sendmail does
                for one in (there, there.removesuffix(_UUCP)):
                    found[f"{_quoted(_folded(user))}@{one}"] = None
            except AddressError:
                if form is not None and ("." in host.strip(".") or not host.isascii()):
                    raise AmbiguousAddress(_NO_DOMAIN, form) from None
        if len(found) > MAX_READINGS or len(rests) > 4 * MAX_READINGS:
            raise AmbiguousAddress(
                f"the local part may be read as more than {MAX_READINGS} other addresses:"
                " write the address without %, ! and quotes"
            )
    return tuple(found)


def _routes(local: str) -> Iterator[tuple[str, str]]:
    """Yield (local part, domain) for each kind of route, resolving its outermost step."""
    for sign in "@%":
        user, there, domain = local.rpartition(sign)
        if there and user:
            yield user, domain
    domain, _, user = local.partition("!")
    if user:
        yield user, domain


def _unquoted(local: str) -> str:
    if local.startswith('"'):
        quoted = _QUOTED.fullmatch(local)
        if quoted is None:
            raise AddressError(
                "the quoted local part is broken: it has to end with a quote, contain no control"
                " character, and have a backslash before each quote or backslash inside it"
            )
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if not local:
        raise AddressError("the local part is empty: an address is local-part@domain")
    if _UNQUOTED.fullmatch(local) is None:
        if "@" in local:
            raise AddressError(
                "there is a second @, which is allowed only in quotes: write one address"
            )
        raise AddressError(
            "the local part contains a space, a control character or one of"
            ' "(),:;<>@[\\]: spaces and ,:;@[\\] are allowed, but only in quotes'
        )
    return local


def _quoted(local: str) -> str:
    if _UNQUOTED.fullmatch(local):
        return local
    return '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'


def _folded(local: str) -> str:
    """Unicode's canonical caseless form (D145), composed; folding twice changes nothing."""
    if local.isascii():
        return local.lower()
    try:
        local.encode()
    except UnicodeEncodeError:
        raise AddressError("the local part is not UTF-8 (RFC 6531)") from None
    folded = unicodedata.normalize("NFD", local).casefold()
    return unicodedata.normalize("NFC", folded)


def _canonical_domain(domain: str) -> str:
    if domain.startswith("["):
        return _literal(domain)
    if len(domain) > _DOMAIN_OCTETS + 1:
        raise AddressError(f"the domain is longer than {_DOMAIN_OCTETS} octets")
    if not domain.isascii():
        if _CAPITAL_SHARP_S in domain:
            raise AddressError(
                "the domain contains a capital \u1e9e, which some MTAs read as ss and others as"
                " \u00df: write the one that is meant"
            )
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except (UnicodeError, IndexError):
            raise AddressError(
                "the domain is not an internationalised domain name (IDNA 2008): check its"
                " letters, or write it in its xn-- form"
            ) from None
    domain = domain.lower().removesuffix(".")
    if len(domain) > _DOMAIN_OCTETS or _DOMAIN.fullmatch(domain) is None:
        raise AddressError(
            "the domain is not made of labels of 1 to 63 letters, digits and hyphens with"
            f" dots between them, {_DOMAIN_OCTETS} octets in all"
        )
    return domain


def _literal(domain: str) -> str:
    """Return an address literal in a spelling that is the same in every Python version."""
    inner = domain[1:-1].lower() if domain.endswith("]") else ""
    try:
        if not inner.startswith("ipv6:"):
            return f"[{IPv4Address(inner)}]"
        if "%" in inner:
            raise ValueError(inner)
        packed = IPv6Address(inner[5:]).packed
    except ValueError:
        text = "the address literal is neither [192.0.2.1] nor [IPv6:2001:db8::1]"
        raise AddressError(text) from None
    groups = (packed[i] << 8 | packed[i + 1] for i in range(0, 16, 2))
    return f"[ipv6:{':'.join(f'{group:x}' for group in groups)}]"


LOCAL_PART_LIMIT = 64  # octets, RFC 5321 4.5.3.1.1
DOMAIN_LIMIT = 255  # 4.5.3.1.2
PATH_LIMIT = 256  # 4.5.3.1.3, with the angle brackets

_SYNTAX = "bad address syntax; write <local-part@domain>"
_READ_LIMIT = 2048  # characters that are read; no path is nearly as long
# Sets exclude ASCII: a range to U+10FFFF would take 30 ms to compile at each start.
_DOT_ATOM = r"[^\x00-\x20\"(),:;<>@\[\\\]\x7f]+"
_QUOTED_LOCAL = r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"'
_NO_LETTER = r"\x00-,./:-@\[-^`{-\x7f"  # nor a digit, `-` or `_`
_PATH_LABEL = rf"[^-{_NO_LETTER}](?:[^{_NO_LETTER}]*[^-{_NO_LETTER}])?"
_PATH_DOMAIN = rf"{_PATH_LABEL}(?:\.{_PATH_LABEL})*\.?|\[[0-9A-Za-z.:-]+\]"
_ROUTE = rf"(?P<route>@(?:{_PATH_DOMAIN})(?:,@(?:{_PATH_DOMAIN}))*:)?"
_MAILBOX = rf"(?P<local>{_DOT_ATOM}|{_QUOTED_LOCAL})(?:@(?P<domain>{_PATH_DOMAIN}))?"
_BRACKETED = re.compile(rf" *<(?:{_ROUTE}{_MAILBOX})?>")
_BARE = re.compile(rf" *{_ROUTE}{_MAILBOX}")
SIMPLE_PATH = (
    rf"<(?=[^@]{{1,{LOCAL_PART_LIMIT}}}@)(?=.{{1,{PATH_LIMIT - 1}}}\Z)"
    r"([a-z0-9+_-]+(?:\.[a-z0-9+_-]+)*@[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)+)>"
)
"""Matches nearly every path with nothing after it. The only group is the mailbox."""
_SIMPLE_PATH = re.compile(SIMPLE_PATH)
_QUOTED_ROUTE = re.compile(r'"[\\ ]*@')


class PathError(AddressError):
    """A path that is not accepted. `code` is the reply's: 501 for bad syntax, otherwise 553."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def read_path(line: str, start: int = 0) -> tuple[str, int]:
    """Return the mailbox of the path that begins at `start`, and where the path ends.

    The mailbox is as written, without brackets, and empty for `<>`. It may lack a domain; see
    `qualified`. Raises PathError.
    """
    plain = _SIMPLE_PATH.fullmatch(line, start)
    if plain is not None:
        return plain[1], len(line)
    end = start + _READ_LIMIT
    found = _BRACKETED.match(line, start, end) or _BARE.match(line, start, end)
    if found is None or line[found.end() : found.end() + 1] not in ("", " "):
        raise PathError(501, _SYNTAX)
    local, domain = found["local"], found["domain"]
    if local is None:
        return "", found.end()
    if found["route"] is not None or _QUOTED_ROUTE.match(local):  # both are routes for Postfix
        raise PathError(553, "source routes are not accepted; write <local-part@domain>")
    if domain is None and (local.startswith('"') or found.end() < len(line)):
        raise PathError(501, _SYNTAX)  # rather a display name
    _check_lengths(local, domain or "")
    return local if domain is None else f"{local}@{domain}", found.end()


def parse_path(text: str) -> str:
    """Return the mailbox of a path with nothing after it, as `read_path` does."""
    mailbox, end = read_path(text)
    if text[end:].strip(" "):
        raise PathError(501, _SYNTAX)
    return mailbox


def qualified(mailbox: str, origin: str | None) -> str:
    """Return a mailbox, completed by the domain that the MTA adds if there is none.

    Without `origin` that domain is not known, which raises PathError except for `postmaster`, a
    mailbox of every server (RFC 5321 4.1.1.3).
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
    """Return an address from a list if it can be a recipient's. Raises PathError."""
    parse_path(address)
    return address


def for_record(path: str) -> str:
    """Return a path with octets that are not UTF-8 (lone surrogates) written as `\\xe9`.

    The result is no longer an address: no rule or credential matches it, and no mail can go to it.
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
