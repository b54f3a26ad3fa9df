"""`smtpproxy explain`: the relay's own verdicts, without sending anything."""

import json
import re
import smtplib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.cli.conftest import Bench
from tests.kit import messages
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import NOW, SUPPRESSED, address, people
from tests.kit.toml import to_toml
from tests.kit.upstream import FakeUpstream

SENDER = {
    "offers": "Shop <news@shop.example>",
    "appeals": "Charity <help@charity.example>",
    "b2b": "Shop <news@shop.example>",
}


def explain(bench: Bench, message: bytes, *arguments: str, code: int | None = None) -> Any:
    """Explain a message from news@shop.example, read from standard input."""
    options = ("--mail-from", "news@shop.example", *arguments)
    return bench.json("explain", "-", *options, stdin=message, code=code)


def without_id(reply: str) -> str:
    return re.sub(r"id=\S+", "id=", reply)


def test_the_answer_has_the_shape_of_the_contract(bench: Bench) -> None:
    result = explain(bench, messages.marketing(), "--rcpt", address("consent"), code=0)
    assert list(result)[:4] == ["stream", "rulebook", "message", "recipients"]
    assert list(result["message"])[:3] == ["verdict", "reason", "reply"]
    keys = ["address", "verdict", "reason", "basis", "reply", "trace"]
    (recipient,) = result["recipients"]
    assert list(recipient)[:6] == keys
    assert list(recipient["trace"][0])[:4] == ["rule", "outcome", "text", "source"]
    assert (result["stream"], result["rulebook"]) == ("offers", "fr")
    said = {name: result["message"][name] for name in ("verdict", "reason", "reply")}
    assert said == {"verdict": "allow", "reason": "none", "reply": None}


@pytest.mark.parametrize("name", people(NOW))
def test_it_answers_like_the_running_relay(bench: Bench, name: str) -> None:
    person = people(NOW)[name]
    message = messages.marketing(sender=SENDER[person.stream], stream=person.stream)
    code, reply = bench.relay.send(message, address(name))
    result = explain(bench, message, "--rcpt", address(name))
    (recipient,) = result["recipients"]
    assert result["stream"] == person.stream
    if code == 250:
        assert (recipient["verdict"], recipient["basis"]) == ("allow", person.outcome)
        assert recipient["reply"] is None
        assert result["message"]["verdict"] == "allow"
    else:
        assert (recipient["verdict"], recipient["reason"]) == ("refuse", person.outcome)
        assert without_id(recipient["reply"]) == without_id(f"{code} {reply}")
    assert recipient["trace"][-1]["outcome"] in (recipient["verdict"], "passed")


@pytest.mark.parametrize("name", SUPPRESSED)
def test_it_answers_like_the_relay_about_suppressed_people(bench: Bench, name: str) -> None:
    message = messages.marketing()
    code, reply = bench.relay.send(message, address(name))
    (recipient,) = explain(bench, message, "--rcpt", address(name), code=1)["recipients"]
    assert recipient["reason"] == f"suppressed_{SUPPRESSED[name][1]}"
    assert without_id(recipient["reply"]) == without_id(f"{code} {reply}")


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"unsubscribe": None}, "unsubscribe_missing"),
        ({"one_click": None}, "one_click_missing"),
        ({"unsubscribe": "<ftp://x.example>"}, "unsubscribe_malformed"),
        ({"sender": "Other <a@other.example>"}, "sender_not_permitted"),
        ({"sender": "nobody"}, "header_malformed"),
        ({"stream": "secret"}, "stream_not_permitted"),
    ],
)
def test_a_refused_message(bench: Bench, spoiled: dict[str, Any], reason: str) -> None:
    message = messages.marketing(**spoiled)
    code, reply = bench.relay.send(message, address("consent"))
    result = explain(bench, message, "--rcpt", address("consent"), code=1)
    assert result["message"]["reason"] == reason
    assert without_id(result["message"]["reply"]) == without_id(f"{code} {reply}")


def test_an_unusable_stream_is_named_and_nobody_is_called_allowed(bench: Bench) -> None:
    """The app's developer has to correct its name; no other rule was evaluated."""
    message = messages.marketing(stream="promos")
    (step,) = explain(bench, message, "--rcpt", address("consent"), code=1)["message"]["trace"]
    assert step["rule"] == "stream_choice"
    assert step["text"].startswith("it names the stream “promos”")
    told = ("--mail-from", "news@shop.example", "--rcpt", address("consent"))
    out, _ = bench.run("explain", "-", *told, stdin=message, code=1)
    assert "“promos”" in out
    assert f"{address('consent')}  not judged" in out


def test_some_recipients_are_refused_at_the_end_of_data(bench: Bench) -> None:
    """The header may choose the stream, so one reply for all comes at the end of the message."""
    message = messages.marketing()
    rcpts = ["--rcpt", address("consent"), "--rcpt", address("nothing")]
    code, reply = bench.relay.send(message, address("consent"), address("nothing"))
    result = explain(bench, message, *rcpts, code=1)
    assert [r["verdict"] for r in result["recipients"]] == ["allow", "refuse"]
    assert result["message"]["reason"] == "recipients_refused"
    assert without_id(result["message"]["reply"]) == without_id(f"{code} {reply}")


def test_a_message_to_one_person_is_not_explained_as_one_to_several(bench: Bench) -> None:
    """There is nobody to take out of it: what has to change is said of the person."""
    result = explain(bench, messages.marketing(), "--rcpt", address("nothing"), code=1)
    assert result["message"]["reason"] == "recipients_refused"
    assert "its only recipient may not be mailed" in result["message"]["explanation"]
    assert result["message"]["changes"] == []
    assert result["recipients"][0]["changes"]


@pytest.mark.parametrize("names", [("nothing",), ("consent", "nothing"), ("nothing", "withdrawn")])
@pytest.mark.parametrize("spoiled", [{}, {"unsubscribe": None}])
def test_a_message_refused_as_a_whole_has_the_reply_the_client_got(
    bench: Bench, names: tuple[str, ...], spoiled: dict[str, Any]
) -> None:
    message, people = messages.marketing(**spoiled), [address(name) for name in names]
    code, reply = bench.relay.send(message, *people)
    found = re.search(r"id=(\S+)", reply)
    assert found
    recorded = ("explain", "--id", found[1])
    asked = [f"--rcpt={name}" for name in people]
    for result in (bench.json(*recorded, code=1), explain(bench, message, *asked, code=1)):
        said = [result["message"]["reply"], *(one["reply"] for one in result["recipients"])]
        assert {without_id(one) for one in said if one} == {without_id(f"{code} {reply}")}
    out, _ = bench.run(*recorded, code=1)
    assert out.count("Reply to the sending server") == 1


@pytest.mark.parametrize("spoiled", [{}, {"unsubscribe": None}])
def test_over_lmtp_each_recipient_has_its_own_reply(
    tmp_path: Path, spoiled: dict[str, Any]
) -> None:
    message, people = messages.marketing(**spoiled), ("a@people.example", "b@people.example")
    door = listener("apps", "offers", "receipts", default="offers", protocol="lmtp")
    with (
        FakeUpstream() as upstream,
        RelayProcess(tmp_path, upstream.address, {"listener": [door]}) as relay,
        smtplib.LMTP("127.0.0.1", relay.port("apps"), timeout=60) as client,
    ):
        client.ehlo("client.example")
        client.mail("news@shop.example")
        for name in people:
            assert client.rcpt(name)[0] == 250
        client.docmd("DATA")
        client.send(message + b".\r\n")
        got = [f"{code} {text.decode()}" for code, text in (client.getreply() for _ in people)]
        found = re.search(r"id=(\S+)", got[0])
        assert found
        asked = ("explain", "-", "--mail-from", "news@shop.example", "--json")
        rcpts = [f"--rcpt={name}" for name in people]
        for command in (("explain", "--id", found[1], "--json"), (*asked, *rcpts)):
            code, out, _ = relay.command(*command, stdin=message)
            result = json.loads(out)
            whole, own = result["message"]["reply"], [one["reply"] for one in result["recipients"]]
            said = own if whole is None else [whole] * 2
            assert (code, [without_id(one) for one in said]) == (
                1,
                [without_id(one) for one in got],
            )
            assert bool(spoiled) is (whole is not None) is (own == [None, None])


def test_on_a_known_stream_recipients_are_refused_individually(bench: Bench) -> None:
    rcpts = ["--rcpt", address("consent"), "--rcpt", address("nothing")]
    result = explain(bench, messages.marketing(), *rcpts, "--stream", "offers", code=1)
    assert [r["verdict"] for r in result["recipients"]] == ["allow", "refuse"]
    assert result["message"]["verdict"] == "allow"


def test_split_delivers_to_permitted_recipients_unless_the_reverse_path_is_null(
    bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "split.toml"
    path.write_text(to_toml({**bench.relay.config, "policy": {"on_mixed": "split"}}))
    rcpts = ["--rcpt", address("consent"), "--rcpt", address("nothing"), "--json"]

    def explained(sender: str) -> Any:
        arguments = ("explain", "-", "--mail-from", sender, *rcpts)
        out, _ = bench.run(*arguments, stdin=messages.marketing(), code=1, config_path=path)
        return json.loads(out)

    split, whole = explained("news@shop.example"), explained("")
    assert split["message"]["verdict"] == "allow"
    assert whole["message"]["verdict"] == "refuse"
    refusal = whole["message"]["reply"]
    (note,) = split["recipients"][1]["notes"]
    assert note.endswith(f"would be told of this recipient by a notification: {refusal}")
    assert [each["reply"] for each in split["recipients"]] == [None, None], "the client gets a 250"


def test_a_message_whose_recipients_are_all_refused_gets_no_reply_of_its_own(bench: Bench) -> None:
    rcpt, stream = ("--rcpt", address("nothing")), ("--stream", "offers")
    message = messages.message()  # without a way to unsubscribe
    result = explain(bench, message, *rcpt, *stream, code=1)
    assert result["message"]["reason"] == "unsubscribe_missing"
    assert result["message"]["reply"] is None
    assert result["recipients"][0]["reply"].startswith("550 5.7.1 <")


def test_listener_and_sender_rules_narrow_the_choice(bench: Bench, tmp_path: Path) -> None:
    listeners = [
        *bench.relay.config["listener"],
        {"name": "plain", "address": "127.0.0.1:2599", "streams": ["receipts"]},
    ]
    senders = [
        {
            "address": "@shop.example",
            "streams": ["receipts"],
            "default_stream": "receipts",
        }
    ]
    path = tmp_path / "rules.toml"
    path.write_text(to_toml({**bench.relay.config, "listener": listeners, "sender": senders}))

    def stream(sender: str, *listener: str) -> str:
        arguments = ("explain", "-", "--mail-from", sender, "--rcpt", address("nothing"))
        out, _ = bench.run(
            *arguments, *listener, "--json", stdin=messages.message(), config_path=path
        )
        return str(json.loads(out)["stream"])

    assert stream("a@other.example") == "offers"
    assert stream("a@shop.example") == "receipts"
    assert stream("a@other.example", "--listener", "plain") == "default"


def test_the_stream_can_be_given(bench: Bench) -> None:
    message = messages.message()
    refused = explain(bench, message, "--rcpt", address("nothing"), code=1)
    assert (refused["stream"], refused["message"]["reason"]) == ("offers", "unsubscribe_missing")
    receipt = ("--rcpt", address("nothing"), "--stream", "receipts")
    allowed = explain(bench, message, *receipt, code=0)
    assert allowed["stream"] == "receipts"
    assert allowed["recipients"][0]["basis"] == "transactional"


def test_as_of_an_earlier_time_later_facts_are_unknown(bench: Bench) -> None:
    now = datetime.now(UTC)
    at = {days: (now - timedelta(days=days)).isoformat() for days in (1, 60, 120)}

    def verdict(name: str, *when: str) -> tuple[str, str]:
        result = explain(
            bench, messages.marketing(), "--rcpt", address(name), "--stream", "offers", *when
        )
        return result["recipients"][0]["verdict"], result["recipients"][0]["reason"]

    assert verdict("unsubscribed", "--at", at[1]) == ("refuse", "suppressed_unsubscribe")
    assert verdict("unsubscribed", "--at", at[60]) == ("refuse", "no_record")
    assert verdict("consent", "--at", at[60]) == ("allow", "none")
    assert verdict("consent", "--at", at[120]) == ("refuse", "no_record")
    assert verdict("customer", "--at", "2999-01-01") == ("refuse", "customer_stale")
    soon = [(now + timedelta(hours=hours)).isoformat() for hours in (1, 2)]
    told = ("suppress", "add", address("refuses-later"), "--scope", "all", "--since", soon[1])
    bench.run(*told, code=0)
    assert verdict("refuses-later", "--at", soon[0]) == ("refuse", "suppressed_manual")
    assert verdict("refuses-later", "--at", at[1]) == ("refuse", "no_record")


def test_unix_line_ends_are_read_as_crlf(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "message.eml"
    path.write_bytes(messages.marketing().replace(b"\r\n", b"\n"))
    options = ("--mail-from", "<>", "--rcpt", f"<{address('consent')}>")
    result = bench.json("explain", str(path), *options, code=0)
    assert result["recipients"][0]["address"] == address("consent")
    mixed = messages.marketing() + b"bare\n"
    path.write_bytes(b"Subject: a\n" + mixed)
    result = bench.json("explain", str(path), *options, code=1)
    assert result["message"]["reason"] == "header_malformed"


def test_a_recorded_decision_is_explained_with_its_own_replies(bench: Bench) -> None:
    code, reply = bench.relay.send(messages.marketing(), address("bounced"))
    found = re.search(r"id=(\S+)", reply)
    assert found
    result = bench.json("explain", "--id", found[1], code=1)
    assert (code, result["message"]) == (550, None)
    (recipient,) = result["recipients"]
    assert recipient["reason"] == "suppressed_bounce"
    assert recipient["reply"] == f"{code} {reply}"
    assert recipient["trace"][-1]["rule"] == "suppression"


def test_a_recorded_decision_does_not_change_with_the_facts(bench: Bench) -> None:
    _, reply = bench.relay.send(messages.marketing(), address("late"))
    found = re.search(r"id=(\S+)", reply)
    assert found
    known = replace(people(datetime.now(UTC))["consent"].contact, address=address("late"))
    bench.store(lambda store: store.put_contacts([known]))
    explain(bench, messages.marketing(), "--rcpt", address("late"), code=0)
    result = bench.json("explain", "--id", found[1].lower(), code=1)
    assert result["stream"] == "offers"
    assert result["message"]["reply"] == f"550 {reply}"
    assert result["recipients"][0]["reason"] == "no_record"
    assert result["recipients"][0]["trace"][-1]["rule"] == "no_record"


def test_a_recorded_decision_shows_the_upstreams_answer(bench: Bench) -> None:
    bench.relay.send(messages.message(stream="receipts"), address("nothing"))

    def answered() -> str:
        (found,) = bench.json("audit", "show", "--recipient", address("nothing"), "--limit", "1")
        return str(found["id"]) if found["upstream"] else ""

    id = wait_for(answered, "the answer to be on record")
    result = bench.json("explain", "--id", id)
    assert result["relayed"]
    assert result["upstream"]["reply"] == "250 2.0.0 queued as FAKE"
    out, _ = bench.run("explain", "--id", id)
    told = "It was passed to the mail server behind the relay, which replied on "
    assert told in " ".join(out.split())
    assert "250 2.0.0 queued as FAKE" in out
    asked = explain(bench, messages.marketing(), "--rcpt", address("consent"), code=0)
    assert (asked["relayed"], asked["upstream"]) == (False, None)


def test_the_text_explains_a_refusal(bench: Bench) -> None:
    arguments = ("-", "--mail-from", "x@y.example", "--rcpt", address("withdrawn"))
    out, err = bench.run("explain", *arguments, stdin=messages.marketing(), code=1)
    assert err == ""
    text = " ".join(out.split())
    assert "Stream offers: marketing mail, for the purpose “offers”. Rulebook fr." in text
    assert (
        "Mail to withdrawn@people.example would be refused on stream offers: the person withdrew"
        " their consent to “offers” on "
    ) in text
    assert "A refusal counts as an objection, and only newer consent lifts it." in text
    assert "What would change this - The person agrees to “offers” again, after " in text
    assert "550 5.7.1 <withdrawn@people.example> refused: consent_withdrawn" in text
    assert "Was consent withdrawn? [withdrawn: refused]" in text
    law = "RGPD, art. 7, § 3; RGPD, art. 21, § 2"
    assert f"Source: {law} (docs/design.md 4.2; docs/law.md A31, A35)" in text


def test_observe_mode_is_mentioned(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "observe.toml"
    path.write_text(to_toml({**bench.relay.config, "policy": {"mode": "observe"}}))
    arguments = ("-", "--mail-from", "x@y.example", "--rcpt", address("nothing"))
    out, _ = bench.run("explain", *arguments, stdin=messages.marketing(), code=1, config_path=path)
    assert "observe mode" in out
    assert "Reply to the sending server" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give MESSAGE.eml with --mail-from and --rcpt, or give --id"),
        (("-", "--mail-from", "a@b.example"), "give MESSAGE.eml with --mail-from and --rcpt"),
        (("-", "--mail-from", "a@b.example", "--rcpt", "a b@c.example"), "for '--rcpt'"),
        (("-", "--mail-from", "", "--rcpt", "a@b.example", "--stream", "x"), "no stream 'x'"),
        (
            ("-", "--mail-from", "", "--rcpt", "a@b.example", "--listener", "x"),
            "there is no listener 'x'",
        ),
        (("-", "--mail-from", "", "--rcpt", "a@b.example", "--at", "soon"), "'soon' is not a time"),
        (("--id", "x"), "is not a decision id"),
        (("a@b.example",), "'a@b.example' is an address, not a file: smtpproxy audit show"),
        (("--id", "01JBZ4D5E6F7G8H9J0K1M2N3P4", "--at", "2026-01-01"), "--id takes no message"),
        (("/nonexistent.eml", "--mail-from", "", "--rcpt", "a@b.example"), "/nonexistent.eml"),
    ],
)
def test_wrong_usage_is_explained(bench: Bench, arguments: tuple[str, ...], says: str) -> None:
    out, err = bench.run("explain", *arguments, stdin=messages.marketing(), code=2)
    assert out == ""
    assert says in err


def test_an_unknown_id_is_reported(bench: Bench) -> None:
    _, err = bench.run("explain", "--id", "01JBZ4D5E6F7G8H9J0K1M2N3P4", code=1)
    assert err == "Error: no decision 01JBZ4D5E6F7G8H9J0K1M2N3P4 is on record\n"


def test_addresses_are_read_like_the_listener_reads_them(bench: Bench, tmp_path: Path) -> None:
    asking = {"protocol": "milter", "streams": ["offers"], "default_stream": "offers"}
    listeners = [
        *bench.relay.config["listener"],
        {"name": "mta", "address": f"unix:{tmp_path}/mta", "origin": "people.example", **asking},
    ]
    path = tmp_path / "origin.toml"
    path.write_text(to_toml({**bench.relay.config, "listener": listeners}))

    def run(code: int, *options: str) -> tuple[str, str]:
        options = ("--mail-from", "<news@shop.example>", *options, "--json")
        return bench.run(
            "explain", "-", *options, stdin=messages.marketing(), code=code, config_path=path
        )

    for rcpt, wrong in (
        ("@r.test:consent@people.example", "source routes are not accepted"),
        ('<"@r.test:consent"@people.example>', "source routes are not accepted"),
        ("withdrawn", "address has no domain"),
        ("Jeanne <consent@people.example>", "bad address syntax"),
        ("<>", "local part is empty"),
    ):
        assert wrong in run(2, "--rcpt", rcpt)[1]
    (known,) = json.loads(run(1, "--rcpt", "withdrawn", "--listener", "mta")[0])["recipients"]
    assert (known["address"], known["reason"]) == ("withdrawn@people.example", "consent_withdrawn")
    run(0, "--rcpt", " <consent@people.example>")
    _, err = run(2, "--rcpt", "a@b.example", "--mail-from", "@r.test:news@shop.example")
    assert "source routes are not accepted" in err


@pytest.mark.parametrize(("protocol", "reads"), [("milter", True), ("policy", False)])
def test_a_listener_without_the_content_does_not_judge_it(
    bench: Bench, tmp_path: Path, protocol: str, reads: bool
) -> None:
    mta = {"name": "mta", "address": f"unix:{tmp_path}/mta", "protocol": protocol}
    offers = {"streams": ["offers"], "default_stream": "offers"}
    path = tmp_path / "mta.toml"
    path.write_text(
        to_toml({**bench.relay.config, "listener": [*bench.relay.config["listener"], mta | offers]})
    )
    asked = ("-", "--mail-from", "<news@shop.example>", "--rcpt", address("consent"))
    asked += ("--listener", "mta", "--json")
    out, _ = bench.run(
        "explain", *asked, stdin=messages.message(), code=1 if reads else 0, config_path=path
    )
    message = json.loads(out)["message"]
    assert (message and message["reason"]) == ("unsubscribe_missing" if reads else None)


@pytest.mark.parametrize(
    ("limit", "reply"),
    [
        ({"data_size_limit": "1KiB"}, "552 5.3.4 message is larger than the limit"),
        ({"max_header_fields": 20}, "554 5.6.0 header section has more fields than the limit"),
    ],
)
def test_a_message_beyond_a_limit_is_reported_as_such(
    bench: Bench, tmp_path: Path, limit: dict[str, Any], reply: str
) -> None:
    """Such a message was once reported as having an unreadable header."""
    path = tmp_path / "limits.toml"
    server = {**bench.relay.config["server"], **limit}
    path.write_text(to_toml({**bench.relay.config, "server": server}))
    much = b"".join(b"X-%d: %s\r\n" % (n, b"y" * 50) for n in range(20)) + messages.marketing()
    asked = ("-", "--mail-from", "<news@shop.example>", "--rcpt", address("consent"))
    asked += ("--stream", "offers", "--json")
    out, _ = bench.run("explain", *asked, stdin=much, code=1, config_path=path)
    message, (recipient,) = json.loads(out)["message"], json.loads(out)["recipients"]
    assert message["reply"].startswith(reply)
    assert (message["verdict"], message["reason"]) == ("refuse", "none")
    assert message["explanation"].startswith("The relay would refuse the message before any rule")
    assert (message["changes"], message["trace"]) == ([], [])
    assert "No rule was applied to this recipient" in recipient["notes"][0]


def test_in_observe_mode_there_is_no_reply(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "observe.toml"
    path.write_text(to_toml({**bench.relay.config, "policy": {"mode": "observe"}}))
    asked = ("-", "--mail-from", "<x@shop.example>", "--rcpt", address("complained"))
    asked += ("--stream", "offers", "--json")
    out, _ = bench.run("explain", *asked, stdin=messages.marketing(), code=1, config_path=path)
    (recipient,) = json.loads(out)["recipients"]
    assert (recipient["verdict"], recipient["reply"]) == ("refuse", None)
