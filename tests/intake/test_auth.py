"""AUTH: the three mechanisms, who may use them when, and password guessing."""

import base64
import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.auth.users import User, empty, write
from smtpproxy.events import Authentication, SenderRefused
from tests.intake.conftest import Listen
from tests.intake.listening import Client, Intake
from tests.kit.certificates import Authority
from tests.kit.ports import wait_for
from tests.kit.relay import STREAMS
from tests.kit.upstream import FakeUpstream

PASSWORD = "correct horse"
OK = "235 2.7.0 authenticated"
WRONG = "535 5.7.8 user name or password is wrong"
SHOP = User.of("shop", PASSWORD)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def plain(user: str = "shop", password: str = PASSWORD) -> str:
    return f"AUTH PLAIN {b64(f'{chr(0)}{user}{chr(0)}{password}')}"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "users"
    users = empty()
    write(path, type(users)({"shop": SHOP}, users.key))
    return {"auth": {"users": str(path), "failure_delay": "10ms"}}


def keys(**more: Any) -> dict[str, Any]:
    return {"auth": "required", "auth_without_tls": True, **more}


def results(intake: Intake) -> list[tuple[str, str]]:
    return [(event.mechanism, event.outcome) for event in intake.of(Authentication)]


def test_plain_login_then_mail(
    listen: Listen, config: dict[str, Any], upstream: FakeUpstream
) -> None:
    intake = listen(config, **keys(streams=["receipts"], default_stream="receipts"))
    with intake.client() as client:
        client.greet()
        assert client.say("MAIL FROM:<a@shop.example>").startswith("530 5.7.0 ")
        assert client.say(plain()) == OK
        assert client.say(plain()) == "503 5.5.1 already authenticated"
        client.begin()
        reply = client.say("From: a@shop.example", "Subject: x", "", "hello", ".")
        assert reply.startswith("250 ")
    (decided,) = intake.records.decided
    assert decided.client.login == "shop"
    assert b"with ESMTPA id" in upstream.messages[0].data
    assert results(intake) == [("PLAIN", "ok")]


def test_a_failed_login_counts_for_nothing(
    listen: Listen, config: dict[str, Any], upstream: FakeUpstream
) -> None:
    intake = listen(
        config, **keys(auth="optional", streams=["receipts"], default_stream="receipts")
    )
    with intake.client() as client:
        client.greet()
        assert client.say(plain(password="guess")) == WRONG
        client.begin()
        assert client.say("From: a@shop.example", "", ".").startswith("250 ")
    (decided,) = intake.records.decided
    assert decided.client.login == ""
    assert b"with ESMTP id" in upstream.messages[0].data


def test_plain_without_initial_response(listen: Listen, config: dict[str, Any]) -> None:
    with listen(config, **keys()).client() as client:
        client.greet()
        assert client.say("AUTH plain") == "334 "
        assert client.say(plain().removeprefix("AUTH PLAIN ")) == OK


def test_login_with_and_without_an_initial_name(listen: Listen, config: dict[str, Any]) -> None:
    intake = listen(config, **keys())
    for first in (["AUTH LOGIN", b64("shop")], [f"AUTH LOGIN {b64('shop')}"]):
        with intake.client() as client:
            client.greet()
            said = [client.say(line) for line in first]
            assert said[-1] == f"334 {b64('Password:')}"
            assert client.say(b64(PASSWORD)) == OK


def scram(client: Client, password: str = PASSWORD, user: str = "shop") -> str:
    """Run a SCRAM-SHA-256 exchange by hand; return the last reply."""
    bare = f"n={user},r={secrets.token_hex(8)}"
    challenge = client.say(f"AUTH SCRAM-SHA-256 {b64('n,,' + bare)}")
    if not challenge.startswith("334 "):
        return challenge
    first = base64.b64decode(challenge[4:]).decode()
    fields = dict(part.split("=", 1) for part in first.split(","))
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"])
    )
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    final = f"c={b64('n,,')},r={fields['r']}"
    signed = f"{bare},{first},{final}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    reply = client.say(b64(f"{final},p={base64.b64encode(proof).decode()}"))
    if not reply.startswith("334 "):
        return reply
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    verifier = base64.b64encode(hmac.digest(server_key, signed, "sha256")).decode()
    assert base64.b64decode(reply[4:]).decode() == f"v={verifier}"
    return client.say("")


def test_scram(listen: Listen, config: dict[str, Any]) -> None:
    intake = listen(config, **keys())
    with intake.client() as client:
        client.greet()
        assert scram(client, "wrong") == WRONG
        assert scram(client, user="nobody") == WRONG
        assert scram(client) == OK
    assert [outcome for _, outcome in results(intake)] == ["failed", "failed", "ok"]


def test_scram_does_not_reveal_which_users_exist(listen: Listen, config: dict[str, Any]) -> None:
    """An unknown name gets a salt too, the same each time."""
    intake = listen(config, **keys())
    salts = set()
    for _ in range(2):
        with intake.client() as client:
            client.greet()
            challenge = client.say(f"AUTH SCRAM-SHA-256 {b64('n,,n=nobody,r=abc')}")
            first = base64.b64decode(challenge[4:]).decode()
            salts.add(first.split(",")[1])
            assert first.endswith(",i=4096")
    assert len(salts) == 1


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        (["AUTH"], "501 5.5.4 syntax: AUTH mechanism"),
        (["AUTH CRAM-MD5"], "504 5.5.4 mechanism not offered; use SCRAM-SHA-256, PLAIN, LOGIN"),
        (["AUTH PLAIN !!!"], "501 5.5.2 cannot decode the base64 of the response"),
        (["AUTH PLAIN", "!!!"], "501 5.5.2 cannot decode the base64 of the response"),
        (["AUTH PLAIN", "*"], "501 5.7.0 authentication cancelled"),
        (["AUTH LOGIN", b64("shop"), "*"], "501 5.7.0 authentication cancelled"),
        (["AUTH PLAIN ="], "501 5.5.2 not a valid response for this mechanism"),
        ([f"AUTH PLAIN {b64('a')}"], "501 5.5.2 not a valid response for this mechanism"),
        (["AUTH LOGIN", ""], "501 5.5.2 not a valid response for this mechanism"),
        ([f"AUTH SCRAM-SHA-256 {b64('p=tls-unique,,n=a,r=b')}"], "501 5.5.2 not a valid response"),
        ([f"AUTH PLAIN {b64(f'root{chr(0)}shop{chr(0)}{PASSWORD}')}"], WRONG),
    ],
)
def test_malformed_exchanges_are_refused(
    listen: Listen, config: dict[str, Any], lines: list[str], reply: str
) -> None:
    with listen(config, **keys()).client() as client:
        client.greet()
        assert [client.say(line) for line in lines][-1].startswith(reply)
        assert client.say(plain()) == OK


def test_a_response_may_be_long_but_not_too_long(listen: Listen, config: dict[str, Any]) -> None:
    intake = listen(config, **keys())
    with intake.client() as client:
        client.greet()
        client.say("AUTH PLAIN")
        assert client.say("A" * 12_288) == "501 5.5.2 not a valid response for this mechanism"
        client.say("AUTH PLAIN")
        assert client.say("A" * 12_289).startswith("500 5.5.2 ")
        assert client.rest() == []


def test_auth_is_offered_inside_tls_only(
    listen: Listen, config: dict[str, Any], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("relay.example")
    intake = listen(
        config,
        auth="optional",
        tls="starttls",
        certificate=str(pair.certificate),
        private_key=str(pair.key),
    )
    with intake.client() as client:
        client.reply()
        client.send("EHLO client.example")
        lines = []
        while (line := client.line())[3:4] == "-":
            lines.append(line)
        assert lines
        assert not any("AUTH" in each for each in (*lines, line))
        assert client.say(plain()).startswith("538 5.7.11 ")
        client.starttls(authority.client_context())
        assert client.say(plain()) == OK
        assert client.say("RSET").startswith("250 ")


def test_a_login_before_starttls_does_not_count_afterwards(
    listen: Listen, config: dict[str, Any], tmp_path: Path
) -> None:
    """Anybody on the network path could have sent it."""
    authority = Authority(tmp_path)
    pair = authority.issue("relay.example")
    intake = listen(
        config,
        auth="optional",
        auth_without_tls=True,
        tls="starttls",
        certificate=str(pair.certificate),
        private_key=str(pair.key),
        streams=["receipts"],
        default_stream="receipts",
    )
    with intake.client() as client:
        client.greet()
        assert client.say(plain()) == OK
        client.starttls(authority.client_context())
        assert client.say("AUTH PLAIN") == "334 "
        assert client.say("*").startswith("501 5.7.0 ")
        client.begin()
        assert client.say("From: a@shop.example", "Subject: x", "", "hello", ".").startswith("250 ")
    (decided,) = intake.records.decided
    assert decided.client.login == ""


def test_auth_is_unknown_where_it_is_disabled(listen: Listen) -> None:
    with listen().client() as client:
        client.greet()
        assert client.say(plain()) == "502 5.5.1 AUTH is not implemented here"


def test_auth_is_refused_out_of_order(listen: Listen, config: dict[str, Any]) -> None:
    with listen(config, **keys(auth="optional")).client() as client:
        client.reply()
        assert client.say(plain()) == "503 5.5.1 send EHLO first"
        client.say("EHLO client.example")
        client.say("MAIL FROM:<news@shop.example>")
        assert client.say(plain()).startswith("503 5.5.1 not in a transaction")


def test_three_failures_end_a_session(listen: Listen, config: dict[str, Any]) -> None:
    intake = listen(config, **keys())
    with intake.client() as client:
        client.greet()
        assert client.say(plain(password="a")) == WRONG
        assert client.say("AUTH PLAIN =").startswith("501 5.5.2 ")
        assert client.say(plain("nobody")) == WRONG
        assert client.rest() == ["421 4.7.0 too many failures; closing the connection"]
    assert intake.wait_closed() == ["errors"]


def test_an_address_that_guesses_is_barred_for_a_while(
    listen: Listen, config: dict[str, Any]
) -> None:
    config["auth"] |= {"max_failures_per_address": 4, "failure_window": "4s"}
    intake = listen(config, **keys())
    for _ in range(2):
        with intake.client() as client:
            client.greet()
            for number in range(2):
                assert client.say(plain(password=f"guess{number}")) == WRONG
    with intake.client() as client:
        client.greet()
        for _ in range(3):
            assert client.say(plain()) == "454 4.7.0 too many failures; try again later"
        assert client.rest() == ["421 4.7.0 too many failures; closing the connection"]
    assert results(intake)[-1] == ("PLAIN", "limited")

    def back() -> bool:
        with intake.client() as client:
            client.greet()
            return client.say(plain()) == OK

    wait_for(back, "the window to pass")


def test_a_failed_login_is_answered_late(listen: Listen, config: dict[str, Any]) -> None:
    config["auth"]["failure_delay"] = "400ms"
    with listen(config, **keys()).client() as client:
        client.greet()
        began = time.monotonic()
        assert client.say(plain(password="wrong")) == WRONG
        assert time.monotonic() - began >= 0.4


def test_a_successful_login_is_answered_at_once(listen: Listen, config: dict[str, Any]) -> None:
    config["auth"]["failure_delay"] = "1m"
    with listen(config, **keys()).client() as client:  # its socket times out after ten seconds
        client.greet()
        assert client.say(plain()) == OK


def test_users_change_without_a_restart(listen: Listen, config: dict[str, Any]) -> None:
    path = Path(config["auth"]["users"])
    config["auth"] |= {"max_failures_per_address": 10_000, "max_failures_per_user": 10_000}
    intake = listen(config, **keys())

    def said(user: str, password: str) -> str:
        with intake.client() as client:
            client.greet()
            return client.say(plain(user, password))

    assert said("shop", PASSWORD) == OK
    users = empty()
    write(path, type(users)({"new": User.of("new", "other")}, users.key))
    wait_for(lambda: said("new", "other") == OK, "the new user")
    assert said("shop", PASSWORD) == WRONG
    path.chmod(0o644)
    path.write_text("nonsense\n")
    time.sleep(1.1)  # the file is checked every second
    assert said("new", "other") == OK, "an unreadable file must leave the old users"


def test_a_credential_narrows_streams_senders_and_domains(
    listen: Listen, config: dict[str, Any]
) -> None:
    config["credential"] = [
        {
            "user": "shop",
            "streams": ["receipts"],
            "default_stream": "receipts",
            "senders": ["news@shop.example"],
            "from_domains": ["shop.example"],
        }
    ]
    config["stream"] = [
        {**each, "undeclared_bulk": "marketing"} if each["name"] == "receipts" else each
        for each in STREAMS
    ]
    intake = listen(config, **keys(streams=["offers", "receipts"], default_stream="offers"))
    with intake.client() as client:
        client.greet()
        assert client.say(plain()) == OK
        assert client.say("MAIL FROM:<other@shop.example>").startswith("550 5.7.1 ")
        assert client.say("MAIL FROM:<>").startswith("550 5.7.1 ")
        client.begin("stranger@people.example")
        assert client.say("From: a@shop.example", "", "hello", ".").startswith("250 ")
        client.begin("stranger@people.example")
        for mark in ("X-A: b", "List-Post: <mailto:list@other.example>"):  # a sign of bulk
            reply = client.say(mark, "From: a@other.example", "", "hello", ".")
            assert reply.startswith("550 5.7.1 refused: sender_not_permitted (stream receipts)")
            client.begin("stranger@people.example")
    assert [d.decision.stream.name for d in intake.records.decided] == ["receipts"] * 3
    assert len(intake.of(SenderRefused)) == 2


def test_a_login_passed_on_by_a_trusted_host_counts(listen: Listen, config: dict[str, Any]) -> None:
    """A proxy that checked the password itself passes the login on by XCLIENT."""
    config["credential"] = [{"user": "shop", "senders": ["@shop.example"]}]
    with listen(
        config, **keys(xclient_trusted=["127.0.0.1"], login_trusted=["127.0.0.1"])
    ).client() as client:
        client.greet()
        for login, sender, answer in [
            ("shop", "news@shop.example", "250 2.1.0 "),
            ("shop", "news@other.example", "550 5.7.1 "),
            ("[UNAVAILABLE]", "news@shop.example", "530 5.7.0 "),
        ]:
            assert client.say(f"XCLIENT ADDR=192.0.2.7 LOGIN={login}").startswith("220 ")
            client.say("EHLO client.example")
            assert client.say(f"MAIL FROM:<{sender}>").startswith(answer), login
            client.say("RSET")
        assert client.say(plain()) == OK
        assert client.say("XCLIENT LOGIN=[UNAVAILABLE]").startswith("220 ")
        client.say("EHLO client.example")
        assert client.say("MAIL FROM:<news@shop.example>").startswith("530 5.7.0 ")


def test_a_login_withdrawn_by_a_trusted_host_is_not_recorded(
    listen: Listen, config: dict[str, Any]
) -> None:
    trusted = {"xclient_trusted": ["127.0.0.1"], "login_trusted": ["127.0.0.1"]}
    streams = {"streams": ["receipts"], "default_stream": "receipts"}
    intake = listen(config, **keys(auth="optional", **trusted, **streams))
    with intake.client() as client:
        client.greet()
        for told in ("LOGIN=shop", "ADDR=192.0.2.7", "LOGIN=[UNAVAILABLE]"):
            assert client.say(f"XCLIENT {told}").startswith("220 ")
            client.say("EHLO client.example")
            client.begin()
            assert client.say("From: a@shop.example", "", ".").startswith("250 ")
    logins = [decided.client.login for decided in intake.records.decided]
    assert logins == ["shop", "shop", ""]


def test_no_password_is_logged_or_recorded(
    listen: Listen, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    intake = listen(config, **keys())
    secret = "hunter2-hunter2"
    with intake.client() as client:
        client.greet()
        client.say(plain(password=secret))
        client.say("AUTH LOGIN")
        client.say(b64(secret))  # typed in place of the name
        client.say(b64("x"))
    everything = repr(intake.events) + caplog.text + repr(intake.records.decided)
    assert secret not in everything
    assert b64(secret) not in everything
