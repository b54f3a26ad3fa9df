"""`smtpproxy dkim`: keys for signing, their DNS records, and the signatures of a message."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal

import click
from msgspec import Struct

from smtpproxy.cli import fail, failing
from smtpproxy.cli.options import ExistingFile, MessageFile, argument, command, option, several
from smtpproxy.cli.printer import Aside, Part, Result
from smtpproxy.core.perform import UNSUBSCRIBE
from smtpproxy.disk import flush, give_to_owner_of, is_dir, sync_path
from smtpproxy.mail.dkim import NAME, signed_names, zone_line
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.long_lines import has_broken_line
from smtpproxy.policy.model import SignatureState
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim_verifying import Verifier, record_of
from smtpproxy.relay.dkimpy import Dkimpy, Verdict
from smtpproxy.resolver import Answer, Resolver
from smtpproxy.settings import DkimSettings, Settings
from smtpproxy.settings.names import selector as read_selector
from smtpproxy.settings.places import domain as read_domain
from smtpproxy.store.import_jobs import private

if TYPE_CHECKING:
    from smtpproxy.relay.dkim_signing import SigningKey

_LINE = re.compile(r"^\s*(\S+?)\.?\s+(?:\d+\s+)?(?:IN\s+)?TXT\s+(.+)$", re.IGNORECASE)
_STRINGS = re.compile(r'"((?:[^"\\]|\\.)*)"')
_VALID = (Verdict.VALID, Verdict.PARTLY)

_File = Annotated[Path, click.Path(path_type=Path)]
Texts = Callable[[str], Awaitable[Answer]]


@click.group("dkim")
def dkim() -> None:
    """Make keys for DKIM, print what to publish, check signatures.

    The signing keys are named in [[dkim]] of the configuration; docs/dkim.md describes how to
    set them up and how to replace them.
    """


@command("keygen", dkim)
def keygen(
    file: _File,
    config: Path,
    domain: str = option("The domain whose mail it signs.", required=True, metavar="DOMAIN"),
    selector: str = option("The selector to publish it under.", required=True, metavar="NAME"),
    kind: Literal["rsa", "ed25519"] = option(
        "The kind of key. Everyone can verify RSA; use Ed25519 only for a second key.",
        name="--type",
        default="rsa",
    ),
    bits: Literal["2048", "3072", "4096"] = option(
        "The size of an RSA key; 2048 works with every DNS and every verifier.", default="2048"
    ),
) -> Result:
    """Make a key in a new FILE (mode 0600), and print its DNS record."""
    from smtpproxy.relay.dkim_signing import new_key

    made = _checked_settings(domain, selector, file)
    pem, key = new_key(kind, int(bits))
    try:
        _write(file, pem, _state_dir(config))
    except FileExistsError:
        fail(f"{file} already exists: a key is never overwritten")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    text = [
        f"{file}: a new {kind} key. Publish:",
        zone_line(made.record_name, key.record),
        "",
        "and sign with it:",
        "[[dkim]]",
        f'domain = "{made.domain}"',
        f'selector = "{made.selector}"',
        f'key = "{file.resolve()}"',
    ]
    return Result(_as_object(made, key), text)


def _write(file: Path, pem: bytes, state_dir: Path | None) -> None:
    """Make the file, whole or not at all. Without a `state_dir` it stays root's, wherever it is."""
    with open(file, "xb", opener=private) as out:
        try:
            if state_dir is not None and is_dir(state_dir):
                give_to_owner_of(state_dir, out.fileno())
            out.write(pem)
            flush(out)
            sync_path(file.parent)
        except BaseException:
            file.unlink()
            raise


def _state_dir(config: Path) -> Path | None:
    """Return the folder whose owner, the relay's user, gets the key, if that is known already."""
    from smtpproxy.config import ConfigError, load

    try:
        return load(config).server.state_dir
    except ConfigError:
        return None  # the key may come before the configuration


@command("record", dkim)
def record(
    settings: Settings,
    file: _File | None,
    domain: str | None = option(
        "The key's domain; without FILE, only the configured keys of it.", metavar="DOMAIN"
    ),
    selector: str | None = option(
        "The key's selector; without FILE, only the configured key with it.", metavar="NAME"
    ),
) -> Result:
    """Print the DNS records of the configured keys, or of the key in FILE."""
    chosen = [
        each
        for each in settings.dkim
        if domain in (None, each.domain) and selector in (None, each.selector)
    ]
    if file is not None:
        if domain is None or selector is None:
            raise click.UsageError(
                "FILE needs --domain and --selector: a key file does not hold them"
            )
        chosen = [_checked_settings(domain, selector, file)]
    if not chosen:
        fail("no such key: the configuration has no [[dkim]] for it")
    keys = [(each, _key(each.key)) for each in chosen]
    return Result(
        [_as_object(each, key) for each, key in keys],
        (zone_line(each.record_name, key.record) for each, key in keys),
    )


@command("verify", dkim)
def verify(
    settings: Settings,
    message: Annotated[BinaryIO, MessageFile("rb")] = argument(metavar="MESSAGE.eml"),
    records: tuple[ExistingFile, ...] = several(
        "Read records from FILE, as keygen prints them, instead of the DNS.",
        name="--record",
        metavar="FILE",
    ),
) -> Result:
    """Check every DKIM signature of MESSAGE.eml (- for standard input).

    dkimpy checks each one independently. Exits with 0 when at least one is valid by both
    verifiers, otherwise with 1.
    """
    known = _read_records(records) if records else None
    limit = settings.server.data_size_limit
    raw = message.read(limit + 1)
    if len(raw) > limit:
        fail(f"{message.name}: more than server.data_size_limit, {limit:,} octets")
    found = asyncio.run(_check(settings, _on_the_wire(raw), known))
    return Result(found, _signatures(found), 0 if any(each.valid for each in found) else 1)


def _signatures(found: "Sequence[_Checked]") -> Iterator[Part]:
    for each in found:
        name = f"{each.domain} (selector {each.selector})" if each.domain else "a signature"
        covers = "" if each.covers_unsubscribe else "; does not cover both unsubscribe fields"
        detail = f": {each.detail}" if each.detail else ""
        yield f"{name}: {each.state}{detail}{covers}{_dkimpy_verdict(each)}"
    if not found:
        yield Aside("no DKIM signature")


def _dkimpy_verdict(found: "_Checked") -> str:
    """Return dkimpy's verdict, and whether it agrees."""
    if found.dkimpy is None:
        return ""
    if found.dkimpy is Verdict.UNANSWERED:
        return "; dkimpy gives no answer"
    agrees = (found.state is SignatureState.VALID) is (found.dkimpy in _VALID)
    return f"; dkimpy{'' if agrees else ' disagrees'}: {found.dkimpy}"


def _checked_settings(domain: str, selector: str, file: Path) -> DkimSettings:
    try:
        return DkimSettings(read_domain(domain), read_selector(selector), file)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _key(path: Path) -> "SigningKey":
    from smtpproxy.relay.dkim_signing import KeyFault, read_key

    with failing(KeyFault):
        return read_key(path)


def _as_object(of: DkimSettings, key: "SigningKey") -> dict[str, object]:
    return {
        "file": of.key,
        "domain": of.domain,
        "selector": of.selector,
        "type": key.record.key_type,
        "bits": key.bits,
        "name": of.record_name,
        "record": str(key.record),
    }


class _Checked(Struct, frozen=True):
    """One signature of the message."""

    domain: str
    selector: str
    state: SignatureState
    detail: str
    covers_unsubscribe: bool
    dkimpy: Verdict | None = None  # not asked if the DNS has no record

    @property
    def valid(self) -> bool:
        """By both the relay's own verifier and dkimpy."""
        return self.state is SignatureState.VALID and self.dkimpy in _VALID


def _on_the_wire(raw: bytes) -> bytes:
    """Return a message from a file as SMTP carries it: every line ends in CRLF."""
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", raw)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def _split(message: bytes) -> tuple[HeaderBlock, Body]:
    """Return header and body of a message as SMTP carries it."""
    end = message.find(b"\r\n\r\n")
    at = len(message) if end < 0 else end + 4
    body = message[at:]
    return HeaderBlock(message[:at]), Body(lambda: iter((body,)), len(body))


def _read_records(paths: Sequence[Path]) -> Mapping[str, bytes]:
    """Return by name the records in files of zone lines."""
    records = {}
    for path in paths:
        with failing((OSError, UnicodeDecodeError), f"{path} cannot be read: "):
            lines = path.read_text("utf-8").splitlines()
        for line in lines:
            found = _LINE.match(line)
            if found is not None:
                text = "".join(_STRINGS.findall(found[2]))
                records[found[1].lower()] = text.replace("\\;", ";").encode()
    if not records:
        right = 's2026._domainkey.example.com. IN TXT "v=DKIM1; …"'
        fail(f"--record: no record found; expected lines such as {right}")
    return records


async def _check(
    settings: Settings, message: bytes, records: Mapping[str, bytes] | None
) -> list[_Checked]:
    headers, body = _split(message)
    key = NAME.lower().encode()
    fields = headers.raw_fields((key,)).get(key, [])
    ask, dkimpy = texts(settings, records), Dkimpy()
    with ThreadPoolExecutor(1) as threads:
        found = await Verifier(ask, threads, time.time).check(headers, body, until_valid=False)
    checked = []
    try:
        for index, (each, field) in enumerate(zip(found, fields, strict=False)):
            verdict, record = None, None
            if each.domain:
                record = await record_of(ask, f"{each.selector}._domainkey.{each.domain}")
            if record is not None:
                verdict = await dkimpy.verdict(message, index, each.domain, record)
            covers = set(UNSUBSCRIBE) <= signed_names(field)
            detail = each.detail
            if each.state is SignatureState.BROKEN and has_broken_line(message):
                detail += "; an MTA has broken a line of more than 998 octets"
            checked.append(
                _Checked(each.domain, each.selector, each.state, detail, covers, verdict)
            )
    finally:
        await dkimpy.close()
    return checked


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
