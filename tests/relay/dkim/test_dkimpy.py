"""dkimpy in separate processes, bounded in time and memory and killed beyond that."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim_signing import Keyring, sign
from smtpproxy.relay.dkimpy import Dkimpy, Verdict
from smtpproxy.settings import DkimSettings
from tests.kit.dkim import KeyFile, signed

PLAIN = b"From: a@mx.example\r\nSubject: hello\r\n\r\nWell.\r\n"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys"), domain="mx.example")


@pytest.fixture
async def dkimpy() -> AsyncIterator[Dkimpy]:
    opened = Dkimpy(seconds=0.3)
    yield opened
    await opened.close()


async def is_valid(dkimpy: Dkimpy, message: bytes, key: KeyFile, domain: str = "") -> bool:
    record = str(key.record).encode()
    return await dkimpy.is_valid(message, 0, domain or key.domain, record)


async def test_only_a_signature_by_that_domain_is_valid(
    dkimpy: Dkimpy, key: KeyFile, tmp_path: Path
) -> None:
    message = signed(PLAIN, key, ["From"])
    assert await is_valid(dkimpy, message, key)
    assert not await is_valid(dkimpy, message.replace(b"Well", b"Ill"), key)
    assert not await is_valid(dkimpy, message, key, "other.example")
    assert not await is_valid(dkimpy, message, KeyFile(tmp_path, domain="mx.example"))
    assert not await is_valid(dkimpy, PLAIN, key)
    assert not await is_valid(dkimpy, b"\r\n \x00", key)
    assert await is_valid(dkimpy, message, key)


async def test_a_signature_over_part_of_the_body_is_recognised(
    dkimpy: Dkimpy, key: KeyFile
) -> None:
    names = key.selector.encode(), key.domain.encode()
    field = dkim.sign(PLAIN, *names, key.pem, include_headers=[b"From"], length=True)
    record = str(key.record).encode()
    said = await dkimpy.verdict(field + PLAIN + b"More.\r\n", 0, key.domain, record)
    assert said is Verdict.PARTLY
    assert not await is_valid(dkimpy, field + PLAIN, key)


async def test_an_ed25519_signature_is_checked(dkimpy: Dkimpy, tmp_path: Path) -> None:
    key = KeyFile(tmp_path, domain="mx.example", kind="ed25519")
    head, empty, body = PLAIN.partition(b"\r\n\r\n")
    ring = Keyring.of([DkimSettings(key.domain, key.selector, key.path)])
    chosen = ring.in_force((key.domain,), "offers", datetime.now(UTC))
    content = Body(lambda: iter([body]), len(body))
    field = sign(chosen, HeaderBlock(head + empty), content, int(time.time()))
    assert await is_valid(dkimpy, field + PLAIN, key)


async def test_a_body_that_takes_too_long_is_invalid_and_blocks_nobody(
    dkimpy: Dkimpy, key: KeyFile
) -> None:
    spaces = (b" " * 990 + b"x") * 2000
    costly = signed(PLAIN, key, ["From"]) + spaces
    many = [is_valid(dkimpy, costly, key) for _ in range(3)]
    assert await asyncio.gather(*many) == [False] * 3
    assert await is_valid(dkimpy, signed(PLAIN, key, ["From"]), key)


async def test_a_long_run_of_spaces_never_reaches_dkimpy(dkimpy: Dkimpy, key: KeyFile) -> None:
    message = signed(PLAIN + b" \t" * 20_000 + b"x\r\n", key, ["From"], (b"simple", b"simple"))
    assert not await is_valid(dkimpy, message, key)


async def test_a_killed_process_is_replaced(dkimpy: Dkimpy, key: KeyFile) -> None:
    message = signed(PLAIN, key, ["From"])
    assert await is_valid(dkimpy, message, key)
    (process,) = dkimpy._idle
    process.kill()
    await process.wait()
    assert await is_valid(dkimpy, message, key)
