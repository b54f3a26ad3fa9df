"""DMARC records and the walk that finds them (RFC 9989)."""

import pytest

from smtpproxy.doctor.dmarc import find_dmarc, read_dmarc, tree
from smtpproxy.mail.dkim.tags import TagError
from smtpproxy.resolver import Answer, Kind

REJECT = "v=DMARC1; p=reject; rua=mailto:d@example.com"


async def found(zone: dict[str, str], domain: str) -> tuple[str | None, str, str | None]:
    """Where the record is, the organisational domain, and the policy for `domain`."""

    async def lookup(name: str, kind: Kind) -> Answer:
        text = zone.get(name.removeprefix("_dmarc."))
        return Answer(texts=() if text is None else (text.encode(),))

    dmarc = await find_dmarc(lookup, domain)
    return dmarc.at, dmarc.organisation, dmarc.policy(domain)


@pytest.mark.parametrize(
    ("zone", "domain", "expected"),
    [
        ({}, "mail.example.com", (None, "mail.example.com", None)),
        ({"example.com": REJECT}, "example.com", ("example.com", "example.com", "reject")),
        ({"example.com": REJECT}, "mail.example.com", ("example.com", "example.com", "reject")),
        (
            {"example.com": "v=DMARC1; p=reject; sp=none"},
            "mail.example.com",
            ("example.com", "example.com", "none"),
        ),
        (
            {"mail.example.com": "v=DMARC1; p=none", "example.com": REJECT},
            "mail.example.com",
            ("mail.example.com", "example.com", "none"),
        ),
        (
            {"mail.example.com": "v=DMARC1; p=none; psd=n", "example.com": REJECT},
            "a.mail.example.com",
            ("mail.example.com", "mail.example.com", "none"),
        ),
        (
            {"bank": "v=DMARC1; p=reject; psd=y", "giant.bank": REJECT},
            "mail.giant.bank",
            ("giant.bank", "giant.bank", "reject"),
        ),
        (
            {"bank": "v=DMARC1; p=reject; psd=y"},
            "mail.giant.bank",
            ("bank", "giant.bank", "reject"),
        ),
        ({"com": "not dmarc"}, "example.com", (None, "example.com", None)),
    ],
)
async def test_the_walk_up_the_tree(
    zone: dict[str, str], domain: str, expected: tuple[str | None, str, str | None]
) -> None:
    assert await found(zone, domain) == expected


def test_of_a_long_name_the_middle_is_left_out() -> None:
    assert tree("mail.example.com") == ["mail.example.com", "example.com", "com"]
    names = tree("a.b.c.d.e.f.g.h.i.j.mail.example.com")
    assert len(names) == 8
    assert names[0] == "a.b.c.d.e.f.g.h.i.j.mail.example.com"
    assert names[1] == "g.h.i.j.mail.example.com"
    assert names[-1] == "com"


def test_what_a_record_says() -> None:
    record = read_dmarc(b"v=DMARC1; p=quarantine; adkim=s; aspf=r; t=y; pct=20")
    assert record is not None
    assert (record.policy, record.below) == ("quarantine", "quarantine")
    assert (record.strict_dkim, record.strict_spf) == (True, False)
    assert (record.testing, record.pct, record.reports) == (True, True, False)


def test_a_record_without_a_usable_policy_counts_for_its_reports() -> None:
    record = read_dmarc(b"v=DMARC1; p=stop; rua=mailto:d@example.com")
    assert record is not None
    assert record.policy == "none"
    with pytest.raises(TagError):
        read_dmarc(b"v=DMARC1; p=stop")
