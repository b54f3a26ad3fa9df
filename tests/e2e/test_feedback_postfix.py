"""Bounces by Postfix itself for dead, full and blocked mailboxes: through return paths to the
feedback mailbox and on to the app, as in docs/deploy/feedback.md."""

import re
import tomllib
from collections.abc import Callable, Iterator

import pytest

from tests.kit.messages import marketing
from tests.kit.pages import blocks, parameters
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postfix import Delivered, PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Hold, Reply

pytestmark = needs("postfix")

SHOP, APP = "shop.example", "news@shop.example"
DEAD, FULL, BLOCKED = address("consent"), address("customer"), address("desk")
LATE = address("contact")  # a role: no record needed
FAILING = {
    DEAD: "550 5.1.1 no such user here",
    FULL: "552 5.2.2 mailbox full",
    BLOCKED: "550 5.7.1 blocked by our policy",
}
StartFilled = Callable[..., RelayProcess]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeUpstream]:
    """The server that has the recipients' mailboxes, or lacks them."""
    with FakeUpstream(*(At("rcpt", Reply(text), to=who) for who, text in FAILING.items())) as mx:
        yield mx


@pytest.fixture(scope="module")
def pair(
    provider: FakeUpstream, filled: StartFilled
) -> Iterator[tuple[RelayProcess, PostfixInstance]]:
    """Postfix sends to the provider, and delivers bounces to the feedback mailbox by LMTP."""
    toml, main = blocks(
        "deploy/feedback.md", {"127.0.0.1:2526": f"{LOOPBACK}:{free_port()}", "example.com": SHOP}
    )
    lines = parameters(main)
    lines["transport_maps"] += (
        f" inline:{{ {{ people.example = smtp:[{LOOPBACK}]:{provider.port} }} }}"
    )
    config = tomllib.loads(toml)
    config["web"] = {"address": f"{LOOPBACK}:{free_port()}"}
    config["listener"][0]["address"] = f"{LOOPBACK}:{free_port()}"
    config["stream"][0] |= {"products": ["shoes"]}
    with PostfixInstance(main=lines) as postfix:
        config["upstream"]["address"] = postfix.address
        yield filled(postfix.address, config), postfix


@pytest.fixture
def relay(pair: tuple[RelayProcess, PostfixInstance]) -> RelayProcess:
    return pair[0]


@pytest.fixture
def mta(pair: tuple[RelayProcess, PostfixInstance]) -> PostfixInstance:
    return pair[1]


def bounces(mta: PostfixInstance, about: str) -> list[Delivered]:
    """The bounces about this person that reached the app."""
    wanted = f"Final-Recipient: rfc822; {about}".encode()
    return [each for each in mta.delivered() if each.recipient == APP and wanted in each.message]


def deferred(mta: PostfixInstance) -> list[str]:
    """The senders of deferred mail that is not being tried: a flush skips what is.

    What Postfix finds during an attempt waits a minute in `incoming`.
    """
    waiting = [each for each in mta.queued() if each["queue_name"] != "active"]
    return [each["sender"] for each in waiting if "delay_reason" in each["recipients"][0]]


def heard(relay: RelayProcess, kind: str) -> float:
    return relay.metric("smtpproxy_feedback_total", kind=kind, stream="offers")


def test_a_dead_mailbox_is_refused_at_the_next_rcpt(
    relay: RelayProcess, mta: PostfixInstance
) -> None:
    code, text = relay.send(marketing(), DEAD, sender=APP)
    assert code == 250, text
    wait_for(lambda: bounces(mta, DEAD), "the bounce to come back to the app")
    code, text = relay.send(marketing(), DEAD, sender=APP)
    assert code == 550
    assert re.match(rf"5\.7\.1 <{re.escape(DEAD)}> refused: suppressed_bounce", text)
    assert heard(relay, "dead") == 1
    (bounce,) = bounces(mta, DEAD)
    assert bounce.return_path == "", "it must not be answered"
    assert b"Status: 5.1.1" in bounce.message
    assert bounce.message.startswith(b"Received: from feedback (unix)\r\n\tby relay.shop.example")


@pytest.mark.parametrize(("who", "kind"), [(FULL, "full"), (BLOCKED, "blocked")])
def test_people_with_a_full_mailbox_or_behind_a_policy_may_be_mailed_again(
    relay: RelayProcess, mta: PostfixInstance, who: str, kind: str
) -> None:
    assert relay.send(marketing(), who, sender=APP)[0] == 250
    wait_for(lambda: bounces(mta, who), "the bounce to come back to the app")
    assert heard(relay, kind) == 1
    assert relay.send(marketing(), who, sender=APP)[0] == 250


def test_the_bounce_is_recorded_as_a_notice(relay: RelayProcess) -> None:
    wait_for(lambda: "handed on" in relay.output, "a bounce to be handed on")
    told = relay.must("audit", "show", "--recipient", APP)
    assert "notices" in told


def test_bounces_wait_at_the_mta_while_the_relay_is_down(
    relay: RelayProcess, mta: PostfixInstance, provider: FakeUpstream
) -> None:
    mta.wait_empty()
    provider.begin(At("rcpt", Hold(), Reply("550 5.7.1 blocked by our policy"), to=LATE))
    assert relay.send(marketing(), LATE, sender=APP)[0] == 250
    relay.kill()
    provider.release()
    try:
        wait_for(lambda: deferred(mta) == ["MAILER-DAEMON"], "the bounce to be deferred")
        relay.start()
        mta.wait_empty()
        wait_for(lambda: bounces(mta, LATE), "the bounce to come to the app")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{mta.queued()}\n{relay.output}\n{mta.log}") from None
    mta.wait_empty()
    assert len(bounces(mta, LATE)) == 1
