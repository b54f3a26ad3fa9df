"""Encoded words in List-Unsubscribe (RFC 2369 forbids them): the relay decodes the field, unless
a signature of the incoming message covers it."""

from collections.abc import Callable

import pytest

from smtpproxy.mail.headers import HeaderBlock
from tests.kit.messages import marketing
from tests.kit.ports import wait_for
from tests.kit.relay import STREAMS, RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

JEANNE = address("consent")
ENCODED = "=?utf-8?q?=3Chttps=3A//u=2Eshop=2Eexample/AZm2=3E?=, <mailto:stop@shop.example>"
PLAIN = b" <https://u.shop.example/AZm2>,\r\n <mailto:stop@shop.example>\r\n"


@pytest.fixture(scope="module")
def relay(filled: Callable[..., RelayProcess], mta: FakeUpstream) -> RelayProcess:
    streams = [{**STREAMS[0], "check_dkim": False}, {**STREAMS[3], "mode": "observe"}]
    return filled(mta.address, {"stream": streams, "web": {}})


def _arrived(relay: RelayProcess, mta: FakeUpstream, mail: bytes) -> list[bytes]:
    before = len(mta.messages)
    code, text = relay.send(mail, JEANNE)
    assert code == 250, text
    assert len(mta.messages) == before + 1
    return HeaderBlock(mta.messages[-1].data).raw_values("List-Unsubscribe")


def test_the_field_is_decoded(relay: RelayProcess, mta: FakeUpstream) -> None:
    mail = marketing(unsubscribe=ENCODED)
    assert _arrived(relay, mta, mail) == [PLAIN]
    name = "smtpproxy_unsubscribe_encoded_total"
    wait_for(lambda: relay.metric(name, stream="offers") >= 1, "the count")


@pytest.mark.parametrize("name", ["DKIM-Signature", "ARC-Message-Signature"])
@pytest.mark.parametrize("covers", [True, False])
def test_a_signed_field_is_relayed_unchanged(
    relay: RelayProcess, mta: FakeUpstream, name: str, covers: bool
) -> None:
    names = "from:list-unsubscribe" if covers else "from:subject"
    signature = (name, f"v=1; a=rsa-sha256; d=shop.example; s=s; h={names}; bh=YQ==; b=YQ==")
    mail = marketing(unsubscribe=ENCODED, headers=[signature])
    as_it_came = [b" " + ENCODED.encode() + b"\r\n"]
    assert _arrived(relay, mta, mail) == (as_it_came if covers else [PLAIN])


def test_in_observe_mode_the_field_is_relayed_unchanged(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    mail = marketing(unsubscribe=ENCODED, stream="b2b")
    assert _arrived(relay, mta, mail) == [b" " + ENCODED.encode() + b"\r\n"]
