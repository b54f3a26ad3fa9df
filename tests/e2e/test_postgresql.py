"""Relays on one PostgreSQL: what one learns holds at the other, and failures are a 451."""

import signal
import smtplib
from pathlib import Path

from smtpproxy.store.key_files import create_secret
from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postgres import PostgresCluster, cluster
from tests.kit.relay import RelayProcess
from tests.kit.relays import Relays, answer
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("postgresql")


def test_a_suppression_at_one_relay_holds_at_the_other(
    calm_relays: Relays, upstream: FakeUpstream
) -> None:
    one, two = calm_relays.start("one"), calm_relays.start("two")
    consenting = address("consent")
    assert answer(one, consenting) == answer(two, consenting) == 250
    one.must("suppress", "add", consenting, "--scope", "marketing", "--origin", "unsubscribe")
    assert answer(two, consenting) == answer(one, consenting) == 550
    two.must("suppress", "remove", consenting, "--all", "--reason", "added by mistake")
    assert answer(one, consenting) == 250
    assert len(upstream.messages) == 3


def test_a_suppression_before_the_end_of_data_is_obeyed(
    calm_relays: Relays, upstream: FakeUpstream
) -> None:
    one, two = calm_relays.start("one"), calm_relays.start("two")
    consenting = address("consent")
    with smtplib.SMTP("127.0.0.1", one.port(), timeout=30) as client:
        client.ehlo()
        client.mail("news@shop.example")
        assert client.rcpt(consenting)[0] == 250
        two.must("suppress", "add", consenting, "--scope", "all", "--origin", "complaint")
        assert client.data(marketing(to=consenting))[0] == 550
    assert upstream.messages == []


def test_the_metrics_of_a_relay_whose_database_hangs_say_so(
    relays: Relays, server: PostgresCluster
) -> None:
    """It must not look as if the relay were down, nor later as if many reports had come at once."""
    feedback = {"domain": "bounces.shop.example"}
    relay = relays.start("one", {"web": {}, "feedback": feedback}, timeout="20s")
    (relay.root / "state/feedback/new/report").write_bytes(marketing(subject="Re: New shoes"))
    wait_for(lambda: relay.metric("smtpproxy_feedback_total") == 1, "the report to be counted")
    server.signal(signal.SIGSTOP)
    wait_for(lambda: relay.metric("smtpproxy_ready", part="store") == 0, "/metrics to say so")
    assert relay.metric("smtpproxy_feedback_total") == 1
    assert relay.metric("smtpproxy_feedback_reports") == 1
    server.signal(signal.SIGCONT)


def test_without_its_database_a_relay_says_451_and_recovers(
    relays: Relays, server: PostgresCluster, upstream: FakeUpstream
) -> None:
    relay = relays.start("one")
    assert answer(relay, address("consent")) == 250
    server.kill()
    assert answer(relay, address("consent")) == 451
    assert answer(relay, address("unsubscribed")) == 451
    assert '"error": "the database cannot be reached: ' in relay.output
    server.start()
    wait_for(lambda: answer(relay, address("consent")) == 250, "the relay to recover")
    assert answer(relay, address("unsubscribed")) == 550
    assert len(upstream.messages) == 2


def test_a_hanging_database_means_451_in_time(relays: Relays, server: PostgresCluster) -> None:
    relay = relays.start("one")
    assert answer(relay, address("consent")) == 250
    server.signal(signal.SIGSTOP)
    try:
        assert answer(relay, address("consent")) == 451
    finally:
        server.signal(signal.SIGCONT)
    wait_for(lambda: answer(relay, address("consent")) == 250, "the relay to recover")


def test_a_database_turned_standby_means_451(
    relays: Relays, server: PostgresCluster, upstream: FakeUpstream
) -> None:
    """It still answers, but from before somebody objected at the new primary."""
    relay = relays.start("one")
    assert answer(relay, address("consent")) == 250
    server.restart_as_standby()
    for _ in range(3):
        assert answer(relay, address("consent")) == 451
        assert answer(relay, address("unsubscribed")) == 451
    assert len(upstream.messages) == 1


def test_a_relay_with_another_key_or_without_tables_does_not_start(
    tmp_path: Path, upstream: FakeUpstream, calm_relays: Relays
) -> None:
    one = calm_relays.start("one")
    (tmp_path / "other").mkdir()
    other = RelayProcess(tmp_path / "other", upstream.address, {"store": one.config["store"]})
    assert_refused(other, 2, "suppression.key: the key of the suppressions is missing")
    create_secret(tmp_path / "other" / "state" / "suppression.key", f"1 {'0a' * 32}\n")
    assert_refused(other, 2, "not in suppression.key")
    empty = cluster().create()
    other.config["store"] = {"url": cluster().url(empty)}
    other.write_config()
    assert_refused(other, 1, "smtpproxy migrate creates them")
    cluster().drop(empty)


def test_no_command_shows_the_password_of_the_store(calm_relays: Relays) -> None:
    one = calm_relays.start("one")
    one.config["store"]["url"] += "&password=geheim"
    one.write_config()
    looks = (("check",), ("check", "--json"), ("doctor", "--only", "store"), ("status",))
    for words in looks:
        _, stdout, stderr = one.command(*words)
        assert "geheim" not in stdout + stderr, words


def test_without_the_right_to_create_tables_the_message_says_who_has_it(
    server: PostgresCluster, relays: Relays
) -> None:
    one = relays.start("one")
    relays.sql("CREATE ROLE weak LOGIN")
    one.config["store"]["url"] = server.url(server.create(), "weak")
    one.write_config()
    ended, _, stderr = one.command("migrate")
    assert ended == 1
    assert "GRANT CREATE ON SCHEMA public" in stderr
    assert "--grant-write" not in stderr


def test_an_unknown_role_or_parameter_is_named(server: PostgresCluster, relays: Relays) -> None:
    one = relays.start("one")
    ended, _, stderr = one.command("migrate", "--grant-read", "nobody")
    assert (ended, stderr) == (2, 'Error: store.url: role "nobody" does not exist\n')
    one.config["store"]["url"] += "&colour=blue"
    one.write_config()
    ended, stdout, _ = one.command("check")
    assert ended == 2
    assert 'store.url: unrecognized configuration parameter "colour"' in stdout


def assert_refused(relay: RelayProcess, code: int, text: str) -> None:
    """Check that `serve` ends with `code`, which tells systemd whether a restart may help."""
    for command, expected in (("check", 2), ("serve", code)):
        ended, stdout, stderr = relay.command(command)
        assert text in stdout + stderr
        assert ended == expected, command
