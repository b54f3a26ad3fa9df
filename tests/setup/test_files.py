"""The files that `init` writes: like those in docs/deploy, never over others, all or none."""

import errno
import os
import re
from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.settings import BrandSettings, StreamSettings, TcpAddress
from smtpproxy.setup.answers import Answers, Route
from smtpproxy.setup.files import File, Machinery, files, write
from tests.kit.pages import blocks

PAGES = {
    Route.RELAYHOST: ("main.cf",),
    Route.MILTER: ("main.cf", "master.cf"),
    Route.BEFORE_QUEUE: ("master.cf",),
    Route.AFTER_QUEUE: ("main.cf", "master.cf"),
}


def answers(route: Route) -> Answers:
    return Answers(
        hostname="mail.example.com",
        route=route,
        upstream=TcpAddress("127.0.0.1", 10026),
        listen=TcpAddress("127.0.0.1", route.port),
        web=TcpAddress("127.0.0.1", 8025),
        state_dir=Path("/var/lib/smtpproxy"),
        rulebook="fr",
        brands=(BrandSettings("shop", "x", "Shop", "1 rue X", None, frozenset({"shop.example"})),),
        streams=(StreamSettings("offers", "marketing", purpose="offers"),),
    )


def written(
    route: Route, places: tuple[TcpAddress, TcpAddress] | None = None, **postfix: str
) -> dict[str, str]:
    """The files written, by name; `places` are the addresses for mail and for the web."""
    given = answers(route)
    if places is not None:
        given = replace(given, listen=places[0], web=places[1])
    config = Path("/etc/smtpproxy/smtpproxy.toml")
    around = Machinery(config, Path("/usr/bin/smtpproxy"), date(2026, 1, 2), postfix)
    return {file.path.name: file.content.decode() for file in files(given, around)}


def without_comments(text: str) -> str:
    return re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("route", PAGES)
def test_the_lines_for_postfix_match_the_document(route: Route) -> None:
    _, *shown = blocks(f"deploy/postfix-{route}.md")
    made = written(route)
    assert [without_comments(made[name]) for name in PAGES[route]] == shown[: len(PAGES[route])]


def test_applications_need_no_lines_and_an_ordinary_machine_no_drop_in() -> None:
    assert set(written(Route.APPS)) == {"smtpproxy.toml"}


@pytest.mark.parametrize(
    ("listen", "web", "low"), [(2525, 8025, ""), (587, 8025, "587"), (25, 443, "25, 443"),
                               (2525, 80, "80"), (1024, 1023, "1023")],
)  # fmt: skip
def test_the_unit_may_bind_the_ports_of_the_configuration(listen: int, web: int, low: str) -> None:
    places = TcpAddress("127.0.0.1", listen), TcpAddress("127.0.0.1", web)
    lines = written(Route.APPS, places).get("smtpproxy.conf", "")
    assert (f"\n# For ports below 1024: {low}\n" in lines) is bool(low)
    assert ("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in lines) is bool(low)


def test_other_milters_come_later() -> None:
    milters = "inet:127.0.0.1:8892, inet:127.0.0.1:8891"
    lines = written(Route.MILTER, smtpd_milters=milters)["main.cf"]
    assert "\nsmtpd_milters = inet:127.0.0.1:8891, inet:127.0.0.1:8892\n" in lines


def test_the_policy_service_precedes_everything_that_permits() -> None:
    lines = written(Route.POLICY, smtpd_recipient_restrictions="permit_mynetworks, reject")
    asked = "smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:8892, permit_my"
    assert asked in lines["main.cf"]


@pytest.mark.parametrize(
    ("origin", "is_said"),
    [("example.com", "example.com"), ("FILE", "debian.example"), ("/nowhere", "mail.example.com"),
     ("FIFO", "mail.example.com"), ("/dev/zero", "mail.example.com"),
     ("not a name", "mail.example.com")],
)  # fmt: skip
def test_the_origin_of_short_addresses(tmp_path: Path, origin: str, is_said: str) -> None:
    mailname = tmp_path / "mailname"
    mailname.write_text("debian.example\n")
    os.mkfifo(tmp_path / "fifo")
    said = origin.replace("FILE", str(mailname)).replace("FIFO", str(tmp_path / "fifo"))
    text = written(Route.MILTER, myorigin=said)["smtpproxy.toml"]
    assert f'\norigin = "{is_said}"\n' in text


def test_all_files_are_written_or_none(tmp_path: Path) -> None:
    state = tmp_path / "state"
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    first = File(tmp_path / "etc" / "a", b"a")
    for last in (File(blocked, b"b"), File(blocked / "below", b"b")):
        with pytest.raises(OSError) as raised:  # noqa: PT011
            write([first, last], state)
        assert raised.value.errno in (errno.EEXIST, errno.ENOTDIR)
        assert not first.path.exists()
        assert blocked.read_text() == "mine"
        assert not state.exists()
