"""Whom a journal is about, without decoding its lines: most of them are about somebody else."""

import re
from collections.abc import Iterator
from contextlib import suppress
from mmap import mmap
from pathlib import Path

import msgspec

from smtpproxy.sinks.audit.files import mapped, segments

_CANONICAL = re.compile(rb'"canonical":("(?:[^"\\]|\\.)*")')

_text = msgspec.json.Decoder(str).decode


def odd_names(octets: bytes | mmap) -> Iterator[tuple[bytes, str]]:
    """Yield each canonical address in some octets that an MTA may take for another one, as it is
    written there, and what it is."""
    for match in _CANONICAL.finditer(octets):
        written = match[1]
        if b"%" in written or b"!" in written or b'\\"' in written or b".uucp" in written:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                yield written, _text(written)


def addressed(folder: Path) -> Iterator[str]:
    """Yield the canonical address of each recipient who is named, as often as they are, and None of
    whom was erased. Torn ends are looked at too. Raises OSError."""
    for files in segments(folder).values():
        for segment in files:
            with mapped(segment.path) as data:
                for match in _CANONICAL.finditer(data):
                    try:
                        yield _text(match[1])
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        continue  # torn, or edited: `audit verify` tells of it
