"""Message content, and undeclared bulk mail, through a running relay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.mail.long_lines import with_broken_lines
from tests.kit.audit import records
from tests.kit.dns import NameServer
from tests.kit.messages import marketing, message
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

SUBSCRIBER, STRANGER = address("consent"), "nobody@people.example"
WAY_OUT = "Unsubscribe: https://unsubscribe.shop.example/x\r\nACME SA, 1 rue X, 75001 Paris\r\n"
RECEIPT = "Dear {name}, here is the news of the shop for all our friends, {link}\r\n"

Start = Callable[..., RelayProcess]


@pytest.fixture(scope="module")
def started(filled: Start) -> Start:
    """Start a relay, with `web` if metrics are read; other options are for streams by name."""

    def start(
        upstream: str,
        dns: str | None = None,
        workers: int = 1,
        web: bool = False,
        **streams: dict[str, Any],
    ) -> RelayProcess:
        changed = [{**stream, **streams.get(stream["name"], {})} for stream in STREAMS]
        config: dict[str, Any] = {
            "server": {"workers": workers},
            "web": {} if web else None,
            "stream": changed,
            "listener": [listener("apps", "offers", "receipts", default="offers")],
        }
        if dns is not None:
            config["dns"] = {"nameservers": [dns], "timeout": "500ms"}
        return filled(upstream, config)

    return start


def bulk_counted(relay: RelayProcess, action: str) -> float:
    return relay.metric("smtpproxy_undeclared_bulk_total", stream="receipts", action=action)


def receipt(number: int, **more: Any) -> bytes:
    body = RECEIPT.format(name=f"Anna{number}", link=f"https://shop.example/n/{number:08d}")
    return message(stream="receipts", to=f"Anna{number} <p{number}@b.example>", body=body, **more)


def test_marketing_text_is_checked(started: Start) -> None:
    asked = {"body_optout": True, "imprint": ["ACME SA, 1 rue X, 75001 Paris"]}
    with FakeUpstream() as mta:
        relay = started(mta.address, offers={**asked, "honest_subject": True})
        code, text = relay.send(marketing(), SUBSCRIBER)
        assert (code, "5.7.0 refused: body_optout_missing (stream offers)" in text) == (550, True)
        no_imprint = WAY_OUT.partition("ACME")[0]
        assert "sender_unidentified" in relay.send(marketing(body=no_imprint), SUBSCRIBER)[1]
        fake = marketing(body=WAY_OUT, subject="Re: your order")
        assert "subject_misleading" in relay.send(fake, SUBSCRIBER)[1]
        large = marketing(body=WAY_OUT + "\r\n" + "x" * 70 + "\r\n" * 3_000_000)
        assert relay.send(large, SUBSCRIBER)[0] == 250  # it waited on the disk
        assert len(mta.messages) == 1
        told = [entry.decided.decision.message for entry in records(relay)]
        assert [verdict.reason for verdict in told if verdict is not None] == [
            *("body_optout_missing", "sender_unidentified", "subject_misleading", "none")
        ]


@needs("postfix")
def test_a_link_that_postfix_breaks_does_not_count(started: Start, tmp_path: Path) -> None:
    """Postfix has to break lines of more than 998 octets: the link would lead nowhere."""
    link = '<a href="https://unsubscribe.shop.example/x">Unsubscribe</a>'
    html = [("Content-Type", "text/html; charset=utf-8")]
    with FakeUpstream() as mta, PostfixInstance(relayhost=mta.address) as postfix:
        relay = started(postfix.address, offers={"body_optout": True})
        for before in (900, 2_000):  # octets before the link on its line
            body = f"<p>{'x' * before}{link}{'y' * 900}</p>\r\n"
            assert relay.send(marketing(body=body, headers=html), SUBSCRIBER)[0] == 250
            wait_for(lambda: mta.messages, "the mail")
            delivered = mta.messages.pop().data.partition(b"\r\n\r\n")[2]
            assert delivered == with_broken_lines(body.encode())
            assert link.encode() in delivered
        mail = marketing(body=f"<p>{'x' * 980}{link}</p>\r\n", headers=html)
        code, text = relay.send(mail, SUBSCRIBER)
        assert (code, "5.6.0 refused: header_malformed" in text) == (554, True)
        (tmp_path / "mail.eml").write_bytes(mail)
        asked = ("--mail-from", "news@shop.example", "--rcpt", SUBSCRIBER)
        told = relay.command("explain", str(tmp_path / "mail.eml"), *asked)[1]
        assert "MTAs break its unsubscribe link" in " ".join(told.split())
        mail = marketing(
            body=f"{'x' * 970} unsubscribe: leave@shop.example",
            unsubscribe="<https://unsubscribe.shop.example/x>, <mailto:leave@shop.example>",
        )
        assert "header_malformed" in relay.send(mail, SUBSCRIBER)[1]
        # one working link suffices
        twice = f"<p>{'x' * 980}{link}</p>\r\n{link}\r\n"
        assert relay.send(marketing(body=twice, headers=html), SUBSCRIBER)[0] == 250


def test_one_text_to_many_is_refused_by_two_workers_together(started: Start) -> None:
    bulk = {"undeclared_bulk": "refuse", "bulk_recipients": 3}
    with FakeUpstream() as mta:
        relay = started(mta.address, workers=2, web=True, receipts=bulk)
        answers = [relay.send(receipt(n), f"p{n}@b.example") for n in range(6)]
        assert [code for code, _ in answers] == [250] * 3 + [550] * 3
        assert "5.7.1 refused: bulk_undeclared (stream receipts)" in answers[-1][1]
        assert relay.send(receipt(0), "p0@b.example")[0] == 550  # it stays bulk
        own = message(stream="receipts", body="You paid 12 euros for your shoes, thank you.\r\n")
        assert relay.send(own, "p9@b.example")[0] == 250
        listed = receipt(7, headers=[("List-Id", "news"), ("Precedence", "bulk")])
        assert relay.send(listed, "p7@b.example")[0] == 550
        assert bulk_counted(relay, "refuse") == 5


def test_uncountable_mail_passes_only_in_observe_mode(started: Start) -> None:
    with FakeUpstream() as mta:
        relay = started(mta.address, receipts={"undeclared_bulk": "refuse"})
        state = Path(relay.config["server"]["state_dir"])
        (state / "smtpproxy-bulk.db").write_bytes(b"no database" * 500)
        assert relay.send(receipt(1), "p1@b.example")[0] == 451
        relay.terminate()
        for stream in relay.config["stream"]:
            if stream["name"] == "receipts":
                stream |= {"undeclared_bulk": "observe", "bulk_recipients": 10}
        relay.write_config()
        relay.start()
        assert relay.send(receipt(1), "p1@b.example")[0] == 250


def observed_bulk_passes_and_is_counted(relay: RelayProcess) -> None:
    assert relay.send(marketing(stream="receipts"), STRANGER)[0] == 250
    one_sign = receipt(1, headers=[("List-Unsubscribe", "<https://x.example/>")])
    assert relay.send(one_sign, STRANGER)[0] == 250
    assert bulk_counted(relay, "observe") == 1


SHOP = "Shop <hello@shop.example>"
NEWS = "View it in your browser: https://x.example/7\r\nYou are subscribed. Unsubscribe here.\r\n"


def test_bulk_is_recognised_by_its_header_or_text(started: Start) -> None:
    weak = [("List-Unsubscribe", "<https://x.example/>")]
    news = message(stream="receipts", sender=SHOP, subject="Hello", body=NEWS, headers=weak)
    with FakeUpstream() as mta:
        relay = started(mta.address, web=True)
        observed_bulk_passes_and_is_counted(relay)
        assert relay.send(news, STRANGER)[0] == 250
        assert bulk_counted(relay, "observe") == 2
        told = records(relay)[-1].decided.features.content
        assert told is not None
        assert told.bulk_markers == ("list-unsubscribe",)
        assert told.bulk_text == ("subscribed", "browser", "unsubscribe")
        relay.terminate()
        for stream in relay.config["stream"]:
            if stream["name"] == "receipts":
                stream |= {"undeclared_bulk": "refuse"}
        relay.write_config()
        relay.start()
        assert "bulk_undeclared" in relay.send(news, STRANGER)[1]
        path = relay.root / "news.eml"
        path.write_bytes(news)
        asked = ["--mail-from", "a@shop.example", "--rcpt", STRANGER, "--stream", "receipts"]
        said = relay.command("explain", str(path), *asked)[1]
        assert (
            "its header has list-unsubscribe, and its text has words addressed to subscribers,"
            in said
        )
        bare = message(stream="receipts", sender=SHOP, subject="Hello", body=NEWS)
        assert relay.send(bare, STRANGER)[0] == 550  # its text was read for counting
        own = message(stream="receipts", sender=SHOP, body=NEWS, headers=weak)
        assert relay.send(own, STRANGER)[0] == 250


def test_undeclared_bulk_can_be_judged_as_marketing(started: Start) -> None:
    with FakeUpstream() as mta:
        relay = started(mta.address, web=True, receipts={"undeclared_bulk": "marketing"})
        listed = marketing(stream="receipts")
        code, text = relay.send(listed, STRANGER)
        assert (code, "refused: no_record (stream default)" in text) == (550, True)
        assert relay.send(receipt(1), STRANGER)[0] == 250
        assert bulk_counted(relay, "marketing") == 1
        path = relay.root / "listed.eml"
        path.write_bytes(listed)
        asked = ["--mail-from", "a@shop.example", "--rcpt", STRANGER, "--stream", "receipts"]
        code, told, _ = relay.command("explain", str(path), *asked, "--json")
        assert code == 1
        assert json.loads(told)["stream"] == "default"


def test_a_from_domain_that_is_not_the_streams(started: Start) -> None:
    with FakeUpstream() as mta, NameServer() as dns:
        relay = started(mta.address, offers={"alignment": "relaxed"}, dns=dns.address)
        dns.add('_dmarc.shop.example. TXT "v=DMARC1; p=none; rua=mailto:d@shop.example"')
        dns.add('_dmarc.own.shop.example. TXT "v=DMARC1; p=none; rua=mailto:d@shop.example; psd=n"')
        assert relay.send(marketing(), SUBSCRIBER, sender="b@bounces.shop.example")[0] == 250
        for stranger in ("b@esp.example", "b@own.shop.example"):
            code, text = relay.send(marketing(), SUBSCRIBER, sender=stranger)
            assert (code, "5.7.1 refused: from_misaligned" in text) == (550, True)
        dns.fail("_dmarc.new.shop.example.", "silence")
        code, text = relay.send(marketing(), SUBSCRIBER, sender="b@new.shop.example")
        assert (code, "temporary_failure" in text) == (451, True)
        assert relay.send(marketing(), SUBSCRIBER, sender="b@shop.example")[0] == 250
