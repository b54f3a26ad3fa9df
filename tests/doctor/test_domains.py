"""Findings about a domain, its keys and its addresses in the DNS."""

import asyncio
import ipaddress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.doctor.dmarc import (
    checked_by_dkimpy,
    find_dmarc,
    judge_alignment,
    judge_dkim,
    judge_dmarc,
    published,
)
from smtpproxy.doctor.finding import Check, Finding, Lookup, Status
from smtpproxy.doctor.hosts import mx, ptr
from smtpproxy.doctor.spf import spf
from smtpproxy.relay.dkim_signing import SigningKey, new_key
from smtpproxy.relay.dkimpy import Dkimpy
from smtpproxy.settings import DkimSettings
from tests.kit.dns import NameServer

DOMAIN = "shop.example"
FOUR = ipaddress.ip_address("192.0.2.25")
SIX = ipaddress.ip_address("2001:db8::25")


def _publish(dns: NameServer, record: str) -> None:
    name, kind, _ = record.split(None, 2)
    dns.remove(name, kind)
    dns.add(record)


@pytest.mark.parametrize(
    ("record", "status", "text", "fix"),
    [
        ("v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 -all", "pass", "192.0.2.25, 2001:db8::25", ""),
        ("v=spf1 ip4:192.0.2.25 -all", "fail", "2001:db8::25 fail", "add ip6:2001:db8::25"),
        ("v=spf1 ip4:192.0.2.25 ~all", "fail", "2001:db8::25 softfail", "ip6:2001:db8::25"),
        ("v=spf1 +all", "warn", "every address on the Internet passes", "end with -all"),
        ("v=spf1 ipv4:192.0.2.25", "fail", "permerror", "publish one record"),
        (None, "fail", "no SPF record", "v=spf1 ip4:192.0.2.25 ip6:2001:db8::25 -all"),
    ],
)
async def test_spf(
    dns: NameServer, lookup: Lookup, record: str | None, status: str, text: str, fix: str
) -> None:
    dns.remove(DOMAIN, "TXT")
    if record is not None:
        dns.add(f'{DOMAIN} TXT "{record}"')
    found = await spf(lookup, DOMAIN, (FOUR, SIX))
    assert (found.status, found.check, found.subject) == (status, "spf", DOMAIN)
    assert text in found.text
    assert fix in found.fix


async def test_spf_without_addresses_is_unknown(lookup: Lookup) -> None:
    found = await spf(lookup, DOMAIN, ())
    assert found.status == "unknown"
    assert "sending_addresses" in found.fix


async def _dkim(lookup: Lookup, path: Path, domain: str = DOMAIN) -> Finding:
    key = await published(lookup, DkimSettings(domain, "s1", path))
    dkimpy = Dkimpy()
    try:
        (found,) = judge_dkim(domain, [await checked_by_dkimpy(dkimpy, key, datetime.now(UTC))])
    finally:
        await dkimpy.close()
    return found


async def test_the_published_key_must_match_the_one_in_use(
    dns: NameServer, lookup: Lookup, key_file: tuple[Path, SigningKey]
) -> None:
    path, key = key_file
    found = await _dkim(lookup, path)
    assert (found.status, "; dkimpy verifies its signatures" in found.text) == ("pass", True)
    name = "s1._domainkey.shop.example"
    for record, status, text in (
        (str(new_key("ed25519")[1].record), "fail", "belongs to another key"),
        (str(new_key("rsa", 1024)[1].record), "fail", "belongs to another key"),
        (f"{key.record}; t=y", "warn", "t=y"),
        (f"{key.record}; s=email:other", "fail", "dkimpy rejects this key's signatures"),
        ("v=DKIM1; k=ed25519; p=", "fail", "revoked"),
        ("nonsense", "fail", "cannot be used"),
    ):
        _publish(dns, f'{name} TXT "{record}"')
        found = await _dkim(lookup, path)
        assert (found.status, text in found.text) == (status, True), found
    assert str(key.record) in found.fix
    dns.add(f'{name} TXT "{key.record}"')
    assert "has 2 records" in (await _dkim(lookup, path)).text
    dns.remove(name, "TXT")
    assert "has no record" in (await _dkim(lookup, path)).text


async def test_a_matching_but_short_rsa_key_gives_a_warning(
    dns: NameServer, lookup: Lookup, tmp_path: Path
) -> None:
    pem, key = new_key("rsa", 1024)
    path = tmp_path / "short.pem"
    path.write_bytes(pem)
    path.chmod(0o600)
    text = str(key.record)
    _publish(dns, f's1._domainkey.shop.example TXT "{text[:200]}" "{text[200:]}"')
    found = await _dkim(lookup, path)
    assert (found.status, "1024 bits" in found.text) == ("warn", True)


async def test_a_missing_key_file(lookup: Lookup, tmp_path: Path) -> None:
    found = await _dkim(lookup, tmp_path / "gone.pem")
    assert (found.status, "cannot be read" in found.text) == ("fail", True)


def test_a_domain_that_the_relay_does_not_sign() -> None:
    (found,) = judge_dkim(DOMAIN, [])
    assert found.status == "unknown"


def test_which_keys_are_for_a_domain() -> None:
    own, wide = (DkimSettings(DOMAIN, "s", Path("k"), subdomains=wide) for wide in (False, True))
    assert (own.signs(DOMAIN), own.signs("a.shop.example")) == (True, False)
    assert (wide.signs("a.shop.example"), wide.signs("myshop.example")) == (True, False)


@pytest.mark.parametrize(
    ("record", "status", "text"),
    [
        ("v=DMARC1; p=reject; rua=mailto:d@shop.example", "pass", "p=reject"),
        ("v=DMARC1; p=quarantine; rua=mailto:d@shop.example", "pass", "p=quarantine"),
        ("v=DMARC1; p=none; rua=mailto:d@shop.example", "warn", "only reported"),
        ("v=DMARC1; p=reject", "warn", "nobody gets reports"),
        ("v=DMARC1; p=reject; t=y; rua=mailto:d@shop.example", "warn", "t=y"),
        ("v=DMARC1; p=reject; pct=50; rua=mailto:d@shop.example", "warn", "pct="),
        ("v=DMARC1; p=rejct", "fail", "cannot be used"),
        ("v=DMARC1; p=reject; p=none", "fail", "twice"),
        ("v=spf1 -all", "fail", "no DMARC record"),
    ],
)
async def test_dmarc(dns: NameServer, lookup: Lookup, record: str, status: str, text: str) -> None:
    _publish(dns, f'_dmarc.{DOMAIN} TXT "{record}"')
    found = judge_dmarc(DOMAIN, await find_dmarc(lookup, DOMAIN))
    assert (found.status, text in found.text) == (status, True), found


@pytest.mark.parametrize(
    ("signer", "adkim", "spf_status", "dkim_status", "expected"),
    [
        (DOMAIN, "s", "fail", "pass", "pass"),
        ("example", "r", "fail", "pass", "fail"),
        ("news.shop.example", "r", "fail", "pass", "pass"),
        ("news.shop.example", "s", "pass", "pass", "fail"),
        (None, "r", "pass", "unknown", "warn"),
        (None, "r", "unknown", "unknown", "unknown"),
        (DOMAIN, "r", "fail", "fail", "fail"),
        (DOMAIN, "r", "pass", "fail", "warn"),
    ],
)
async def test_alignment(
    dns: NameServer,
    lookup: Lookup,
    signer: str | None,
    adkim: str,
    spf_status: str,
    dkim_status: str,
    expected: str,
) -> None:
    _publish(dns, f'_dmarc.{DOMAIN} TXT "v=DMARC1; p=reject; adkim={adkim}"')
    keys = [] if signer is None else [DkimSettings(signer, "s1", Path("/gone"))]
    records = [await published(lookup, key) for key in keys]
    signed = [Finding(Check.DKIM, DOMAIN, Status(dkim_status), "") for _ in records or [None]]
    sender = Finding(Check.SPF, DOMAIN, Status(spf_status), "")
    organisations = {"news.shop.example": DOMAIN, DOMAIN: DOMAIN, "example": "example"}
    policy = await find_dmarc(lookup, DOMAIN)
    found = judge_alignment(DOMAIN, policy, sender, signed, records, organisations)
    assert found.status == expected, found


@pytest.mark.parametrize(
    ("records", "status", "text"),
    [
        (("shop.example MX 10 mta.shop.example.",), "pass", "mta.shop.example"),
        (("shop.example MX 0 .",), "fail", "a null MX"),
        (
            ("shop.example MX 0 .", "shop.example MX 10 mta.shop.example."),
            "fail",
            "beside other MX",
        ),
        (("shop.example MX 10 gone.shop.example.",), "fail", "no MX has an address"),
        (
            ("shop.example MX 10 mta.shop.example.", "shop.example MX 20 gone.shop.example."),
            "warn",
            "without an address: gone.shop.example",
        ),
        (("shop.example A 192.0.2.80",), "warn", "the address of the domain itself"),
        ((), "fail", "no MX record and no address"),
    ],
)
async def test_mx(
    dns: NameServer, lookup: Lookup, records: tuple[str, ...], status: str, text: str
) -> None:
    dns.remove(DOMAIN, "MX")
    for record in records:
        dns.add(record)
    found = await mx(lookup, DOMAIN)
    assert (found.status, text in found.text) == (status, True), found


async def test_names_of_addresses(dns: NameServer, lookup: Lookup) -> None:
    assert (await ptr(lookup, FOUR)).status == "pass"
    found = await ptr(lookup, SIX)
    assert (found.check, found.status, "no PTR record" in found.text) == ("ptr", "fail", True)
    dns.remove("mta.shop.example", "A")
    found = await ptr(lookup, FOUR)
    assert (found.status, "does not resolve to the address" in found.text) == ("fail", True)


@pytest.mark.parametrize("fault", ["servfail", "refused", "silence", "garbage"])
async def test_without_a_dns_answer_every_finding_is_unknown(
    dns: NameServer, lookup: Lookup, key_file: tuple[Path, SigningKey], fault: str
) -> None:
    for name in (DOMAIN, "s1._domainkey.shop.example", FOUR.reverse_pointer):
        dns.fail(name, fault)  # type: ignore[arg-type]
    found = await asyncio.gather(
        spf(lookup, DOMAIN, (FOUR,)),
        _dkim(lookup, key_file[0]),
        mx(lookup, DOMAIN),
        ptr(lookup, FOUR),
    )
    assert [each.status for each in found] == ["unknown"] * 4
