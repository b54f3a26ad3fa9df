"""Mail addresses: canonical form and widened keys (design.md section 8)."""

import re
import unicodedata
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import idna

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PLAIN = re.compile(rf"[a-z0-9#$&'*+/=?^_`{{|}}~.-]+@{_DOMAIN.pattern}")  # without % and !
_UNQUOTED = re.compile(r'[^\x00-\x20\x7f"(),:;<>@\[\\\]]+')
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*)"')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ROUTED = re.compile(r"[%!@]")  # in a local part, an MTA may see a route
_OBSCURED = re.compile(r'[\x00-\x20\x7f"(),:;<>\[\\\]]')  # what else takes an address apart
_WHOLE_DOMAIN = re.compile(r"(?:\*?@|(?=\*\.))(\*\.)?([^*@]*)")

_UUCP = ".uucp"  # no domain: what is before it is a host of bang paths

MOST_READINGS = 16
"""So many other addresses may one address be read as."""

_GMAIL = frozenset({"gmail.com", "googlemail.com"})
_DOMAIN_OCTETS = 253  # RFC 1035 3.1, as written without the root's dot


class AddressError(ValueError):
    """Not an address; the message says what is wrong and what would be right."""


class AmbiguousAddress(AddressError):
    """An address that MTAs may read as more others than can be looked up."""


def canonical(address: str) -> str:
    """Return the form that matching is on: unquoted, NFC, casefolded, domain as A-label.

    `address` is a mailbox without angle brackets or source route. A local part that
    cannot be written without quotes keeps them, in the shortest form (RFC 5321 4.1.2),
    so that the result is an address again. Dots may stand anywhere in a local part: some
    providers gave out such addresses. Raises `AddressError`.
    """
    if address.isascii() and len(address) <= _DOMAIN_OCTETS:
        lowered = address.lower()
        if _PLAIN.fullmatch(lowered):
            return lowered
    local, at, domain = address.rpartition("@")
    if not at:
        raise AddressError("there is no @: an address is local-part@domain")
    return compose(_unquoted(local), domain)


def widened(canonical_address: str) -> str:
    """Return the key form shared by variants of one mailbox.

    The plus-tag is removed on any domain, dots on Gmail's only (googlemail.com is
    gmail.com). Two equal canonical addresses have equal widened forms. It may only
    refuse, never allow.
    """
    local, _, domain = canonical_address.rpartition("@")
    gmail = domain in _GMAIL
    if "+" not in local and not gmail:
        return canonical_address
    if local.startswith('"'):
        local = _unquoted(local)
    local = local.partition("+")[0] or local
    if gmail:
        local = local.replace(".", "") or local
        domain = "gmail.com"
    return f"{_quoted(_folded(local))}@{domain}"  # a mark after a dot now joins its letter


def domain_of(address: str) -> str:
    """Return the domain as a lower-case A-label, or an address literal in its brackets.

    Raises `AddressError` when `address` is no address.
    """
    return canonical(address).rpartition("@")[2]


def compose(local: str, domain: str) -> str:
    """Return the canonical address of an unquoted local part and a domain.

    Raises `AddressError`.
    """
    if _CONTROL.search(local):
        raise AddressError("the local part holds a control character")
    local, domain = _folded(local), _canonical_domain(domain)
    if _ROUTED.search(local):
        if _OBSCURED.search(local):
            raise AmbiguousAddress(
                "the local part holds %, ! or @ beside a space or one of"
                ' "(),:;<>[\\], which no two MTAs read alike: write the address without them'
            )
        _read_on(local, domain)
    return f"{_quoted(local)}@{domain}"


def readings(canonical_address: str) -> tuple[str, ...]:
    """Return the other canonical addresses that an MTA may take this one for.

    An MTA that a domain is local to looks for a route in the local part: Postfix and Sendmail
    deliver `user%example.com@localhost`, `example.com!user@localhost` and
    `"user@example.com"@localhost` to `user@example.com` (Postfix: allow_percent_hack,
    swap_bangpath, resolve_dequoted_address). Sendmail takes `user@example.com.uucp` for one of
    them. Which domains are local is not known here, so any may be. At most `MOST_READINGS`; a
    reading may only refuse, never allow.
    """
    if not (
        "%" in canonical_address
        or "!" in canonical_address
        or canonical_address.startswith('"')
        or canonical_address.endswith(_UUCP)
    ):
        return ()
    local, _, domain = canonical_address.rpartition("@")
    return _read_on(_unquoted(local), domain)


def whole_domain(text: str) -> str | None:
    """Return the canonical name of a whole domain; None: `text` does not name one.

    `@example.com` (or `*@example.com`) is everybody at that domain, `*.example.com` (or
    `*@*.example.com`) everybody at it and at its subdomains. Raises `AddressError`.
    """
    match = _WHOLE_DOMAIN.fullmatch(text)
    if match is None:
        return None
    domain = _canonical_domain(match[2])
    if not match[1]:
        return f"@{domain}"
    if "." not in domain or domain.startswith("["):
        raise AddressError("*. goes before a domain of at least two labels: *.example.com")
    return f"*.{domain}"


def names_domain(name: str) -> bool:
    """Whether a canonical name is that of a whole domain, and not an address."""
    return name[0] == "@" or (name[0] == "*" and "@" not in name)


def domains_over(name: str) -> tuple[str, ...]:
    """Return the names of whole domains that a canonical address, or such a name, is under."""
    domain = name.rpartition("@")[2]
    over = [] if domain.startswith("*.") else [f"@{domain}"]
    domain = domain.removeprefix("*.")
    while "." in domain and not domain.startswith("["):
        over.append(f"*.{domain}")
        domain = domain.partition(".")[2]
    return tuple(over)


def _read_on(local: str, domain: str) -> tuple[str, ...]:
    """Return the readings of an unquoted local part at a domain, by any order of its routes."""
    found: dict[str, None] = {}
    if domain.endswith(_UUCP):
        found[f"{_quoted(local)}@{domain.removesuffix(_UUCP)}"] = None
    rests = [local]
    for rest in rests:  # it grows meanwhile
        for user, host in _routes(rest):
            if user not in rests:
                rests.append(user)
            try:
                there = _canonical_domain(host)
                for one in (there, there.removesuffix(_UUCP)):
                    found[f"{_quoted(_folded(user))}@{one}"] = None
            except AddressError:
                continue  # nothing delivers there; what is left may hold another route
        if len(found) > MOST_READINGS or len(rests) > 4 * MOST_READINGS:
            raise AmbiguousAddress(
                f"the local part may be read as more than {MOST_READINGS} other addresses:"
                " write the address without %, ! and quotes"
            )
    return tuple(found)


def _routes(local: str) -> Iterator[tuple[str, str]]:
    """Yield (local part, domain) by each kind of route, of which the outermost goes first."""
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
                "the quoted local part is broken: it ends with a quote, holds no control"
                " character, and a quote or backslash inside it has a backslash before it"
            )
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if not local:
        raise AddressError("the local part is empty: an address is local-part@domain")
    if _UNQUOTED.fullmatch(local) is None:
        raise AddressError(
            "the local part holds a space, a control character or one of"
            ' "(),:;<>@[\\]: these may stand only in quotes'
        )
    return local


def _quoted(local: str) -> str:
    if _UNQUOTED.fullmatch(local):
        return local
    return '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'


def _folded(local: str) -> str:
    """Unicode's canonical caseless form (D145), composed: a second pass changes nothing."""
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
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except (UnicodeError, IndexError):
            raise AddressError(
                "the domain is no internationalised domain name (IDNA 2008): check its"
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
    """Return an address literal in one spelling, the same on every Python version."""
    inner = domain[1:-1].lower() if domain.endswith("]") else ""
    try:
        if not inner.startswith("ipv6:"):
            return f"[{IPv4Address(inner)}]"
        if "%" in inner:
            raise ValueError(inner)
        packed = IPv6Address(inner[5:]).packed
    except ValueError:
        raise AddressError(
            "the address literal is neither [192.0.2.1] nor [IPv6:2001:db8::1]"
        ) from None
    groups = (packed[i] << 8 | packed[i + 1] for i in range(0, 16, 2))
    return f"[ipv6:{':'.join(f'{group:x}' for group in groups)}]"
