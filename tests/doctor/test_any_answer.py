"""Invariant: whatever the DNS holds, every check ends with a finding."""

import asyncio
import ipaddress
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpproxy.doctor.dmarc import (
    PublishedKey,
    find_dmarc,
    judge_alignment,
    judge_dkim,
    judge_dmarc,
)
from smtpproxy.doctor.finding import Status
from smtpproxy.doctor.hosts import mx, ptr
from smtpproxy.doctor.spf import spf
from smtpproxy.relay.dkim_signing import new_key
from smtpproxy.resolver import Answer, DnsFailure, Kind, MxRecord
from smtpproxy.settings import DkimSettings
from tests.kit.soak import times

KEY = new_key("ed25519")[1]
ADDRESSES = (ipaddress.ip_address("192.0.2.25"), ipaddress.ip_address("2001:db8::25"))

_pieces = st.sampled_from(
    [
        "v=spf1",
        "v=DMARC1;",
        "v=DKIM1;",
        "p=",
        "p=reject;",
        "p=none",
        "sp=",
        "psd=y;",
        "psd=n;",
        "t=y;",
        "k=ed25519;",
        "k=rsa;",
        "a",
        "mx",
        "ptr",
        "all",
        "+all",
        "-all",
        "include:",
        "exists:",
        "redirect=",
        "exp=",
        "ip4:",
        "ip6:",
        "192.0.2.0/24",
        "2001:db8::/32",
        "shop.example",
        "%{d}",
        "%{ir}",
        "%{l1r+}",
        "%{x}",
        "%",
        "%%",
        "/24",
        "//64",
        "/",
        ":",
        ";",
        "=",
        " ",
        " ",
        "~",
        "?",
        "é",
        "\x00",
        "\\",
        ".",
        "..",
        "AAAA",
    ]
)
_texts = st.lists(_pieces, max_size=14).map(lambda pieces: "".join(pieces).encode())
_spf = st.lists(_pieces, max_size=10).map(lambda p: ("v=spf1 " + " ".join(p)).encode())
_dmarc = st.lists(_pieces, max_size=6).map(lambda p: ("v=DMARC1; " + "".join(p)).encode())
_raw = st.binary(max_size=60)
_names = st.sampled_from(["", "mta.shop.example", "\\000.example", "x" * 63 + ".example", "."])
_values = st.sampled_from(["192.0.2.25", "2001:db8::25", "198.51.100.1"])
_answers = st.one_of(
    st.none(),
    st.builds(
        Answer,
        texts=st.lists(st.one_of(_spf, _dmarc, _texts, _raw), max_size=2).map(tuple),
        exchangers=st.lists(st.builds(MxRecord, st.just(10), _names), max_size=12).map(tuple),
        values=st.lists(_values, max_size=3).map(tuple),
        exists=st.booleans(),
    ),
)


_OTHER_FAMILY = Answer(texts=(b"v=spf1 ptr a",), values=("192.0.2.25",), exists=True)


@given(st.lists(_answers, min_size=1, max_size=12))
@example([_OTHER_FAMILY])  # IPv4 in answer to AAAA: 192.0.2.25/128 is not a network
@settings(max_examples=times(100, 5_000), deadline=None)
def test_every_check_ends_with_a_finding(answers: list[Answer | None]) -> None:
    asked = 0

    async def lookup(name: str, kind: Kind) -> Answer:
        nonlocal asked
        asked += 1
        answer = answers[asked % len(answers)]
        if answer is None:
            raise DnsFailure("no answer")
        return answer

    async def examine() -> None:
        sender = await spf(lookup, "shop.example", ADDRESSES)
        own = DkimSettings("shop.example", "s1", Path("/s1"))
        texts = next((a.texts for a in answers if a is not None), ())
        records = [PublishedKey(own, KEY, texts=texts)]
        signed = judge_dkim("shop.example", records)
        found = [sender, *signed, await mx(lookup, "shop.example"), await ptr(lookup, ADDRESSES[0])]
        try:
            policy = await find_dmarc(lookup, "news.shop.example")
        except DnsFailure:
            pass
        else:
            found.append(judge_dmarc("news.shop.example", policy))
            found.append(judge_alignment("shop.example", policy, sender, signed, records, {}))
        for each in found:
            assert each.status in Status
            assert each.text
            assert each.fix or each.status in (Status.PASS, Status.UNKNOWN)

    asyncio.run(examine())
    assert asked < 600
