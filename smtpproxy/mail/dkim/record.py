"""The DNS record that holds a public key (RFC 6376 section 3.6.1, RFC 8463)."""

import binascii
from base64 import b64decode, b64encode
from typing import Literal

from msgspec import Struct

from smtpproxy.mail.dkim.tags import TagError, read_tags, unspaced

KeyType = Literal["rsa", "ed25519"]
FEWEST_BITS = 1024
"""RFC 8301 section 3.2: what is signed with a smaller RSA key is not signed."""
_STRING = 255  # octets of one string of a TXT record


class KeyRecord(Struct, frozen=True):
    """`public` is what `p=` holds: an RSA SubjectPublicKeyInfo in DER, or 32 octets."""

    key_type: KeyType
    public: bytes
    testing: bool = False
    same_domain: bool = False  # i= has to be of d= itself, not of a part of it

    def __str__(self) -> str:
        return f"v=DKIM1; k={self.key_type}; p={b64encode(self.public).decode()}"


def read_record(text: bytes) -> KeyRecord:
    """Read what a TXT record says, its strings joined. Raises TagError with what is wrong."""
    tags = read_tags(text)
    if tags.get(b"v", b"DKIM1") != b"DKIM1" or (b"v" in tags and next(iter(tags)) != b"v"):
        raise TagError("it is no DKIM record")
    if b"p" not in tags:
        raise TagError("there is no p= in it")
    kind = tags.get(b"k", b"rsa")
    if kind not in (b"rsa", b"ed25519"):
        raise TagError("its type of key is not known")
    if b"h" in tags and b"sha256" not in unspaced(tags[b"h"]).split(b":"):
        raise TagError("it does not take sha256")
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
    """Return the record as a line of a zone file, cut into strings that DNS can carry."""
    text = str(record)
    strings = [text[i : i + _STRING] for i in range(0, len(text), _STRING)]
    quoted = " ".join(f'"{string}"' for string in strings)
    return f"{name}. IN TXT {f'( {quoted} )' if len(strings) > 1 else quoted}"
