"""Relaxed alignment by the DNS tree walk of RFC 9989."""

import pytest
from msgspec.structs import replace

from smtpproxy.core.domains import Organisations, with_organisations
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import Alignment, ContentFeatures, Transaction
from smtpproxy.resolver import Answer, DnsFailure
from tests.policy.cases import BOOK, GOOD_MESSAGE, NOW, OFFERS

RECORD = "v=DMARC1; p=none; rua=mailto:d@shop.example"
RELAXED = replace(OFFERS, alignment=Alignment.RELAXED, from_domains=frozenset())


async def reason(
    zone: dict[str, str | None],
    domain: str,
    *senders: str,
    alignment: Alignment = Alignment.RELAXED,
) -> tuple[str, int]:
    """The verdict and the number of DNS queries; None in the zone means no answer."""
    asked: list[str] = []

    async def texts(name: str) -> Answer:
        asked.append(name)
        text = zone.get(name.removeprefix("_dmarc."), "")
        if text is None:
            raise DnsFailure(f"no answer about {name}")
        return Answer(texts=(text.encode(),) if text else ())

    stream = replace(RELAXED, alignment=alignment)
    message = replace(
        GOOD_MESSAGE, from_domains=(domain,), content=ContentFeatures(senders=senders)
    )
    message, failure = await with_organisations(Organisations(texts), stream, message)
    verdict = judge(Transaction((stream,), (), message), {}, BOOK, NOW).message
    assert verdict is not None
    assert bool(failure) == (None in [zone.get(n.removeprefix("_dmarc."), "") for n in asked])
    return verdict.reason, len(asked)


ORG = {"shop.example": RECORD}
OWN = {**ORG, "news.shop.example": RECORD + "; psd=n"}
SUFFIX = {"shop.example": RECORD + "; psd=y"}
MISALIGNED, UNDECIDED = "from_misaligned", "temporary_failure"


@pytest.mark.parametrize(
    ("zone", "domain", "sender", "expected"),
    [
        (ORG, "shop.example", "shop.example", "none"),
        (ORG, "shop.example", "b.shop.example", "none"),
        (ORG, "news.shop.example", "b.shop.example", "none"),
        (ORG, "shop.example", "other.example", MISALIGNED),
        (ORG, "shop.example", "badshop.example", MISALIGNED),
        (OWN, "news.shop.example", "b.shop.example", MISALIGNED),
        (OWN, "shop.example", "news.shop.example", MISALIGNED),
        (OWN, "news.shop.example", "b.news.shop.example", "none"),
        (SUFFIX, "a.shop.example", "b.shop.example", MISALIGNED),
        (SUFFIX, "a.shop.example", "c.a.shop.example", "none"),
        ({"shop.example": "v=DMARC12; p=none"}, "shop.example", "b.shop.example", "none"),
        # no records: the public suffix list decides
        ({}, "shop.co.uk", "b.shop.co.uk", "none"),
        ({}, "shop.co.uk", "other.co.uk", MISALIGNED),
        # no answer
        ({"shop.example": None}, "shop.example", "b.shop.example", UNDECIDED),
        ({"shop.example": None}, "shop.example", "shop.example", "none"),
        ({**ORG, "b.shop.example": None}, "shop.example", "b.shop.example", UNDECIDED),
        ({**ORG, "other.example": None}, "shop.example", "other.example", MISALIGNED),
    ],
)
async def test_relaxed_alignment(
    zone: dict[str, str | None], domain: str, sender: str, expected: str
) -> None:
    assert (await reason(zone, domain, sender))[0] == expected


async def test_no_query_is_made_when_none_is_needed() -> None:
    assert await reason(ORG, "shop.example", "shop.example") == ("none", 0)
    assert await reason(ORG, "shop.example", "b.shop.example", alignment=Alignment.STRICT) == (
        MISALIGNED,
        0,
    )
    assert (await reason(ORG, "shop.example", "a.example", "b.example"))[1] == 2


async def test_a_hostile_message_causes_a_bounded_number_of_queries() -> None:
    deep = [".".join([f"x{i}", *"abcdefghij", "shop.example"]) for i in range(21)]
    zone = {**ORG, **dict.fromkeys(deep, RECORD + "; psd=n")}
    verdict, asked = await reason(zone, "shop.example", *deep)
    assert verdict == MISALIGNED
    assert asked <= 2 + 8 * 8


async def test_only_some_of_many_from_domains_are_looked_up() -> None:
    asked: list[str] = []

    async def texts(name: str) -> Answer:
        asked.append(name)
        return Answer(texts=(RECORD.encode(),) if name == "_dmarc.shop.example" else ())

    many = tuple(f"x{n}.shop.example" for n in range(1_000))
    look = ContentFeatures(senders=("b.shop.example",))
    for domains, aligned in ((many, False), (many[:4], True)):
        message = replace(GOOD_MESSAGE, from_domains=domains, content=look)
        message, _ = await with_organisations(Organisations(texts), RELAXED, message)
        verdict = judge(Transaction((RELAXED,), (), message), {}, BOOK, NOW).message
        assert verdict is not None
        assert verdict.reason == ("none" if aligned else MISALIGNED)
    assert len(asked) <= 2 * 5 * 3
