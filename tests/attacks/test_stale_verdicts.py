"""A verdict is only as fresh as its facts: changes before the end of data count.

A suppression or withdrawal committed before the upstream has the end of the data is obeyed, in
every intake, whatever the client was told about the recipient before.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import NO_FACTS, Facts, Lookups
from tests.attacks.clients import Lmtp, Smtp, adding, submission
from tests.intake.conftest import Listen
from tests.kit.dkim import KeyFile, signed
from tests.kit.dns import NameServer
from tests.kit.messages import marketing, message
from tests.kit.mta import mta as milter_client
from tests.kit.policy import policy_client
from tests.kit.ports import wait_for
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address, ndjson
from tests.kit.upstream import At, FakeUpstream, Hold

StartFilled = Callable[..., RelayProcess]
_firms = count(1)

INTAKES: dict[str, type[Smtp]] = {"smtp": Smtp, "lmtp": Lmtp}


def firm() -> str:
    """An address that anybody may write to and no other test suppresses."""
    return f"contact@firm{next(_firms)}.example"


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    """Every intake, each with one stream; `offers` is marketing, `receipts` is not."""
    protocols = ("smtp", "lmtp", "milter", "policy")
    return filled(
        mta.address,
        {
            "listener": [
                listener(f"{protocol}-{stream}", stream, default=stream, protocol=protocol)
                for protocol in protocols
                for stream in ("offers", "receipts")
            ]
        },
    )


def suppress(relay: RelayProcess, recipient: str, origin: str = "erasure") -> None:
    relay.must("suppress", "add", recipient, "--origin", origin, "--scope", "all")


def withdraw(relay: RelayProcess, recipient: str) -> None:
    relay.must("consent", "withdraw", recipient, "--purpose", "offers")


def subscriber(relay: RelayProcess) -> str:
    """A new person who has consented and whom no other test suppresses."""
    name = f"subscriber{next(_firms)}@people.example"
    (known,) = [line for line in ndjson(datetime.now(UTC)) if f'"{address("consent")}"' in line]
    relay.fill([known.replace(address("consent"), name)])
    return name


def mailed(mta: FakeUpstream, recipient: str) -> bool:
    return any(recipient in each.recipients for each in mta.messages)


def content(stream: str) -> bytes:
    return marketing() if stream == "offers" else message()


# after RCPT


@pytest.mark.parametrize("stream", ["offers", "receipts"])
@pytest.mark.parametrize("intake", INTAKES)
def test_people_suppressed_after_rcpt_are_not_mailed(
    relay: RelayProcess, mta: FakeUpstream, intake: str, stream: str
) -> None:
    recipient = firm()
    with submission(INTAKES[intake], relay.port(f"{intake}-{stream}"), recipient) as client:
        suppress(relay, recipient)
        code, text = client.end(content(stream))[0]
    assert not mailed(mta, recipient)
    assert (code, "suppressed_erasure" in text) == (550, True)


def test_people_who_withdraw_after_rcpt_are_not_mailed(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    recipient = subscriber(relay)
    with submission(Smtp, relay.port("smtp-offers"), recipient) as client:
        withdraw(relay, recipient)
        code, text = client.end(marketing())[0]
    assert not mailed(mta, recipient)
    assert (code, "consent_withdrawn" in text) == (550, True)


LONG = marketing(body=("x" * 70 + "\r\n") * 100_000)
"""More than fits between the relay and an upstream that does not read."""


@pytest.mark.parametrize("protocol", INTAKES)
def test_people_suppressed_while_the_upstream_reads_are_not_mailed(
    relay: RelayProcess, mta: FakeUpstream, protocol: str
) -> None:
    recipient = firm()
    mta.begin(At("content", Hold(), to=recipient))
    with submission(INTAKES[protocol], relay.port(f"{protocol}-offers"), recipient) as client:
        client.docmd("DATA")
        client.send(LONG + b".\r\n")
        mta.wait_held()
        suppress(relay, recipient, "complaint")
        mta.release()
        code, text = client.answers()[0]
    assert not mailed(mta, recipient)
    assert (code, "suppressed_complaint" in text) == (550, True)
    found = relay.must("audit", "export", "--recipient", recipient).splitlines()
    verdicts = {(one["relayed"], one["recipients"][0]["verdict"]) for one in map(json.loads, found)}
    assert verdicts == {(True, "allow"), (False, "refuse")}  # permitted first, and then not


def test_a_message_read_slowly_arrives_whole(relay: RelayProcess, mta: FakeUpstream) -> None:
    recipient = firm()
    mta.begin(At("content", Hold(), to=recipient))
    with submission(Smtp, relay.port("smtp-offers"), recipient) as client:
        client.docmd("DATA")
        client.send(LONG + b".\r\n")
        mta.wait_held()
        suppress(relay, firm())  # the store changes, without forbidding anything here
        mta.release()
        assert client.answers()[0][0] == 250
    assert mta.messages[0].data.endswith(LONG)


def test_lmtp_refuses_only_the_suppressed_recipient(relay: RelayProcess, mta: FakeUpstream) -> None:
    suppressed, other = firm(), firm()
    with submission(Lmtp, relay.port("lmtp-offers"), suppressed, other) as client:
        suppress(relay, suppressed)
        answers = client.end(marketing())
    assert [code for code, _ in answers] == [550, 250]
    assert mailed(mta, other)
    assert not mailed(mta, suppressed)


@pytest.mark.parametrize("stream", ["offers", "receipts"])
def test_a_milter_refuses_recipients_suppressed_after_rcpt(
    relay: RelayProcess, stream: str
) -> None:
    recipient = firm()
    with milter_client(relay.port(f"milter-{stream}")) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail("news@shop.example")
        assert peer.rcpt(recipient).final == "c"
        suppress(relay, recipient)
        outcome = peer.message(content(stream))
    assert outcome.final == "y"
    assert "suppressed_erasure" in outcome.reply


@pytest.mark.parametrize("state", ["DATA", "END-OF-MESSAGE"])
def test_a_policy_server_refuses_one_of_several_suppressed_after_rcpt(
    relay: RelayProcess, state: str
) -> None:
    """Postfix then gives only the number of recipients."""
    recipients = [firm(), firm()]
    with policy_client(relay.port("policy-offers")) as peer:
        for recipient in recipients:
            assert peer.rcpt(recipient) == "DUNNO"
        suppress(relay, recipients[0])
        action = peer.end(*recipients, state=state)
    assert action[:3] in ("450", "451", "550"), action


# after waiting


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer("slow.example MX 10 mx.slow.example.") as server:
        yield server


@contextmanager
def silence(dns: NameServer, name: str, kind: str) -> Iterator[Callable[[], None]]:
    """Keep the DNS silent about a name; call the result to wait until it has been asked."""
    dns.fail(name, "silence")
    yield lambda: wait_for(lambda: dns.count(name, kind) > 0, f"a question about {name}") and None
    dns.mend(name)


def test_people_suppressed_during_the_dns_lookup_of_their_domain_are_not_mailed(
    filled: StartFilled, dns: NameServer
) -> None:
    recipient = "contact@slow.example"
    with FakeUpstream() as mta:
        relay = filled(
            mta.address,
            {
                "listener": [listener("apps", "offers", default="offers")],
                "dns": {"nameservers": [dns.address], "timeout": "8s"},
                "policy": {"check_recipient_domain": True},
            },
        )
        with submission(Smtp, relay.port()) as client:
            with silence(dns, "slow.example", "MX") as wait:
                client.putcmd("RCPT", f"TO:<{recipient}>")
                wait()
                suppress(relay, recipient)
            code, answer = client.getreply()
            text = answer.decode()
            if code == 250:
                client.accepted = 1
                ((code, text),) = client.end(marketing())
        assert mta.messages == []
        assert (code, "suppressed_erasure" in text) == (550, True)


def test_people_suppressed_during_a_dkim_key_lookup_are_not_mailed(
    filled: StartFilled, dns: NameServer, tmp_path: Path
) -> None:
    recipient, key = firm(), KeyFile(tmp_path)
    dns.add(key.dns)
    with FakeUpstream() as mta:
        relay = filled(
            mta.address,
            {
                "listener": [listener("apps", "offers", default="offers")],
                "dns": {"nameservers": [dns.address], "timeout": "8s"},
            },
        )
        names = ["from", "subject", "list-unsubscribe", "list-unsubscribe-post"]
        with submission(Smtp, relay.port(), recipient) as client:
            client.docmd("DATA")
            with silence(dns, key.name, "TXT") as wait:
                client.send(signed(marketing(), key, names) + b".\r\n")
                wait()
                suppress(relay, recipient)
            ((code, text),) = client.answers()
        assert mta.messages == []
        assert (code, "suppressed_erasure" in text) == (550, True)


# deferrals


def test_a_snapshot_that_becomes_stale_after_rcpt_defers_the_mail(
    listen: Listen, upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [{**STREAMS[0], "max_snapshot_age": "24h"}, *STREAMS[1:]]
    partner = {"name": "other", "key_file": str(tmp_path / "other.key")}
    intake = listen(
        {"stream": streams, "partner": [partner]}, streams=["offers"], default_stream="offers"
    )
    ages = {"hours": 1}
    read = intake.store.read

    async def with_snapshot(lookups: Lookups) -> tuple[Facts, object]:
        found, _ = await read(lookups)
        taken = datetime.now(UTC) - timedelta(**ages)
        return {
            each: replace(found.get(each, NO_FACTS), snapshot_at=taken)
            for each in lookups.addresses
        }, ages["hours"]

    async def version() -> object:
        return ages["hours"]

    monkeypatch.setattr(intake.store, "read", with_snapshot)
    monkeypatch.setattr(intake.store, "version", version)
    with intake.client() as client:
        client.greet()
        client.begin(firm())
        ages["hours"] = 25
        reply = client.say(marketing(), b".\r\n")
    assert upstream.messages == []
    assert reply.startswith("450 4.7.0 ")
    assert "list_stale" in reply


# a copy for each recipient


@pytest.fixture(scope="module")
def adds(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    """A relay that adds the unsubscribe fields, over SMTP and LMTP."""
    listeners = [
        listener(intake, "offers", default="offers", protocol=intake) for intake in INTAKES
    ]
    return filled(mta.address, adding() | {"listener": listeners})


@pytest.mark.parametrize("intake", INTAKES)
def test_a_copy_being_read_is_not_delivered_to_people_suppressed_meanwhile(
    adds: RelayProcess, mta: FakeUpstream, intake: str
) -> None:
    first, second = firm(), firm()
    bare = marketing(unsubscribe=None, one_click=None, body=LONG.decode())
    mta.begin(At("content", Hold(), to=first))
    with submission(INTAKES[intake], adds.port(intake), first, second) as client:
        client.docmd("DATA")
        client.send(bare + b".\r\n")
        mta.wait_held()
        suppress(adds, first)
        mta.release()
        client.answers()
    assert (mailed(mta, first), mailed(mta, second)) == (False, True)


@pytest.mark.parametrize("intake", INTAKES)
@pytest.mark.parametrize("change", [suppress, withdraw], ids=["suppressed", "withdrawn"])
def test_later_copies_are_not_sent_to_people_who_refused_meanwhile(
    adds: RelayProcess,
    mta: FakeUpstream,
    intake: str,
    change: Callable[[RelayProcess, str], None],
) -> None:
    first, later = firm(), subscriber(adds)
    bare = marketing(unsubscribe=None, one_click=None)
    mta.begin(At("end", Hold(), to=first))
    with submission(INTAKES[intake], adds.port(intake), first, later) as client:
        client.docmd("DATA")
        client.send(bare + b".\r\n")
        mta.wait_held()
        change(adds, later)
        mta.release()
        codes = [code for code, _ in client.answers()]
    assert not mailed(mta, later)
    assert codes == ([250] if intake == "smtp" else [250, 550])
    told = [each for each in mta.messages if each.sender == ""]
    assert len(told) == (1 if intake == "smtp" else 0), "the sender must hear who was not mailed"
