"""DKIM without keys or network (RFC 6376): tag lists, key records, signature fields."""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from smtpproxy.mail.dkim_canonical import relaxed_value

_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_SPACE = re.compile(rb"[ \t\r\n]+")


class SigningFailed(Exception):
    """A message that must be signed cannot be; the text is private."""


class TagError(ValueError):
    """A tag list that cannot be read, or a tag without a usable value."""


def read_tags(text: bytes) -> dict[bytes, bytes]:
    """Return the tags and their values, without surrounding white space. Raises TagError."""
    tags: dict[bytes, bytes] = {}
    specs = text.split(b";")
    if not specs[-1].strip(b" \t\r\n"):
        specs.pop()
    for spec in specs:
        name, equals, value = spec.partition(b"=")
        name = name.strip(b" \t\r\n")
        if not equals or _NAME.fullmatch(name) is None:
            raise TagError("not a list of tag=value")
        if name in tags:
            raise TagError(f"the tag {name.decode()}= appears twice")
        tags[name] = value.strip(b" \t\r\n")
    return tags


def unspaced(value: bytes) -> bytes:
    """Return a value without the white space that folding may have added."""
    return _SPACE.sub(b"", value)


KeyType = Literal["rsa", "ed25519"]
MIN_BITS = 1024
"""RFC 8301 section 3.2: a signature with a smaller RSA key does not count."""
_STRING = 255  # octets of one string of a TXT record


class KeyRecord(Struct, frozen=True):
    """`public` is the value of `p=`: an RSA SubjectPublicKeyInfo in DER, or 32 octets."""

    key_type: KeyType
    public: bytes
    testing: bool = False
    same_domain: bool = False  # i= must be in d= itself, not in a subdomain

    def __str__(self) -> str:
        return f"v=DKIM1; k={self.key_type}; p={b64encode(self.public).decode()}"


def read_record(text: bytes) -> KeyRecord:
    """Read a TXT record, its strings joined. Raises TagError with what is wrong."""
    tags = read_tags(text)
    if tags.get(b"v", b"DKIM1") != b"DKIM1" or (b"v" in tags and next(iter(tags)) != b"v"):
        raise TagError("it is not a DKIM record")
    if b"p" not in tags:
        raise TagError("it has no p=")
    kind = tags.get(b"k", b"rsa")
    if kind not in (b"rsa", b"ed25519"):
        raise TagError("its key type is unknown")
    if b"h" in tags and b"sha256" not in unspaced(tags[b"h"]).split(b":"):
        raise TagError("it does not allow sha256")
    if not {b"*", b"email"} & set(unspaced(tags.get(b"s", b"*")).split(b":")):
        raise TagError("it is not for mail")
    if not tags[b"p"]:
        raise TagError("the key was revoked")
    try:
        public = b64decode(unspaced(tags[b"p"]), validate=True)
    except binascii.Error:
        raise TagError("its p= is not base64") from None
    flags = unspaced(tags.get(b"t", b"")).split(b":")
    key_type: KeyType = "rsa" if kind == b"rsa" else "ed25519"
    return KeyRecord(key_type, public, b"y" in flags, b"s" in flags)


def zone_line(name: str, record: KeyRecord) -> str:
    """Return the record as a line of a zone file, split into strings that fit into DNS."""
    text = str(record)
    strings = [text[i : i + _STRING] for i in range(0, len(text), _STRING)]
    quoted = " ".join(f'"{string}"' for string in strings)
    return f"{name}. IN TXT {f'( {quoted} )' if len(strings) > 1 else quoted}"


NAME = "DKIM-Signature"
LONGEST = 16_384  # octets of a field; no honest one is longer
ALGORITHMS = (b"rsa-sha256", b"ed25519-sha256")
"""RFC 8301 section 3.1: never SHA-1."""

_LINE = 74  # octets, with the tab that continues a field
_USUAL = 64  # signed names; longer lists are not cached
_CLOCKS_APART = 3600.0  # seconds; a signature from slightly in the future is not a forgery


class Signature(Struct, frozen=True):
    """The content of a DKIM-Signature field, checked as far as possible without the key."""

    domain: str
    selector: str
    algorithm: bytes
    names: tuple[bytes, ...]  # of the signed fields, in lower case
    body_hash: bytes
    value: bytes  # the signature itself
    relaxed_header: bool
    relaxed_body: bool
    limit: int | None = None  # octets of the body that are signed
    of_domain: bool = True  # its i= is in d= itself, not in a subdomain

    @property
    def record_name(self) -> str:
        """The DNS name of its key."""
        return f"{self.selector}._domainkey.{self.domain}"

    def covers(self, *names: bytes) -> bool:
        return set(names).issubset(self.names)


def read_signature(field: bytes, now: float) -> Signature:
    """Read a whole field. `now` is Unix time. Raises TagError with what is wrong."""
    if len(field) > LONGEST:
        raise TagError(f"the field is longer than {LONGEST} octets")
    tags = read_tags(field.partition(b":")[2])
    for name in (b"v", b"a", b"b", b"bh", b"d", b"h", b"s"):
        if not tags.get(name):
            raise TagError(f"it has no {name.decode()}=")
    if tags[b"v"] != b"1":
        raise TagError("its version is not 1")
    if tags[b"a"] not in ALGORITHMS:
        raise TagError("it is neither rsa-sha256 nor ed25519-sha256")
    if b"dns/txt" not in unspaced(tags.get(b"q", b"dns/txt")).split(b":"):
        raise TagError("its key is not in the DNS")
    header, _, body = tags.get(b"c", b"simple/simple").partition(b"/")
    if {header, body or b"simple"} - {b"simple", b"relaxed"}:
        raise TagError("its canonicalization is unknown")
    names = tuple(name.strip(b" \t\r\n").lower() for name in tags[b"h"].split(b":"))
    if b"from" not in names:
        raise TagError("it does not cover From")
    domain, selector = _tag_text(tags, b"d").lower(), _tag_text(tags, b"s").lower()
    identity = _tag_text(tags, b"i").lower().rpartition("@")[2] if b"i" in tags else domain
    if identity != domain and not identity.endswith(f".{domain}"):
        raise TagError("its i= is not within its d=")
    _check_times(tags, now)
    return Signature(
        domain=domain,
        selector=selector,
        algorithm=tags[b"a"],
        names=names,
        body_hash=_octets(tags, b"bh"),
        value=_octets(tags, b"b"),
        relaxed_header=header == b"relaxed",
        relaxed_body=body == b"relaxed",
        limit=_number(tags, b"l"),
        of_domain=identity == domain,
    )


def signed_names(field: bytes) -> frozenset[bytes]:
    """Return the names in a field's `h=`, in lower case; none if it cannot be read."""
    try:
        tags = read_tags(field.partition(b":")[2]) if len(field) <= LONGEST else {}
    except TagError:
        return frozenset()
    return frozenset(name.strip(b" \t\r\n").lower() for name in tags.get(b"h", b"").split(b":"))


def hashed_signature(field: bytes, *, relaxed: bool = True) -> bytes:
    """Return the part of the signature's own field that is hashed: all but the value of `b=`."""
    name, _, value = field.partition(b":")
    specs = value.split(b";")
    for index, spec in enumerate(specs):
        tag = spec.partition(b"=")[0]
        if tag.strip(b" \t\r\n") == b"b":
            specs[index] = tag + b"="
    value = b";".join(specs)
    if relaxed:
        return b"dkim-signature:" + relaxed_value(value)
    return (name + b":" + value).removesuffix(b"\r\n")


def unsigned_field(
    algorithm: str, domain: str, selector: str, at: int, names: Sequence[bytes], body_hash: bytes
) -> bytes:
    """Return a field up to `b=`; the result of `hashed_signature` for it is what gets signed."""
    return (
        b"%b: v=1; a=%b; c=relaxed/relaxed;\r\n\td=%b; s=%b;\r\n\tt=%d; h=%b;\r\n\tbh=%b;\r\n\tb="
        % (
            NAME.encode(),
            algorithm.encode(),
            domain.encode(),
            selector.encode(),
            at,
            _listed(tuple(names)) if len(names) <= _USUAL else _folded(names),
            b64encode(body_hash),
        )
    )


def signed_field(unsigned: bytes, signature: bytes) -> bytes:
    """Return the whole field, with its CRLF."""
    text = b64encode(signature)
    first = _LINE - 3  # after the tab and `b=`
    lines = [text[:first], *(text[i : i + _LINE] for i in range(first, len(text), _LINE))]
    return unsigned + b"\r\n\t ".join(lines) + b"\r\n"


@lru_cache(maxsize=256)
def _listed(names: tuple[bytes, ...]) -> bytes:
    """The folded names, cached because apps write the same fields again and again."""
    return _folded(names)


def _folded(names: Sequence[bytes]) -> bytes:
    """The names separated by colons, folded."""
    lines, line = [], b""
    for name in names:
        joined = line + b":" + name if line else name
        if len(joined) > _LINE - 16 and line:
            lines.append(line + b":")
            joined = name
        line = joined
    return b"\r\n\t ".join([*lines, line])


def _check_times(tags: dict[bytes, bytes], now: float) -> None:
    made, ends = _number(tags, b"t"), _number(tags, b"x")
    if made is not None and made > now + _CLOCKS_APART:
        raise TagError("it was made in the future")
    if ends is not None and (ends < now or ends < (made or 0)):
        raise TagError("it has expired")


def _tag_text(tags: dict[bytes, bytes], name: bytes) -> str:
    try:
        text = tags[name].decode("utf-8")
    except UnicodeDecodeError:
        raise TagError(f"its {name.decode()}= cannot be read") from None
    if not text.isprintable() or " " in text:
        raise TagError(f"its {name.decode()}= cannot be read")
    return text


def _octets(tags: dict[bytes, bytes], name: bytes) -> bytes:
    try:
        return b64decode(unspaced(tags[name]), validate=True)
    except binascii.Error:
        raise TagError(f"its {name.decode()}= is not base64") from None


def _number(tags: dict[bytes, bytes], name: bytes) -> int | None:
    if name not in tags:
        return None
    if not tags[name].isdigit() or len(tags[name]) > 76:
        raise TagError(f"its {name.decode()}= is not a number")
    return int(tags[name])
