"""Counting the connections an MTA accepts: fakes, real MTAs, and beside a running relay."""

import json
import smtplib
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.doctor.upstream import InUse, Taken, count_taken, judge_connections
from smtpproxy.settings import ServerSettings, Settings, TcpAddress, UpstreamSettings
from tests.kit.exim import EximInstance
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.upstream import At, Close, FakeUpstream, Hold, Reply


def upstream(port: int, most: int = 200) -> UpstreamSettings:
    return UpstreamSettings(TcpAddress(LOOPBACK, port), most)


def refusing(*, after: int, how: At) -> list[At]:
    return [At("connect", *how.actions, nth=number) for number in range(after + 1, 100)]


@pytest.mark.parametrize(
    ("how", "refusal"),
    [
        (At("connect", Reply("421 4.3.2 too many")), "it greets with 421 too many"),
        (At("connect", Close()), "it ends without a greeting: connection closed"),
    ],
)
async def test_counting_stops_at_the_first_refused_connection(how: At, refusal: str) -> None:
    with FakeUpstream(*refusing(after=19, how=how)) as mta:
        assert await count_taken(upstream(mta.port), 64) == Taken(19, refusal)
        assert mta.connections <= 23
    assert [line for _, line in mta.commands] == ["QUIT"] * 19


NO_GREETING = "it does not greet within 0.7 s"


def silent(*numbers: int) -> list[At]:
    return [At("connect", Hold(), nth=number) for number in numbers]


@pytest.mark.parametrize(("end", "slow"), [(26, False), (30, True)])
async def test_an_mta_that_greets_again_once_there_is_room_has_a_limit(
    end: int, slow: bool
) -> None:
    with FakeUpstream(*silent(*range(18, end))) as mta:
        taken = await count_taken(upstream(mta.port), 64)
    assert taken == Taken(17, NO_GREETING, slow=slow)
    assert [line for _, line in mta.commands] == ["QUIT"] * (17 if slow else 18)


async def test_an_mta_that_is_sometimes_slow_to_greet_has_no_limit() -> None:
    """OpenSMTPD looks up the client's name while other connections wait."""
    with FakeUpstream(*silent(3, 6, 7, 8, 9)) as mta:
        assert await count_taken(upstream(mta.port), 12) == Taken(12)
        assert mta.connections == 17


async def test_the_limit_of_a_slow_or_missing_mta_is_unknown() -> None:
    with FakeUpstream(At("connect", Hold())) as mta:
        taken = await count_taken(upstream(mta.port), 64)
        assert taken == Taken(0, "it does not greet within 2 s", slow=True)
        assert (mta.connections, mta.commands) == (1, [])
    taken = await count_taken(upstream(free_port()), 64)
    assert (taken.count, "there is no connection" in taken.refusal) == (0, True)


async def test_no_more_connections_are_opened_than_asked_for() -> None:
    with FakeUpstream() as mta:
        assert await count_taken(upstream(mta.port), 9) == Taken(9)
        assert mta.connections == 9
        assert await count_taken(upstream(mta.port), 0) == Taken(0)
        assert mta.connections == 9


REFUSED = Taken(20, "it greets with 421 too many")


@pytest.mark.parametrize(
    ("workers", "in_use", "taken", "status", "text", "fix"),
    [
        (1, 0, Taken(64), "pass", "it accepts 64 at once; the relay may open 200", ""),
        (1, 64, Taken(0), "pass", "it accepts 64 at once (64 for the running relay)", ""),
        (
            1, 0, REFUSED, "warn",
            "it accepts 20 at once, and the relay may open 200: on one more it greets with 421",
            "set [upstream] max_connections = 20, or have the MTA accept more",
        ),
        (
            4, 3, REFUSED, "warn",
            "it accepts 23 at once (3 for the running relay), and the relay may open 800",
            "set [upstream] max_connections = 5 (23 divided by 4 workers), or",
        ),
        (
            32, 0, REFUSED, "warn", "it accepts 20 at once",
            "set [server] workers = 20 and [upstream] max_connections = 1, or",
        ),
        (1, 0, Taken(0, "there is no connection"), "unknown", "there is no connection", "see"),
        (1, 3, Taken(0, "silent", slow=True), "unknown", "unknown how many", "run it again"),
    ],
)  # fmt: skip
def test_the_finding_about_the_limit(
    workers: int, in_use: int, taken: Taken, status: str, text: str, fix: str
) -> None:
    settings = Settings(
        ServerSettings("relay.example", Path("/x"), workers=workers), (), upstream(25)
    )
    found = judge_connections(settings, InUse(in_use), taken)
    assert (found.check, found.status) == ("connections", status)
    assert text in found.text
    assert fix in found.fix


@needs("exim")
async def test_exim_accepts_twenty() -> None:
    with EximInstance("", "", free_port(), f"{LOOPBACK}:{free_port()}") as exim:
        taken = await count_taken(upstream(exim.port), 64)
        assert (taken.count, taken.slow) == (20, False)
        assert "421 Too many concurrent SMTP connections" in taken.refusal
        smtplib.SMTP(LOOPBACK, exim.port, timeout=10).quit()  # others are accepted again at once


@needs("postfix")
@pytest.mark.parametrize(
    ("main", "refusal"),
    [
        (
            {
                "smtpd_client_connection_count_limit": "10",
                "smtpd_client_event_limit_exceptions": "",
            },
            "421",
        ),
        ({"default_process_limit": "10"}, NO_GREETING),
    ],
)
async def test_postfix_accepts_as_many_as_configured(main: dict[str, str], refusal: str) -> None:
    exempt = {"smtpd_client_event_limit_exceptions": ""}  # exempt nobody
    with PostfixInstance(main=exempt | main) as postfix:
        await count_taken(upstream(postfix.port), 9)  # its processes take a while to start
        taken = await count_taken(upstream(postfix.port), 64)
        assert (taken.count, taken.slow, refusal in taken.refusal) == (10, False, True)
        smtplib.SMTP(LOOPBACK, postfix.port, timeout=10).quit()


def found_by(relay: RelayProcess) -> dict[str, Any]:
    _, stdout, _ = relay.command("doctor", "--json", "--only", "connections")
    (found,) = json.loads(stdout)["findings"]
    return dict(found)


def test_the_running_relays_own_connections_count(tmp_path: Path) -> None:
    own = {
        "stream": [{"name": "orders", "class": "transactional"}],
        "server": {"workers": 1},
        "upstream": {"max_connections": 1, "wait_timeout": "60s", "hold_timeout": "60s"},
    }
    with (
        FakeUpstream() as mta,
        RelayProcess(tmp_path, mta.address, own) as relay,
        smtplib.SMTP(LOOPBACK, relay.port(), timeout=20) as first,
        smtplib.SMTP(LOOPBACK, relay.port(), timeout=20) as second,
    ):
        for client in (first, second):
            client.ehlo()
            client.mail("news@shop.example")
        assert first.rcpt("anna@people.example")[0] == 250
        found = found_by(relay)
        assert (found["status"], mta.connections) == ("pass", 1)
        assert "it accepts 1 at once (1 for the running relay)" in found["text"]
        second.send(b"RCPT TO:<bert@people.example>\r\n")
        wait_for(lambda: found_by(relay)["status"] == "unknown", "a message to wait")
        assert mta.connections == 1
        first.close()
        assert second.getreply()[0] == 250
