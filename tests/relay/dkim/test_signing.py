"""Our signatures verify with dkimpy, for any message, and cover what they should."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpproxy.mail.dkim import SigningFailed, read_signature
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.relay.content import Body, Content, Spool
from smtpproxy.relay.dkim_signing import Keyring, Signer, sign
from smtpproxy.settings import DkimSettings
from smtpproxy.wire.content import stuffed
from tests.kit.dkim import KeyFile, verdicts
from tests.kit.messages import marketing
from tests.kit.soak import times

AT = datetime(2026, 6, 1, tzinfo=UTC)
MOMENT = int(AT.timestamp())


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[KeyFile]:
    folder = tmp_path_factory.mktemp("keys")
    return [KeyFile(folder, "r1"), KeyFile(folder, "e1", kind="ed25519")]


def _ring(keys: list[KeyFile]) -> Keyring:
    return Keyring.of([DkimSettings(key.domain, key.selector, key.path) for key in keys])


def _signed(keys: list[KeyFile], message: bytes) -> bytes:
    head, empty, body = message.partition(b"\r\n\r\n")
    headers = HeaderBlock(head + empty)
    chosen = _ring(keys).in_force(("shop.example",), "offers", AT)
    return sign(chosen, headers, Body(lambda: iter([body]), len(body)), MOMENT) + message


def test_both_types_of_key_sign_at_once(keys: list[KeyFile]) -> None:
    message = _signed(keys, marketing())
    assert verdicts(message, *keys) == [True, True]
    first, second = (
        read_signature(field + b"\r\n", MOMENT)
        for field in HeaderBlock(message).raw_values("DKIM-Signature")
        for field in [b"DKIM-Signature:" + field.removesuffix(b"\r\n")]
    )
    assert (first.algorithm, second.algorithm) == (b"rsa-sha256", b"ed25519-sha256")
    assert first.selector != second.selector  # RFC 8463 section 3
    assert first.covers(b"list-unsubscribe", b"list-unsubscribe-post")
    assert first.limit is None


@pytest.mark.parametrize(
    "name", ["From", "Subject", "To", "List-Unsubscribe", "List-Unsubscribe-Post"]
)
def test_a_field_added_afterwards_breaks_the_signature(keys: list[KeyFile], name: str) -> None:
    message = _signed(keys, marketing())
    assert verdicts(name.encode() + b": x@shop.example\r\n" + message, *keys) == [False, False]


def test_trace_fields_added_afterwards_do_not(keys: list[KeyFile]) -> None:
    message = _signed(keys, marketing())
    assert verdicts(b"Received: by mx.example\r\nX-Other: 1\r\n" + message, *keys) == [True, True]


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Subject", "TO", "reply-to", "X-Any", "List-Id", "Cc", "Received"]),
        st.text(alphabet='ab \té:;=<>"', max_size=30),
        st.booleans(),
    ),
    max_size=8,
)
BODIES = st.lists(st.text(alphabet="ab \t.é", max_size=20), max_size=8)


@settings(
    max_examples=times(20, 1_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(HEADERS, BODIES)
def test_any_message_verifies_with_dkimpy(
    keys: list[KeyFile], headers: list[tuple[str, str, bool]], lines: list[str]
) -> None:
    head = "From: a@shop.example\r\n"
    for name, value, folded in headers:
        head += f"{name}:{value}x{chr(13) + chr(10) + ' y' if folded else ''}\r\n"
    message = (head + "\r\n" + "".join(f"{line}\r\n" for line in lines)).encode()
    assert verdicts(_signed(keys, message), *keys) == [True, True]


@pytest.mark.parametrize("size", [10, 200_000, 3_000_000])
async def test_spooled_content_is_signed_as_it_will_be_sent(
    keys: list[KeyFile], tmp_path: Path, size: int
) -> None:
    line = b".a line that begins with a dot  \r\n..\r\n.\r\n"
    message = marketing(body="") + line * (size // len(line) + 1)
    content = Content(Spool(tmp_path, threshold=1_000_000))
    wire = stuffed(message)
    for start in range(0, len(wire), 65_521):  # cuts anywhere, even inside CRLF
        content.append(wire[start : start + 65_521])
    with ThreadPoolExecutor(1) as threads:
        signer = Signer(_ring(keys), threads)
        chosen = signer.keys(("shop.example",), "offers", AT)
        header = HeaderBlock(message[: message.index(b"\r\n\r\n") + 4])
        field = await signer.sign(chosen, header, content.body(), AT)
    content.close()
    assert verdicts(field + message, *keys) == [True, True]


async def test_content_that_cannot_be_read_is_not_sent_unsigned(keys: list[KeyFile]) -> None:
    def broken() -> object:
        raise OSError("disk gone")

    with ThreadPoolExecutor(1) as threads:
        signer = Signer(_ring(keys), threads)
        chosen = signer.keys(("shop.example",), "offers", AT)
        with pytest.raises(SigningFailed, match="disk gone"):
            await signer.sign(
                chosen, HeaderBlock(b"From: a@shop.example\r\n\r\n"), Body(broken, 9), AT
            )  # type: ignore[arg-type]


async def test_a_large_body_does_not_hold_up_the_loop(keys: list[KeyFile]) -> None:
    piece = b"a line of text that is long enough to be one, and to be hashed\r\n" * 4096
    body = Body(lambda: iter([piece] * 100), 100 * len(piece))  # 27 MB
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    with ThreadPoolExecutor(1) as threads:
        signer = Signer(_ring(keys), threads)
        chosen = signer.keys(("shop.example",), "offers", AT)
        task = asyncio.create_task(others())
        await signer.sign(chosen, HeaderBlock(b"From: a@shop.example\r\n\r\n"), body, AT)
        task.cancel()
    assert turns > 20


def test_the_body_is_hashed_once_for_all_copies(keys: list[KeyFile]) -> None:
    asked = []

    def pieces() -> object:
        asked.append(1)
        return iter([b"hello\r\n"])

    body = Body(pieces, 7)  # type: ignore[arg-type]
    chosen = _ring(keys).in_force(("shop.example",), "offers", AT)
    for number in range(3):
        header = f"From: a@shop.example\r\nList-Unsubscribe: <https://x/{number}>\r\n\r\n".encode()
        field = sign(chosen, HeaderBlock(header), body, MOMENT)
        assert dkim.DKIM(field + header + b"hello\r\n").verify(
            dnsfunc=lambda name, timeout=5: str(keys[0].record).encode()
        )
    assert len(asked) == 1
