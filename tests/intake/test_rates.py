"""Rates: what a client may send in a period, across sessions, workers and restarts."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpproxy.auth.users import User, empty, write
from smtpproxy.events import ConnectionRefused, Limited
from smtpproxy.intake.limits import ClientRates, ConnectionLimits, RateTable
from smtpproxy.settings import Credential, ListenerSettings, Rate, TcpAddress
from tests.intake.conftest import Listen
from tests.intake.test_auth import PASSWORD, plain
from tests.kit.certificates import Authority

LATER = "450 4.7.1 rate limit; try again later"
SIXTY = Rate(60, 60.0)


class Clock:
    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(tmp_path: Path, clock: Clock) -> Iterator[RateTable]:
    table = RateTable(tmp_path / "rates", clock)
    yield table
    table.close()


def test_a_burst_is_allowed_and_then_one_at_a_time(table: RateTable, clock: Clock) -> None:
    assert [table.take("a", SIXTY) for _ in range(61)] == [1] * 60 + [0]
    clock.at += 2.0
    assert [table.take("a", SIXTY) for _ in range(3)] == [1, 1, 0]
    clock.at += 3_600
    assert table.take("a", SIXTY, 100) == 60


def test_a_request_for_more_gets_what_is_left(table: RateTable, clock: Clock) -> None:
    assert table.take("a", SIXTY, 50) == 50
    assert table.take("a", SIXTY, 50) == 10
    assert table.take("a", SIXTY, 50) == 0
    table.give_back("a", SIXTY, 5)
    assert table.take("a", SIXTY, 50) == 5


def test_raising_a_rate_never_leaves_a_negative_allowance(table: RateTable) -> None:
    """A negative number used to be returned."""
    slower, faster = Rate(2_000, 1_000.5), Rate(2_000, 1_000.0)
    assert table.take("a", slower, 2_000) == 2_000
    assert table.take("a", faster) == 0
    assert table.take("a", slower) == 0


def test_clients_have_separate_allowances(table: RateTable) -> None:
    for number in range(5_000):
        assert table.take(f"client {number}", Rate(1, 60.0)) == 1
    again = sum(table.take(f"client {number}", Rate(1, 60.0)) for number in range(5_000))
    assert again < 5  # a bucket shared by chance


def test_counts_are_shared_by_workers_and_survive_restarts(
    table: RateTable, tmp_path: Path, clock: Clock
) -> None:
    other = RateTable(tmp_path / "rates", clock)
    assert [each.take("a", SIXTY, 25) for each in (table, other, table)] == [25, 25, 10]
    other.close()
    third = RateTable(tmp_path / "rates", clock)
    assert third.take("a", SIXTY) == 0
    third.close()


def test_counts_from_before_a_reboot_are_forgotten(table: RateTable, clock: Clock) -> None:
    assert table.take("a", SIXTY, 60) == 60
    clock.at = 5.0
    assert table.take("a", SIXTY, 60) == 60


def test_a_truncated_file_is_made_anew(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "rates").write_bytes(b"short")
    table = RateTable(tmp_path / "rates", clock)
    assert table.take("a", SIXTY) == 1
    table.close()
    assert (tmp_path / "rates").stat().st_mode & 0o077 == 0o044  # the mode of the test's file


@pytest.mark.parametrize("left", [0, 5, 700_000])
def test_workers_survive_a_file_truncated_while_they_run(
    table: RateTable, tmp_path: Path, clock: Clock, left: int
) -> None:
    """They lose the counts and go on counting together, also with later workers."""
    file = tmp_path / "rates"
    other = RateTable(file, clock)
    size = file.stat().st_size
    os.truncate(file, left)
    for number in range(50):  # their buckets lie all over the file
        assert [each.take(f"client {number}", SIXTY, 40) for each in (table, other)] == [40, 20]
    assert file.stat().st_size == size
    later = RateTable(file, clock)
    assert not any(later.take(f"client {number}", SIXTY) for number in range(50))
    for each in (other, later):
        each.close()


@pytest.mark.parametrize("left", [0, 8, 16])
def test_a_worker_started_after_a_truncation_counts_with_the_others(
    table: RateTable, tmp_path: Path, clock: Clock, left: int
) -> None:
    """With its own secret it used to choose different buckets."""
    table.take("a", SIXTY)
    os.truncate(tmp_path / "rates", left)
    later = RateTable(tmp_path / "rates", clock)
    assert later.take("a", SIXTY, 60) == 60
    assert table.take("a", SIXTY, 60) == 0
    later.close()


def rates(table: RateTable, **keys: Rate) -> ClientRates:
    return ClientRates(ListenerSettings("apps", TcpAddress("127.0.0.1", 25), **keys), table)  # type: ignore[arg-type]


def test_the_table_has_no_holes(tmp_path: Path, table: RateTable) -> None:
    """On a full disk a hole could not be written."""
    file = (tmp_path / "rates").stat()
    assert file.st_blocks * 512 >= file.st_size


def test_ipv6_clients_are_counted_by_network(table: RateTable) -> None:
    limited = rates(table, message_rate=Rate(2, 60.0))
    asked = [limited.message(f"2001:db8::{n}", None) for n in range(1, 4)]
    assert asked == [None, None, "message_rate"]
    assert limited.message("2001:db8:0:1::1", None) is None
    connections = ConnectionLimits(
        ListenerSettings("apps", TcpAddress("::1", 25), max_connections_per_address=1), 1
    )
    connections.opened("2001:db8::1")
    assert connections.refusal("2001:db8::2") == "address_limit"
    connections.closed("2001:db8::1")
    assert connections.refusal("2001:db8::2") is None


def test_the_credential_gets_back_what_the_address_may_not_use(table: RateTable) -> None:
    shop = Credential(user="shop", recipient_rate=Rate(10, 60.0))
    limited = rates(table, recipient_rate=Rate(4, 60.0))
    assert limited.recipients("192.0.2.1", shop, 6) == (4, "recipient_rate")
    assert limited.recipients("192.0.2.2", shop, 4) == (4, None)
    assert limited.recipients("192.0.2.3", shop, 4) == (2, "credential_recipient_rate")
    assert limited.recipients("192.0.2.3", None, 3) == (2, "recipient_rate")


def test_the_message_rate_of_an_address(listen: Listen) -> None:
    intake = listen(message_rate="2/1h")
    for expected in (["250", "250"], ["450", "450"]):
        with intake.client() as client:
            client.greet()
            for code in expected:
                reply = client.say("MAIL FROM:<news@shop.example>")
                assert reply.startswith(code)
                assert code == "250" or reply == LATER
                client.say("RSET")
    assert [event.limit for event in intake.of(Limited)] == ["message_rate"] * 2


def test_the_recipient_rate_of_an_address(listen: Listen) -> None:
    """Each surplus recipient is deferred; the others get the message."""
    intake = listen(recipient_rate="3/1h")
    with intake.client() as client:
        client.greet()
        client.send(
            "MAIL FROM:<news@shop.example>",
            "RCPT TO:<stranger@people.example>",
            *["RCPT TO:<consent@people.example>"] * 3,
            "DATA",
        )
        replies = client.replies(6)
        assert [reply[:3] for reply in replies] == ["250", "250", "250", "250", "450", "354"]
        assert replies[4] == LATER
        client.say(".")
        assert client.say("MAIL FROM:<news@shop.example>").startswith("250 ")
        assert client.say("RCPT TO:<consent@people.example>") == LATER
    assert [event.limit for event in intake.of(Limited)] == ["recipient_rate"] * 2


def test_the_limit_of_recipients_of_a_message(listen: Listen) -> None:
    """A client that goes on regardless does nothing wrong (RFC 5321 4.5.3.1.10)."""
    intake = listen(max_recipients=2, max_errors=3)
    with intake.client() as client:
        client.greet()
        client.send(
            "MAIL FROM:<news@shop.example>", *["RCPT TO:<consent@people.example>"] * 9, "DATA"
        )
        codes = [reply[:3] for reply in client.replies(11)]
        assert codes == ["250"] * 3 + ["452"] * 7 + ["354"]
    assert [event.limit for event in intake.of(Limited)] == ["recipients"] * 7


def test_a_message_that_is_too_large_is_refused(listen: Listen) -> None:
    intake = listen({"server": {"data_size_limit": "1KiB"}})
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(b"x" * 70 + b"\r\n", *["y" * 70] * 30, ".").startswith("552 5.3.4")
    assert [event.limit for event in intake.of(Limited)] == ["size"]


def test_the_rates_of_a_credential(listen: Listen, tmp_path: Path) -> None:
    users = empty()
    write(tmp_path / "users", type(users)({"shop": User.of("shop", PASSWORD)}, users.key))
    config = {
        "auth": {"users": str(tmp_path / "users")},
        "credential": [{"user": "shop", "message_rate": "2/1h", "recipient_rate": "1/1h"}],
    }
    intake = listen(config, auth="optional", auth_without_tls=True)
    with intake.client() as client:
        client.greet()
        for _ in range(3):  # without a login there is no credential
            assert client.say("MAIL FROM:<news@shop.example>").startswith("250 ")
            client.say("RSET")
        assert client.say(plain()).startswith("235 ")
        client.send(
            "MAIL FROM:<news@shop.example>", *["RCPT TO:<consent@people.example>"] * 2, "RSET"
        )
        assert [reply[:3] for reply in client.replies(4)] == ["250", "250", "450", "250"]
        assert client.say("MAIL FROM:<news@shop.example>", "RSET").startswith("250 ")
        assert client.reply().startswith("250 ")
        assert client.say("MAIL FROM:<news@shop.example>") == LATER
    assert [event.limit for event in intake.of(Limited)] == [
        "credential_recipient_rate",
        "credential_message_rate",
    ]


def test_the_connection_rate_of_an_address(listen: Listen) -> None:
    intake = listen(connection_rate="2/1h")
    for _ in range(2):
        with intake.client() as client:
            client.greet()
            assert client.say("QUIT").startswith("221 ")
    with intake.client() as client:
        assert client.rest() == ["421 4.7.1 rate limit: too many new connections; try again later"]
    assert [event.cause for event in intake.of(ConnectionRefused)] == ["rate"]


def test_a_connection_with_implicit_tls_counts_once(listen: Listen, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("relay.example", file="server")
    intake = listen(
        tls="implicit",
        certificate=str(pair.certificate),
        private_key=str(pair.key),
        connection_rate="2/1h",
    )
    for _ in range(2):
        with intake.client() as client:
            client.secure(authority.client_context())
            client.greet()
    with intake.client() as client:
        assert client.rest() == []  # refused before the costly handshake
    assert [event.cause for event in intake.of(ConnectionRefused)] == ["rate"]


@pytest.mark.parametrize("protocol", ["milter", "policy"])
def test_the_connection_rate_of_an_mta(listen: Listen, protocol: str) -> None:
    intake = listen(protocol=protocol, connection_rate="1/1h")
    with intake.client(), intake.client() as second:
        assert second.rest() == []
    assert [event.cause for event in intake.of(ConnectionRefused)] == ["rate"]
