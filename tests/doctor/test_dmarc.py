"""DMARC records and the tree walk that finds them (RFC 9989)."""

import pytest

from smtpproxy.doctor.dmarc import find_dmarc, judge_dmarc
from smtpproxy.mail.dmarc import DmarcError, read_dmarc, tree
from smtpproxy.resolver import Answer, Kind

REJECT = "v=DMARC1; p=reject; rua=mailto:d@example.com"


async def found(zone: dict[str, str], domain: str) -> tuple[str | None, str, str | None]:
    """The place of the record, the organisational domain, and the policy for `domain`."""

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
        ({"bank": "v=DMARC1; p=reject; psd=y"}, "bank", ("bank", "bank", "reject")),
        ({"com": "not dmarc"}, "example.com", (None, "example.com", None)),
    ],
)
async def test_the_walk_up_the_tree(
    zone: dict[str, str], domain: str, expected: tuple[str | None, str, str | None]
) -> None:
    assert await found(zone, domain) == expected


def test_the_middle_of_a_long_name_is_skipped() -> None:
    assert tree("mail.example.com") == ["mail.example.com", "example.com", "com"]
    names = tree("a.b.c.d.e.f.g.h.i.j.mail.example.com")
    assert len(names) == 8
    assert names[0] == "a.b.c.d.e.f.g.h.i.j.mail.example.com"
    assert names[1] == "g.h.i.j.mail.example.com"
    assert names[-1] == "com"


def test_a_record_is_read() -> None:
    record = read_dmarc(b"v=DMARC1; p=quarantine; adkim=s; aspf=r; t=y; np=reject")
    assert (record.policy, record.below, record.absent) == ("quarantine", "quarantine", "reject")
    assert (record.strict_dkim, record.testing) == (True, True)
    assert record.ignored == ()
    assert record.no_reports


def test_a_record_without_a_usable_policy_counts_for_its_reports() -> None:
    for tags in (b"p=stop", b"p=reject; sp=stop", b"p=reject; np=", b"sp=reject"):
        record = read_dmarc(b"v=DMARC1; rua=mailto:d@example.com; " + tags)
        assert (record.policy, record.below, record.absent) == ("none",) * 3
        for rua in (b"", b"; rua=", b"; rua=d@example.com", b"; rua=mailto:", b"; rua=mailto:d"):
            with pytest.raises(DmarcError):
                read_dmarc(b"v=DMARC1; " + tags + rua)


RUA = "rua=mailto:d@example.com"
JUDGED = [
    (f"v=DMARC1; p=reject; {RUA}", "pass", ""),
    (f"v = DMARC1 ;p\t= Reject ;\t{RUA},mailto:e%2Bf@example.net ; fo=0:1:D:s;", "pass", ""),
    (f"v=DMARC1;;p=reject;x=y;{RUA};;sp=quarantine;psd=n;t=n;ruf=mailto:d@e.example", "pass", ""),
    # receivers recognise none of these as a record
    (f"v=DMARC12; p=reject; {RUA}", "fail", "does not begin with"),
    (f"v=DMARC2; p=reject; {RUA}", "fail", "does not begin with"),
    (f" v=DMARC1; p=reject; {RUA}", "fail", "does not begin with"),
    (f"v=dmarc1; p=reject; {RUA}", "fail", "does not begin with"),
    (f"v=DMARC1, p=reject, {RUA}", "fail", "does not begin with"),
    (f"v=DMARC1\\; p=reject\\; {RUA}", "fail", "does not begin with"),
    (f"v=DMARC1 p=reject {RUA}", "fail", "does not begin with"),
    (f'"v=DMARC1; p=reject; {RUA}"', "fail", "does not begin with"),
    (f"p=reject; v=DMARC1; {RUA}", "fail", "no DMARC record"),
    ("v=DMARC1", "fail", "it has no p="),
    (f"v=DMARC1; p=reject; {RUA};{' ' * 4_096}", "fail", "longer than"),
    (f"v=DMARC1; p=none, {RUA}", "fail", "semicolons"),
    (f"v=DMARC1; p=none {RUA}", "fail", "semicolons"),
    ("v=DMARC1; p=none,sp=none", "fail", "semicolons"),
    ("v=DMARC1; p=none\\; adkim=s", "fail", "semicolons"),
    (f"v=DMARC1; p=none\\; {RUA}x@", "fail", "none\\"),
    ("v=DMARC1; p=rejct", "fail", "p=rejct is not one of"),
    ("v=DMARC1; p=", "fail", "p="),
    (f"v=DMARC1; p=reject; p=none; {RUA}", "fail", "twice"),
    (f"v=DMARC1; v=DMARC1; p=reject; {RUA}", "fail", "twice"),
    # nobody would get the reports
    ("v=DMARC1; p=reject", "warn", "nobody gets reports"),
    ("v=DMARC1; p=reject; rua=", "fail", "rua= contains no URI"),
    ("v=DMARC1; p=none; rua=", "fail", "rua= contains no URI"),
    ("v=DMARC1; p=reject; rua=d@example.com", "fail", "rua= contains no URI"),
    ("v=DMARC1; p=reject; rua=https://example.com/ d", "fail", "rua= contains no URI"),
    (f"v=DMARC1; p=reject; {RUA}!k", "fail", "rua= contains no URI"),
    ("v=DMARC1; p=reject; rua=mailto:", "fail", "rua= contains no URI"),
    ("v=DMARC1; p=reject; rua=mailto:d@localhost", "fail", "rua= contains no URI"),
    ("v=DMARC1; p=reject; rua=mailto:d e@example.com", "fail", "rua= contains no URI"),
    (f"v=DMARC1; p=reject; {RUA} mailto:e@example.com", "fail", "rua= contains no URI"),
    # malformed tags are ignored
    (f"v=DMARC1; p=reject; {RUA},e@example.com", "warn", "“e@example.com” in rua= is not a URI"),
    (f"v=DMARC1; p=reject; {RUA}!10M", "warn", "RFC 9989 removed !10M in rua="),
    ("v=DMARC1; p=reject; rua=https://example.com/d", "warn", "no mailto URI"),
    (f"v=DMARC1; p=rejct; {RUA}", "warn", "p=none at"),
    (f"v=DMARC1; p=reject; sp=rejct; {RUA}", "warn", "p=none at"),
    (f"v=DMARC1; p=reject; np=rejct; {RUA}", "warn", "np=rejct is not one of"),
    (f"v=DMARC1; p=reject; adkim=strict; {RUA}", "warn", "adkim=strict is not one of r, s"),
    (f"v=DMARC1; p=reject; aspf=; {RUA}", "warn", "aspf= is not one of r, s"),
    (f"v=DMARC1; p=reject; psd=maybe; {RUA}", "warn", "psd=maybe is not one of y, n, u"),
    (f"v=DMARC1; p=reject; t=yes; {RUA}", "warn", "t=yes is not one of y, n"),
    (f"v=DMARC1; p=reject; fo=2; {RUA}", "warn", "fo=2 is not a list"),
    (f"v=DMARC1; p=reject; fo=1,d; {RUA}", "warn", "fo=1,d is not a list"),
    (f"v=DMARC1; p=reject; ruf=nobody; {RUA}", "warn", "ruf= contains no URI"),
    (f"v=DMARC1; p=reject; nonsense; {RUA}", "warn", "“nonsense” is not tag=value"),
    (f"v=DMARC1; p=reject; x=; {RUA}", "warn", "“x=” is not tag=value"),
    (f"v=DMARC1; p=reject; pct=50; {RUA}", "warn", "RFC 9989 removed pct="),
    (f"v=DMARC1; p=reject; ri=3600; rf=afrf; {RUA}", "warn", "RFC 9989 removed ri="),
]


@pytest.mark.parametrize(("text", "status", "says"), JUDGED)
async def test_a_record_is_judged_the_way_receivers_read_it(
    text: str, status: str, says: str
) -> None:
    async def lookup(name: str, kind: Kind) -> Answer:
        return Answer(texts=(text.encode(),) if name == "_dmarc.shop.example" else ())

    finding = judge_dmarc("shop.example", await find_dmarc(lookup, "shop.example"))
    assert (finding.status, says in finding.text) == (status, True), finding.text


async def test_an_almost_valid_record_does_not_hide_a_valid_one() -> None:
    async def lookup(name: str, kind: Kind) -> Answer:
        texts = (b"v=DMARC12; p=none", REJECT.encode(), b"v=spf1 -all")
        return Answer(texts=texts if name == "_dmarc.shop.example" else ())

    assert (await find_dmarc(lookup, "shop.example")).policy("shop.example") == "reject"


@pytest.mark.parametrize(("there", "policy"), [(True, "quarantine"), (False, "reject")])
async def test_np_applies_to_names_that_do_not_exist(there: bool, policy: str) -> None:
    async def lookup(name: str, kind: Kind) -> Answer:
        if name == "_dmarc.shop.example":
            return Answer(texts=(b"v=DMARC1; p=none; sp=quarantine; np=reject; " + RUA.encode(),))
        return Answer(values=("192.0.2.1",) if there and kind == "A" else ())

    found = await find_dmarc(lookup, "news.shop.example")
    assert found.policy("news.shop.example") == policy
