"""Keys and clock of this machine, and requirements met by the configuration."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.config import parse
from smtpproxy.doctor import machine, run
from smtpproxy.doctor.finding import Check, Finding, Lookup, Status, checklist
from smtpproxy.doctor.hosts import sending_addresses
from smtpproxy.doctor.machine import (
    ClockSeen,
    KeyFile,
    disks,
    failover,
    judge_clock,
    judge_days,
    judge_key,
    keys,
    look,
)
from smtpproxy.policy.model import Mode, StreamClass, TrackingPixels
from smtpproxy.resolver import Answer
from smtpproxy.settings import (
    Credential,
    DkimSettings,
    DoctorSettings,
    Settings,
    StoreSettings,
    TcpAddress,
    UpstreamSettings,
    WebhookSettings,
)
from smtpproxy.store.postgres.standby_checks import Awaited
from smtpproxy.store.records import StoreUnavailable
from tests.kit.disk import fill, tiny_disk
from tests.kit.dns import NameServer
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.upstream import At, FakeUpstream, Hold

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DOMAIN = "shop.example"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return parse(
        f"""
        [server]
        hostname = "relay.example"
        state_dir = "{tmp_path}"
        [[listener]]
        name = "apps"
        address = "127.0.0.1:2525"
        [upstream]
        address = "127.0.0.1:25"
        [[stream]]
        name = "offers"
        class = "marketing"
        purpose = "offers"
        from_domains = ["{DOMAIN}"]
        """,
        "test.toml",
    )


def _key(path: Path, age: int, mode: int = 0o600) -> Path:
    path.write_text("secret")
    path.chmod(mode)
    at = (NOW - timedelta(age)).timestamp()
    os.utime(path, (at, at))
    return path


@pytest.mark.parametrize(
    ("age", "mode", "since", "status", "text"),
    [
        (10, 0o600, None, "pass", "10 days old"),
        (400, 0o600, None, "warn", "400 days old"),
        (10, 0o640, None, "pass", "10 days old"),
        (10, 0o644, None, "fail", "is readable by everybody"),
        (400, 0o600, NOW - timedelta(20), "pass", "20 days old"),
        (10, 0o600, NOW + timedelta(20), "pass", "in force from 2026-06-21"),
    ],
)
def test_the_age_of_a_key(
    tmp_path: Path, age: int, mode: int, since: datetime | None, status: str, text: str
) -> None:
    path = _key(tmp_path / "key", age, mode)
    found = judge_key(KeyFile("DKIM", path, 365, "replace it", since), NOW)
    assert found is not None
    assert (found.status, text in found.text) == (status, True), found
    assert found.fix if status in ("warn", "fail") else not found.fix


def test_existing_and_required_keys_are_listed(tmp_path: Path, settings: Settings) -> None:
    assert keys(settings, NOW) == []
    _key(tmp_path / "suppression.key", 2000)
    signing = replace(settings, dkim=(DkimSettings(DOMAIN, "s1", tmp_path / "gone.pem"),))
    signer, suppressing = keys(signing, NOW)
    assert (suppressing.subject, suppressing.status) == ("suppressions", "warn")
    assert (signer.subject, signer.status) == (f"DKIM s1._domainkey.{DOMAIN}", "fail")
    assert "from the backup" in signer.fix


def test_the_age_of_link_keys_counts_from_the_date_inside_them(
    tmp_path: Path, settings: Settings
) -> None:
    path = tmp_path / "unsubscribe.key"
    path.write_text(f"1 2020-01-01 {'ab' * 64}\n2 2026-05-22 {'cd' * 64}\n")
    path.chmod(0o600)
    (found,) = keys(settings, NOW)
    assert (found.subject, found.text) == ("unsubscribe", "10 days old")


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (-2.2, "expired 2 days ago"),
        (-1.2, "expired 1 day ago"),
        (-0.2, "expired less than a day ago"),
        (0.7, "expires in less than a day"),
        (1.2, "expires in 1 day"),
        (13.0, "expires in 13 days"),
    ],
)
def test_the_remaining_days_of_a_certificate(left: float, text: str) -> None:
    assert judge_days(left)[1] == f"its certificate {text}"


@needs("tmpfs")
def test_free_space_on_the_disks(settings: Settings, tmp_path: Path) -> None:
    (found,) = disks(settings)
    assert (found.check, found.subject, found.status) == ("disk", str(tmp_path), "pass")
    with tiny_disk(tmp_path / "store") as full:
        fill(full)
        store = StoreSettings(url=f"sqlite://{full}/relay.db")
        first, second = disks(replace(settings, store=store))
    assert (first.status, second.status) == ("pass", "fail")
    assert second.text == f"0 MB left on the disk of {full}"
    gone = StoreSettings(url=f"sqlite://{tmp_path}/gone/relay.db")
    assert [each.status for each in disks(replace(settings, store=gone))] == ["pass", "unknown"]


async def test_local_checks_do_not_wait_for_the_dns(settings: Settings) -> None:
    async def lookup(*_: object) -> Answer:
        raise AssertionError

    only = [Check.DISK, Check.KEYS, Check.CERTIFICATE]
    report = await run.Doctor(settings, lookup, NOW, 20.0).examine([DOMAIN], only)
    assert [each.check for each in report.findings] == ["disk"]


async def test_a_silent_upstream_fails(settings: Settings, lookup: Lookup) -> None:
    with FakeUpstream(At("connect", Hold())) as mta:
        address = TcpAddress(LOOPBACK, int(mta.address.rpartition(":")[2]))
        silent = replace(settings, upstream=UpstreamSettings(address))
        report = await run.Doctor(silent, lookup, NOW, 0.2).examine([], [Check.UPSTREAM])
        mta.release()
    assert [(each.status, each.text) for each in report.findings] == [
        ("fail", "not finished within 0.2 s")
    ]


@pytest.mark.parametrize("check", sorted(run.DOMAIN_CHECKS))
async def test_a_silent_dns_leaves_no_check_of_a_domain_out(
    settings: Settings, check: Check
) -> None:
    async def lookup(*_: object) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    report = await run.Doctor(settings, lookup, NOW, 0.1).examine([DOMAIN], [check])
    (found,) = [each for each in report.findings if each.subject == DOMAIN]
    assert (found.check, found.status, found.text) == (
        check,
        "unknown",
        "not finished within 0.1 s",
    )


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        (ClockSeen(True, 0.01), "pass"),
        (ClockSeen(True, 5.0), "warn"),
        (ClockSeen(False), "warn"),
        (ClockSeen(False, marked=True), "pass"),
        (ClockSeen(None, failure="not here"), "unknown"),
    ],
)
def test_the_clock(seen: ClockSeen, status: str) -> None:
    assert judge_clock(seen).status == status


def test_the_kernel_can_be_asked() -> None:
    seen = look()
    assert seen.synchronised is not None or seen.failure
    assert seen.error >= 0


async def test_the_addresses_that_mail_leaves_from(
    dns: NameServer, lookup: Lookup, settings: Settings
) -> None:
    async def known(upstream: str, **more: object) -> list[str]:
        there = replace(settings.upstream, address=TcpAddress(upstream, 25))
        changed = replace(settings, upstream=there, **more)  # type: ignore[arg-type]
        return [str(ip) for ip in await sending_addresses(changed, lookup)]

    assert await known("mta.shop.example") == ["192.0.2.25"]
    assert await known("192.0.2.26") == ["192.0.2.26"]
    assert await known("10.0.0.1") == []
    assert await known("127.0.0.1") == []
    dns.add("relay.example AAAA 2001:db8::9")
    dns.add("relay.example A 10.1.1.1")
    assert await known("127.0.0.1") == ["2001:db8::9"]
    named = DoctorSettings(("10.0.0.1",))
    assert await known("mta.shop.example", doctor=named) == ["10.0.0.1"]
    dns.fail("mta.shop.example", "servfail")
    assert await known("mta.shop.example") == []


def _line(settings: Settings, demand: str, *findings: Finding) -> str:
    lines = checklist(settings, [DOMAIN], findings)
    return next(line.status for line in lines if demand in line.demand)


def _with_streams(settings: Settings, **fields: object) -> Settings:
    streams = {k: replace(s, **fields) for k, s in settings.streams.items()}
    return replace(settings, streams=streams)


def test_requirements_that_the_configuration_meets(settings: Settings) -> None:
    click, body, soon = "one-click unsubscribe over https", "in its body", "within 48 hours"
    assert [_line(settings, each) for each in (click, body, soon)] == ["pass", "unknown", "pass"]
    observed = _with_streams(settings, mode=Mode.OBSERVE)
    assert [_line(observed, each) for each in (click, body, soon)] == ["unknown"] * 3
    assert _line(_with_streams(settings, one_click_required=False), click) == "unknown"
    assert _line(_with_streams(settings, body_optout=True), body) == "pass"
    for hours, status in ((48, "pass"), (49, "fail")):
        crm = WebhookSettings("crm", "https://crm.example", Path("/crm"), deadline=hours * 3600.0)
        assert _line(replace(settings, webhooks=(crm,)), soon) == status


@pytest.mark.parametrize(
    ("pixels", "status"),
    [("allow", "warn"), ("observe", "warn"), ("refuse", "pass"), ("strip", "pass")],
)
def test_tracking_on_marketing_streams(settings: Settings, pixels: str, status: str) -> None:
    marketing = _with_streams(settings, tracking_pixels=TrackingPixels(pixels))
    assert {one.status for one in run.tracking(marketing)} == {status}
    transactional = _with_streams(marketing, stream_class=StreamClass.TRANSACTIONAL)
    assert run.tracking(transactional) == []


def test_the_built_in_stream_counts_only_where_mail_can_be_on_it(settings: Settings) -> None:
    """Like the configuration of `init` after `stream enforce offers`."""
    streams = dict(settings.streams)
    streams["default"] = replace(streams["default"], mode=Mode.OBSERVE)
    settings = replace(settings, streams=streams)
    click = "one-click unsubscribe over https"
    assert _line(settings, click) == "unknown"
    assert "default" in [one.subject for one in run.tracking(settings)]
    [listener] = settings.listeners
    chosen = replace(listener, streams=("offers",), default_stream="offers")
    settings = replace(settings, listeners=(chosen,))
    assert _line(settings, click) == "pass"
    assert [one.subject for one in run.tracking(settings)] == ["offers"]
    narrowed = (Credential(user="shop", streams=("offers",)),)
    assert _line(replace(settings, credentials=narrowed), click) == "unknown"
    assert _line(replace(settings, listeners=(chosen, listener)), click) == "unknown"


@pytest.mark.parametrize("status", ["pass", "warn", "fail", "unknown"])
def test_links_that_the_relay_adds_must_work(settings: Settings, status: str) -> None:
    adding = _with_streams(settings, unsubscribe_scope="marketing")
    found = Finding(Check.UNSUBSCRIBE, "https://u.shop.example", Status(status), "so it is")
    expected = "pass" if status == "warn" else status
    assert _line(adding, "one-click unsubscribe over https", found) == expected


def test_a_requirement_gets_the_worst_of_its_findings(settings: Settings) -> None:
    def line(spf: str, dkim: str) -> str:
        pairs = ((Check.SPF, spf), (Check.DKIM, dkim))
        found = [Finding(check, DOMAIN, Status(status), "") for check, status in pairs]
        other = Finding(Check.SPF, "other.example", Status.FAIL, "")
        return _line(settings, "SPF and DKIM both pass", *found, other)

    assert [line("pass", "pass"), line("warn", "pass")] == ["pass", "pass"]
    assert [line("fail", "unknown"), line("pass", "unknown")] == ["fail", "unknown"]
    assert _line(settings, "SPF and DKIM both pass") == "unknown", "nothing was checked"


@pytest.mark.parametrize(
    ("found", "required", "status"),
    [
        (Awaited(waits=False, connected=True), False, "warn"),
        (Awaited(waits=False, connected=True), True, "fail"),
        (Awaited(waits=True, connected=True), True, "pass"),
        (Awaited(waits=True, connected=False), True, "fail"),
        (None, True, "unknown"),
    ],
)
async def test_whether_a_failover_may_lose_acknowledged_writes(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    found: Awaited | None,
    required: bool,
    status: str,
) -> None:
    async def asked(_: StoreSettings) -> Awaited:
        if found is None:
            raise StoreUnavailable("the database failed")
        return found

    monkeypatch.setattr(machine, "standby_awaited", asked)
    assert await failover(settings) == [], "SQLite has no failover"
    url = "postgresql://relay:secret@db.example/smtpproxy"
    store = StoreSettings(url, require_synchronous=required)
    [judged] = await failover(replace(settings, store=store))
    assert (judged.check, judged.status) == (Check.FAILOVER, status)
    assert "secret" not in judged.subject


@needs("postgresql")
async def test_a_store_that_cannot_be_reached_fails(settings: Settings) -> None:
    away = StoreSettings(f"postgresql://relay@{LOOPBACK}:{free_port()}/smtpproxy")
    [found] = await run.store_fits(replace(settings, store=away), NOW)
    assert (found.check, found.status) == (Check.STORE, Status.FAIL)
    assert "Connect call failed" in found.text
    assert "docs/operations.md" in found.fix
