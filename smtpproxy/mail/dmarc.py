"""DMARC: organisational domains, policy records, and the names where these are looked up.

RFC 9989 sections 4.7 and 4.10; the public suffix list as in RFC 7489 3.2. Receivers accept a record
only if it begins exactly as in the RFC.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote

from msgspec import Struct

from smtpproxy.mail.address import AddressError, canonical


@lru_cache(maxsize=4_096)
def organisational_domain(domain: str) -> str:
    """Return the registered domain: `example.co.uk` of `news.example.co.uk`.

    `domain` is a lower-case A-label; a public suffix, or something that is not a domain (an address
    literal), is its own. The list is the installed one.
    """
    if domain.startswith("["):
        return domain
    return _suffixes().privatesuffix(domain) or domain


def all_aligned(domains: Iterable[str], others: Collection[str], *, strict: bool = False) -> bool:
    """Whether each domain is among the others (`strict`), or in the organisation of one of them
    (DMARC alignment). Linear in their number."""
    left = set(domains).difference(others)
    if strict or not left:
        return not left
    organisations = set(map(organisational_domain, others))
    return all(organisational_domain(each) in organisations for each in left)


@lru_cache(maxsize=1)
def _suffixes() -> Any:
    """The public suffix list, read at first use because that takes a tenth of a second."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()


Policy = Literal["none", "quarantine", "reject"]
Psd = Literal["y", "n", "u"]

MAX_QUESTIONS = 8
"""4.10: for longer names the middle part is skipped."""

_VERSION = re.compile(rb"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_NEARLY = re.compile(rb'[\s"\\]*v\s*=\s*"?dmarc', re.IGNORECASE)
_TAG = re.compile(rb"[ \t]*([A-Za-z]+)[ \t]*=[ \t]*([ -~]*?)[ \t]*")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@$&'()*+;=-]|%[0-9A-Fa-f]{2})+")
_SIZE = re.compile(r"![0-9]+[kmgt]?", re.IGNORECASE)
_POLICIES = ("none", "quarantine", "reject")
_VALUES = {
    "p": _POLICIES,
    "sp": _POLICIES,
    "np": _POLICIES,
    "adkim": ("r", "s"),
    "aspf": ("r", "s"),
    "psd": ("y", "n", "u"),
    "t": ("y", "n"),
}
_REMOVED = ("pct", "rf", "ri")
_LONGEST = 4_096  # octets


class DmarcError(ValueError):
    """A record that receivers do not accept."""


class DmarcRecord(Struct, frozen=True):
    """A DMARC record. `policy` is for the domain itself, `below` for its subdomains, `absent` for
    subdomains that do not exist. `psd`: it declares itself a public suffix ("y") or an
    organisation's domain ("n"). `ignored` says what receivers skip, `no_reports` why nobody gets
    reports."""

    policy: Policy
    below: Policy
    absent: Policy
    strict_dkim: bool = False
    testing: bool = False
    psd: Psd = "u"
    no_reports: str = ""
    broken_reports: bool = False  # rua= is present without a URI
    ignored: tuple[str, ...] = ()


def is_dmarc(text: bytes) -> bool:
    """Whether a TXT record is a DMARC record: it begins with exactly `v=DMARC1`, then `;`."""
    return _VERSION.match(text) is not None


def is_nearly_dmarc(text: bytes) -> bool:
    """Whether a TXT record was meant to be a DMARC record."""
    return _NEARLY.match(text) is not None


def read_dmarc(text: bytes) -> DmarcRecord:
    """Read a record. Raises DmarcError with what is wrong if receivers ignore all of it."""
    version = _VERSION.match(text)
    if version is None:
        raise DmarcError('it does not begin with "v=DMARC1;" octet for octet')
    if len(text) > _LONGEST:
        raise DmarcError(f"it is longer than {_LONGEST} octets")
    tags, ignored = _tags(text[version.end() :])
    values = {}
    for name, allowed in _VALUES.items():
        value = tags.get(name)
        if value is not None and value.lower() in allowed:
            values[name] = value.lower()
        elif value is not None:
            ignored.append(f"{name}={value} is not one of {', '.join(allowed)}")
    if "fo" in tags and not set(tags["fo"].lower().split(":")) <= {"0", "1", "d", "s"}:
        ignored.append(f"fo={tags['fo']} is not a list of 0, 1, d, s with colons between them")
    no_reports, wrong = _reports(tags.get("rua"), "rua")
    ignored += wrong
    if "ruf" in tags:
        none, wrong = _reports(tags["ruf"], "ruf")
        ignored += wrong or ([none] if none else [])
    ignored += [f"RFC 9989 removed {name}=" for name in _REMOVED if name in tags]
    policy = _policy(tags, values, no_reports)
    below = values.get("sp", policy) if policy == values.get("p") else policy
    absent = values.get("np", below) if policy == values.get("p") else policy
    return DmarcRecord(
        policy,
        _as_policy(below),
        _as_policy(absent),
        values.get("adkim") == "s",
        values.get("t") == "y",
        "y" if values.get("psd") == "y" else "n" if values.get("psd") == "n" else "u",
        no_reports,
        bool(no_reports) and "rua" in tags,
        tuple(ignored),
    )


def tree(domain: str) -> list[str]:
    """Return the names to look up, the longest first (4.10)."""
    labels = domain.split(".")
    start = max(1, len(labels) - MAX_QUESTIONS + 1)
    return [domain, *(".".join(labels[i:]) for i in range(start, len(labels)))]


def organisation(domain: str, found: Mapping[str, Psd]) -> str:
    """Return the organisational domain (4.10.2) from the records found, the longest name first.

    It has psd=n, or is directly below psd=y, or else is the shortest name with a record.
    """
    for name, psd in found.items():
        if psd == "n" or (psd == "y" and name == domain):
            return name
        if psd == "y":
            return f"{domain.removesuffix(f'.{name}').rpartition('.')[2]}.{name}"
    return list(found)[-1] if found else domain


def _tags(text: bytes) -> tuple[dict[str, str], list[str]]:
    """Return the tags after the version, and what receivers ignore because it is not a tag."""
    tags: dict[str, str] = {}
    ignored: list[str] = []
    for spec in text.split(b";"):
        if not spec.strip(b" \t"):
            continue
        found = _TAG.fullmatch(spec)
        if found is None or not found[2]:
            ignored.append(f"“{_shown(spec)}” is not tag=value")
            if found is None:
                continue
        name, value = found[1].decode(), found[2].decode()
        if name in tags or name == "v":
            raise DmarcError(f"the tag {name}= appears twice")
        tags[name] = value
    return tags, ignored


def _policy(tags: Mapping[str, str], values: Mapping[str, str], no_reports: str) -> Policy:
    """The policy; 4.7: without a usable one it is p=none, but only if reports are requested."""
    wrong = [name for name in ("p", "sp", "np") if name in tags and name not in values]
    if "p" in values and not wrong:
        return _as_policy(values["p"])
    if not no_reports:
        return "none"
    if not wrong:
        raise DmarcError("it has no p=, and no rua= that would make up for it")
    name = wrong[0]
    hint = "; semicolons separate tags" if re.search(r"[,\s\\]", tags[name]) else ""
    raise DmarcError(f"its {name}={tags[name]} is not one of none, quarantine and reject{hint}")


def _as_policy(value: str) -> Policy:
    return "reject" if value == "reject" else "quarantine" if value == "quarantine" else "none"


def _reports(value: str | None, name: str) -> tuple[str, list[str]]:
    """Return why nobody gets reports ("" if somebody does), and what else is wrong."""
    if value is None:
        return f"there is no {name}=", []
    wrong, mailed, other = [], 0, 0
    for written in value.split(","):
        uri = written.strip(" \t")
        address, mark, size = uri.partition("!")
        if mark and _SIZE.fullmatch(mark + size):
            wrong.append(f"RFC 9989 removed !{size} in {name}=")
            uri = address
        if not _is_report_uri(uri):
            wrong.append(f"“{uri}” in {name}= is not a URI such as mailto:dmarc@example.com")
        elif uri[:7].lower() == "mailto:":
            mailed += 1
        else:
            other += 1
    if not mailed and not other:
        return f"{name}= contains no URI such as mailto:dmarc@example.com", []
    if not mailed:
        wrong.append(f"{name}= has no mailto URI, and few send reports otherwise")
    return "", wrong


def _is_report_uri(uri: str) -> bool:
    if _URI.fullmatch(uri) is None:
        return False
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "mailto":
        return True
    try:
        return "." in canonical(unquote(rest.partition("?")[0])).rpartition("@")[2]
    except AddressError:
        return False


def _shown(octets: bytes) -> str:
    text = octets.strip(b" \t")[:60].decode("ascii", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]
