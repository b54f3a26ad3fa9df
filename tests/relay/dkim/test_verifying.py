"""Applications' own signatures: valid, broken, unusable or unknown, with a DNS on loopback."""

import base64
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dkim
import pytest

from smtpproxy.mail.dkim import KeyRecord
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.model import SignatureFinding
from smtpproxy.relay import dkim_verifying
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim_verifying import MAX_SIGNATURES, Verifier
from smtpproxy.resolver import Answer, Resolver
from smtpproxy.settings import DnsSettings, TcpAddress
from tests.kit.dkim import KeyFile, signed
from tests.kit.dns import NameServer
from tests.kit.messages import marketing
from tests.kit.ports import LOOPBACK

WANTED = ["from", "subject", "list-unsubscribe", "list-unsubscribe-post"]
NO_KEY = KeyRecord("rsa", b"")
BOTH = (b"list-unsubscribe", b"list-unsubscribe-post")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def dns(key: KeyFile) -> Iterator[NameServer]:
    with NameServer(key.dns) as server:
        yield server


async def _found(
    dns: NameServer, message: bytes, *, with_body: bool = True, wanted: Sequence[bytes] = BOTH
) -> list[SignatureFinding]:
    head, empty, body = message.partition(b"\r\n\r\n")
    settings = DnsSettings((TcpAddress(LOOPBACK, dns.port),), timeout=0.5)
    resolver = Resolver(settings, time.monotonic)
    with ThreadPoolExecutor(1) as threads:
        verifier = Verifier(lambda name: resolver.lookup(name, "TXT"), threads, time.time)
        told = Body(lambda: iter([body]), len(body)) if with_body else None
        return list(await verifier.check(HeaderBlock(head + empty), told, wanted))


def _states(found: list[SignatureFinding]) -> str:
    return " ".join(each.state for each in found)


@pytest.mark.parametrize("header", [b"relaxed", b"simple"])
@pytest.mark.parametrize("body", [b"relaxed", b"simple"])
async def test_a_signature_by_dkimpy_is_valid(
    dns: NameServer, key: KeyFile, header: bytes, body: bytes
) -> None:
    text = " a  line \t of text \r\n.\r\n\r\n\r\n"
    message = signed(marketing(body=text), key, WANTED, (header, body))
    (found,) = await _found(dns, message)
    assert (found.state, found.domain, found.selector) == ("valid", "shop.example", "s1")


async def test_a_large_body_is_checked(dns: NameServer, key: KeyFile) -> None:
    message = signed(marketing(body="text\r\n" * 100_000), key, WANTED)
    assert _states(await _found(dns, message)) == "valid"
    assert _states(await _found(dns, message + b"more\r\n")) == "broken"


async def test_a_signature_that_does_not_cover_both_fields_is_not_looked_up(
    dns: NameServer, key: KeyFile
) -> None:
    message = signed(marketing(), key, ["from", "list-unsubscribe"])
    assert _states(await _found(dns, message)) == "uncovered"
    assert dns.asked == []
    assert _states(await _found(dns, message, wanted=())) == "valid"


async def test_one_valid_signature_among_several_is_enough(dns: NameServer, key: KeyFile) -> None:
    once = signed(marketing(), key, WANTED)
    twice = signed(once, key, ["from"])
    assert _states(await _found(dns, twice)) == "uncovered valid"
    assert _states(await _found(dns, signed(once, key, WANTED))) == "valid"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ((b"New shoes are in", b"Old shoes are in"), "the body"),
        ((b"Subject: New", b"Subject: Old"), "the header"),
        ((b"From: Shop", b"From: Shop2"), "the header"),
    ],
)
async def test_the_signature_of_a_changed_message_is_broken(
    dns: NameServer, key: KeyFile, change: tuple[bytes, bytes], detail: str
) -> None:
    message = signed(marketing(), key, WANTED)
    assert change[0] in message
    (found,) = await _found(dns, message.replace(*change))
    assert found.state == "broken"
    assert detail in found.detail


async def test_without_the_body_the_header_alone_is_checked(dns: NameServer, key: KeyFile) -> None:
    message = signed(marketing(), key, WANTED)
    changed = message.replace(b"New shoes are in", b"Old shoes are in")
    assert _states(await _found(dns, changed, with_body=False)) == "valid"
    other = message.replace(b"Subject: New", b"Subject: Old")
    assert _states(await _found(dns, other, with_body=False)) == "broken"


@pytest.mark.parametrize("fault", ["servfail", "refused", "silence", "garbage"])
async def test_a_signature_is_unknown_while_the_dns_does_not_answer(
    dns: NameServer, key: KeyFile, fault: str
) -> None:
    dns.fail(key.name, fault)  # type: ignore[arg-type]
    assert _states(await _found(dns, signed(marketing(), key, WANTED))) == "unknown"


async def test_an_answer_over_tcp_is_read(dns: NameServer, key: KeyFile) -> None:
    dns.fail(key.name, "truncated")
    assert _states(await _found(dns, signed(marketing(), key, WANTED))) == "valid"


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (None, "no key in the DNS"),
        ('"v=DKIM1; p="', "revoked"),
        ('"v=spf1 -all"', "not a DKIM record"),
        ('"v=DKIM1; k=ed25519; p=AAAA"', "another type"),
        ('"v=DKIM1; p=AAAA"', "contains no key"),
    ],
)
async def test_an_unusable_key_is_reported(
    dns: NameServer, key: KeyFile, record: str | None, detail: str
) -> None:
    dns.remove(key.name, "TXT")
    if record is not None:
        dns.add(f"{key.name} TXT {record}")
    (found,) = await _found(dns, signed(marketing(), key, WANTED))
    assert found.state == "unusable"
    assert detail in found.detail


@pytest.fixture
def short(tmp_path: Path) -> tuple[bytes, str]:
    """A 768-bit key in PEM, and its `p=`; `cryptography` refuses to make one that short."""
    made = subprocess.run(
        ["openssl", "genrsa", "-traditional", "768"], capture_output=True, check=True
    )
    public = subprocess.run(
        ["openssl", "rsa", "-pubout", "-outform", "DER"],
        input=made.stdout,
        capture_output=True,
        check=True,
    )
    return made.stdout, base64.b64encode(public.stdout).decode()


async def test_a_signature_with_a_short_key_is_worthless(
    dns: NameServer, short: tuple[bytes, str]
) -> None:
    pem, public = short
    dns.add(f'short._domainkey.shop.example TXT "v=DKIM1; p={public}"')
    names = [name.encode() for name in WANTED]
    message = marketing()
    field = dkim.sign(message, b"short", b"shop.example", pem, include_headers=names)
    (found,) = await _found(dns, field + message)
    assert (found.state, found.detail) == ("unusable", "its key has only 768 bits")


async def test_only_some_of_thousands_of_keys_are_tried(
    key: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker controls what their domain's DNS says."""
    read: list[bytes] = []

    def read_record(text: bytes) -> KeyRecord:
        read.append(text)
        return NO_KEY

    async def texts(name: str) -> Answer:
        return Answer(texts=(b"v=DKIM1; p=AAAA",) * 5_000)

    monkeypatch.setattr(dkim_verifying, "read_record", read_record)

    head, empty, _ = signed(marketing(), key, WANTED).partition(b"\r\n\r\n")
    with ThreadPoolExecutor(1) as threads:
        verifier = Verifier(texts, threads, time.time)
        (found,) = await verifier.check(HeaderBlock(head + empty), None, BOTH)
    assert found.state == "unusable"
    assert len(read) == 8


async def test_hostile_signatures_are_cheap_to_check(dns: NameServer) -> None:
    fields = [
        b"DKIM-Signature: " + b" " * 16_000 + b"!",
        b"DKIM-Signature: v=1; b=" + b"\r\n " * 5_000,
        b"DKIM-Signature: v=1; h=" + b"from:" * 3_000,
        b"DKIM-Signature: " + b"x" * 3_000_000,
    ] * 4
    message = b"\r\n".join(fields) + b"\r\n" + marketing()
    start = time.process_time()
    found = await _found(dns, message)
    assert time.process_time() - start < 2
    assert len(found) == MAX_SIGNATURES
    assert {each.state for each in found} == {"unusable"}
