"""Valid files and the settings they give."""

import hashlib
import os
from pathlib import Path

from smtpproxy.config import load, parse
from smtpproxy.policy.model import DEFAULT_STREAM, Mode, Nature, Stream, StreamClass, TrackingPixels
from smtpproxy.policy.periods import years
from smtpproxy.settings import (
    AuditSettings,
    ListenerSettings,
    PolicySettings,
    SenderRule,
    ServerSettings,
    StoreSettings,
    TcpAddress,
    UnixAddress,
    UpstreamSettings,
    WebSettings,
)

GOOD = Path(__file__).parent / "good"


def test_the_smallest_file_gets_every_default() -> None:
    settings = load(GOOD / "smallest.toml")
    assert settings.server == ServerSettings("relay.example.com", Path("/var/lib/smtpproxy"))
    assert settings.listeners == (ListenerSettings("apps", TcpAddress("127.0.0.1", 2525)),)
    assert settings.upstream == UpstreamSettings(TcpAddress("127.0.0.1", 10025))
    assert settings.store == StoreSettings("sqlite:///var/lib/smtpproxy/smtpproxy.db")
    assert settings.audit == AuditSettings()
    assert settings.web is None
    assert settings.policy == PolicySettings()
    assert settings.streams == {"default": DEFAULT_STREAM}
    assert settings.sender_rules == ()
    assert set(settings.rulebooks) == {"fr"}


def test_the_contracts_file_is_read() -> None:
    settings = load(GOOD / "contract.toml")
    assert settings.listeners[0].streams == ("offers", "receipts")
    assert settings.listeners[0].default_stream == "offers"
    assert settings.web == WebSettings(
        TcpAddress("127.0.0.1", 8025), "https://unsubscribe.example.com"
    )
    assert list(settings.streams.values()) == [
        DEFAULT_STREAM,
        Stream(
            name="offers",
            purpose="offers",
            nature=Nature.COMMERCIAL,
            products=frozenset({"shoes"}),
            topics=frozenset({"retail"}),
            from_domains=frozenset({"example.com"}),
            check_dkim=True,
            tracking_pixels=TrackingPixels.OBSERVE,
        ),
        Stream(
            name="receipts",
            stream_class=StreamClass.TRANSACTIONAL,
            tracking_pixels=TrackingPixels.OBSERVE,
        ),
    ]


def test_units_and_names_are_normalized() -> None:
    settings = load(GOOD / "units.toml")
    server, listeners, upstream = settings.server, settings.listeners, settings.upstream
    assert server.hostname == "relais.xn--exmple-cua.com"
    assert server.workers == len(os.sched_getaffinity(0))
    assert server.data_size_limit == 10_000_000
    assert server.header_size_limit == 1024 * 1024
    assert server.max_header_fields == 10_000
    assert server.spool_threshold == 65_536
    assert server.drain_timeout == 12.5
    assert [listener.address for listener in listeners] == [
        UnixAddress(Path("/run/smtpproxy/smtp")),
        TcpAddress("0.0.0.0", 2525),
        TcpAddress("::", 2525),
    ]
    assert (listeners[0].command_timeout, listeners[0].data_timeout) == (90, 7200)
    assert (upstream.idle_timeout, upstream.connect_timeout) == (86_400, 0.25)
    assert settings.audit == AuditSettings("disk", 1024**3)
    assert settings.web == WebSettings(TcpAddress("::1", 8025), "http://localhost:8025")
    assert settings.streams["letters"].from_domains == {"xn--exmple-cua.com", "example.org"}
    assert settings.sender_rules == (
        SenderRule("@xn--exmple-cua.com", ("letters",)),
        SenderRule("news@example.com", ("letters", "default"), "letters"),
    )


def test_a_stream_inherits_mode_and_rulebook_from_the_policy() -> None:
    streams = load(GOOD / "units.toml").streams
    assert {name: stream.mode for name, stream in streams.items()} == {
        "default": Mode.OBSERVE,
        "letters": Mode.ENFORCE,
        "alerts": Mode.OBSERVE,
    }
    assert streams["letters"].paused
    assert not streams["letters"].one_click_required


def test_a_custom_rulebook(tmp_path: Path) -> None:
    rulebook = tmp_path / "own.toml"
    rulebook.write_text('name = "own"\nconsent_years = 2\n')
    text = (
        (GOOD / "smallest.toml").read_text()
        + f"""
[policy]
rulebook = "{rulebook}"

[[stream]]
name = "offers"
class = "marketing"
purpose = "offers"
rulebook = "fr"
"""
    )
    settings = parse(text, "x.toml")
    assert settings.policy.rulebook == "own"
    assert settings.streams["default"].rulebook == "own"
    assert settings.streams["offers"].rulebook == "fr"
    assert settings.rulebooks["own"].consent_period == years(2)
    assert set(settings.rulebooks) == {"own", "fr"}


def test_different_files_have_different_hashes() -> None:
    content = (GOOD / "smallest.toml").read_bytes()
    assert load(GOOD / "smallest.toml").hash == hashlib.sha256(content).hexdigest()[:12]
    assert load(GOOD / "contract.toml").hash != load(GOOD / "smallest.toml").hash


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (GOOD / "smallest.toml").read_bytes())
    assert load(path).server.hostname == "relay.example.com"
