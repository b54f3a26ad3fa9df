"""The signatures of a message in a file, checked by the DNS or by records in files."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from smtpproxy.cli.common import fail
from smtpproxy.core.perform import UNSUBSCRIBE
from smtpproxy.mail.dkim import NAME, signed_names
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.model import SignatureFinding, SignatureState
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim.verifying import Verifier
from smtpproxy.resolver import Answer, Resolver
from smtpproxy.settings import Settings

_LINE = re.compile(r"^\s*(\S+?)\.?\s+(?:\d+\s+)?(?:IN\s+)?TXT\s+(.+)$", re.IGNORECASE)
_STRINGS = re.compile(r'"((?:[^"\\]|\\.)*)"')

Texts = Callable[[str], Awaitable[Answer]]


class Checked(Struct, frozen=True):
    """One signature of the message."""

    domain: str
    selector: str
    state: SignatureState
    detail: str
    covers_unsubscribe: bool


def on_the_wire(raw: bytes) -> bytes:
    """Return a message of a file as SMTP carries it: every line ends in CRLF."""
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", raw)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def split(message: bytes) -> tuple[HeaderBlock, Body]:
    """Return header and body of a message as SMTP carries it."""
    end = message.find(b"\r\n\r\n")
    at = len(message) if end < 0 else end + 4
    body = message[at:]
    return HeaderBlock(message[:at]), Body(lambda: iter((body,)), len(body))


def read_records(paths: Sequence[Path]) -> Mapping[str, bytes]:
    """Return the records in files, as lines of a zone, by their names."""
    records = {}
    for path in paths:
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{path} cannot be read: {error}")
        for line in lines:
            found = _LINE.match(line)
            if found is not None:
                text = "".join(_STRINGS.findall(found[2]))
                records[found[1].lower()] = text.replace("\\;", ";").encode()
    if not records:
        fail('no record is in there, such as: s2026._domainkey.example.com. IN TXT "v=DKIM1; …"')
    return records


def check(settings: Settings, raw: bytes, records: Mapping[str, bytes] | None) -> list[Checked]:
    """Check each signature on its own; `records` stand for the DNS."""
    headers, body = split(on_the_wire(raw))
    return asyncio.run(_check(settings, headers, body, records))


async def found_signatures(
    settings: Settings, headers: HeaderBlock, body: Body | None, threads: Executor
) -> tuple[SignatureFinding, ...]:
    """Return what the relay would find out about a message's signatures, by the DNS."""
    verifier = Verifier(texts(settings, None), threads, time.time)
    return await verifier.check(headers, body, UNSUBSCRIBE)


async def _check(
    settings: Settings, headers: HeaderBlock, body: Body, records: Mapping[str, bytes] | None
) -> list[Checked]:
    key = NAME.lower().encode()
    fields = headers.raw_fields((key,)).get(key, [])
    with ThreadPoolExecutor(1) as threads:
        verifier = Verifier(texts(settings, records), threads, time.time)
        found = await verifier.check(headers, body, until_valid=False)
    return [_checked(each, field) for each, field in zip(found, fields, strict=False)]


def _checked(found: SignatureFinding, field: bytes) -> Checked:
    covers = set(UNSUBSCRIBE) <= signed_names(field)
    return Checked(found.domain, found.selector, found.state, found.detail, covers)


def texts(settings: Settings, records: Mapping[str, bytes] | None) -> Texts:
    if records is not None:

        async def given(name: str) -> Answer:
            text = records.get(name)
            return Answer(exists=False) if text is None else Answer(texts=(text,))

        return given
    resolver = Resolver(settings.dns, time.monotonic)

    async def asked(name: str) -> Answer:
        return await resolver.lookup(name, "TXT")

    return asked
