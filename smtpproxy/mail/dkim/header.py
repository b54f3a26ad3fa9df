"""Which header fields a signature covers, and in what form they are hashed."""

from collections.abc import Iterable, Mapping, Sequence

from smtpproxy.mail.dkim.body import relaxed_space

SIGNED = frozenset(
    b"from sender reply-to subject date message-id to cc mime-version content-type"
    b" content-transfer-encoding content-id content-description resent-date resent-from"
    b" resent-sender resent-to resent-cc resent-message-id in-reply-to references"
    b" list-id list-help list-unsubscribe list-subscribe list-post list-owner list-archive"
    b" list-unsubscribe-post feedback-id auto-submitted".split()
)
"""What is signed where it is there: what dkimpy recommends (RFC 6376 5.4.1), and the fields of
bulk mail that came later. Trace fields and what a relay may rewrite are not."""

ALWAYS = (b"from", b"subject", b"to", b"list-unsubscribe", b"list-unsubscribe-post")
"""Signed once more than they are there, so that nobody can add one (RFC 6376 8.15)."""

_ONCE_MORE = frozenset(
    name for name in SIGNED if name.startswith(b"list-") or name == b"feedback-id"
).union(ALWAYS)  # where they are there


def to_sign(values: Mapping[bytes, Sequence[bytes]]) -> tuple[tuple[bytes, ...], bytes]:
    """Return the names for the tag `h=` and what is hashed for it, relaxed.

    `values` has what stands after the colon of every field of `SIGNED`, from the top.
    """
    names: list[bytes] = []
    hashed: list[bytes] = []
    for name, found in values.items():
        for value in reversed(found):
            names.append(name)
            hashed.append(b"%b:%b\r\n" % (name, relaxed_value(value)))
        if name in _ONCE_MORE:
            names.append(name)
    names += [name for name in ALWAYS if name not in values]
    return tuple(names), b"".join(hashed)


def relaxed_value(value: bytes) -> bytes:
    """Return a field's value unfolded, its white space made single spaces (RFC 6376 3.4.2)."""
    return relaxed_space(value.replace(b"\r\n", b"")).strip(b" ")


def hashed_fields(
    names: Iterable[bytes], fields: Mapping[bytes, Sequence[bytes]], *, relaxed: bool = True
) -> bytes:
    """Return what is hashed of the header for a tag `h=`, the signature itself left out.

    `names` are in lower case; `fields` has the fields of each name as they stand in the
    message, from the top. They are taken from the bottom up; names beyond those that are
    there stand for nothing (RFC 6376 5.4.2).
    """
    left = {name: len(there) for name, there in fields.items()}
    hashed: list[bytes] = []
    for name in names:
        index = left.get(name, 0) - 1
        if index < 0:
            continue
        left[name] = index
        field = fields[name][index]
        if relaxed:
            field = b"%b:%b\r\n" % (name, relaxed_value(field.partition(b":")[2]))
        hashed.append(field)
    return b"".join(hashed)
