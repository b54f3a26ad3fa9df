"""How to mail somebody who refused: write the address so that the MTA reads it differently.

In the attacker's words. Each trick is tried at every intake, and where an MTA holds the mail,
at a real Postfix and a real Sendmail: it is not enough that the record says refused.
"""

import contextlib
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from smtpproxy.mail.address import AddressError, recipient
from smtpproxy.mail.mailboxes import entered
from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.messages import marketing, message
from tests.kit.mta import encode, mta, strings
from tests.kit.pages import blocks, parameters
from tests.kit.parts import needs
from tests.kit.policy import policy_client
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.sendmail import SendmailInstance
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

SENDER = "news@shop.example"
NO = address("withdrawn")  # on the stream offers
NEVER = address("complained")  # on every stream
OK = address("consent")
OFFERS = {"streams": ["offers"], "default_stream": "offers"}
RECEIPTS = {"streams": ["receipts"], "default_stream": "receipts"}
SPLIT = {"policy": {"on_mixed": "split"}}
ROUTE = "553 5.1.3 source routes are not accepted; write <local-part@domain>"
NO_ORIGIN = (
    "553 5.1.3 address has no domain, and this listener has no origin; write <local-part@domain>"
)

ROUTED = [
    "<@r.test:{}>",
    "@r.test:{}",
    "<@r.test,@s.test:{}>",
    "@r.test,@s.test,@t.test:{}",
    "<@[192.0.2.1]:{}>",
]


def said_by_policy(path: str) -> str:
    """A path as Postfix passes it to a policy server: no brackets, no quotes."""
    bare = path.removeprefix("<").removesuffix(">")
    local, at, domain = bare.rpartition("@")
    if local.startswith('"'):
        local = local[1:-1].replace("\\@", "@").replace('\\"', '"')
    return local + at + domain


def at_rcpt(listen: Listen, protocol: str, path: str, **listener: Any) -> str:
    """The reply to RCPT of a new listener; "250" for "go on"."""
    return told_by(listen(protocol=protocol, **listener), path)


def told_by(intake: Intake, path: str) -> str:
    """The reply to RCPT in a new session; "250" for "go on"."""
    protocol = intake.settings.listeners[0].protocol
    if protocol == "milter":
        with mta(intake.port) as peer:
            peer.negotiate()
            peer.connect()
            peer.mail(SENDER)
            peer.send(encode("R", strings(path)))
            outcome = peer.outcome()
            return "250" if outcome.final == "c" else outcome.reply
    if protocol == "policy":
        with policy_client(intake.port) as asking:
            action = asking.rcpt(said_by_policy(path))
            return "250" if action == "DUNNO" else action
    with intake.client() as client:
        client.reply()
        client.say("LHLO a.example" if protocol == "lmtp" else "EHLO a.example")
        assert client.say(f"MAIL FROM:<{SENDER}>").startswith("250 ")
        return client.say(f"RCPT TO:{path}")


INTAKES = pytest.mark.parametrize("protocol", ["smtp", "lmtp", "milter", "policy"])

# "I name a host on the way, and you judge another address than the MTA mails."


@INTAKES
def test_a_source_route_is_refused_everywhere(listen: Listen, protocol: str) -> None:
    intake = listen(protocol=protocol, **OFFERS)
    for form in ROUTED:
        assert told_by(intake, form.format(OK)) == ROUTE, form


@INTAKES
def test_a_quoted_source_route_is_refused_too(listen: Listen, protocol: str) -> None:
    """Postfix strips the route even in quotes, so a receipt would reach somebody who complained."""
    intake = listen(protocol=protocol, **RECEIPTS)
    for local in ("@r.test:{}", r"\@r.test:{}", "@:{}", "@r.test,@s.test:{}"):
        path = f'<"{local.format("complained")}"@people.example>'
        assert told_by(intake, path) == ROUTE, local


@pytest.mark.parametrize("protocol", ["smtp", "milter", "policy"])
def test_a_routed_sender_cannot_evade_the_sender_rules(listen: Listen, protocol: str) -> None:
    path = f"@r.test:{SENDER}"
    intake = listen(protocol=protocol, **OFFERS)
    if protocol == "milter":
        with mta(intake.port) as peer:
            peer.negotiate()
            peer.connect()
            peer.mail(path)
            reply = peer.rcpt(OK).reply
    elif protocol == "policy":
        with policy_client(intake.port) as asking:
            asking.mail(path)
            reply = asking.rcpt(OK)
    else:
        with intake.client() as client:
            client.greet()
            reply = client.say(f"MAIL FROM:<{path}>")
    assert reply == ROUTE.replace("5.1.3", "5.1.7")


@pytest.mark.parametrize("protocol", ["smtp", "milter", "policy"])
def test_the_null_reverse_path_is_accepted(listen: Listen, protocol: str) -> None:
    intake = listen(protocol=protocol, **RECEIPTS)
    if protocol == "policy":
        with policy_client(intake.port) as asking:
            asking.mail("")
            assert asking.rcpt(OK) == "DUNNO"
    elif protocol == "milter":
        with mta(intake.port) as peer:
            peer.negotiate()
            peer.connect()
            peer.mail("")
            assert peer.rcpt(OK).final == "c"
    else:
        with intake.client() as client:
            client.greet()
            assert client.say("MAIL FROM: <>").startswith("250 ")
            assert client.say(f"RCPT TO:<{OK}>").startswith("250 ")


# "I omit the domain, and you judge another one than the MTA adds."


@pytest.mark.parametrize("protocol", ["milter", "policy"])
def test_without_a_domain_the_origin_completes_the_address(listen: Listen, protocol: str) -> None:
    assert at_rcpt(listen, protocol, "<consent>", **OFFERS) == NO_ORIGIN
    known = {**OFFERS, "origin": "people.example"}
    assert at_rcpt(listen, protocol, "<consent>", **known) == "250"
    reply = at_rcpt(listen, protocol, "<Withdrawn>", **known)
    assert reply.startswith("550 5.7.1 <Withdrawn@people.example> refused: consent_withdrawn ")


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_the_relay_refuses_addresses_without_a_domain(listen: Listen, protocol: str) -> None:
    reply = "501 5.1.3 address has no domain; write <local-part@domain>"
    assert at_rcpt(listen, protocol, "<consent>", **OFFERS) == reply
    assert at_rcpt(listen, protocol, "consent", **OFFERS) == reply


@INTAKES
def test_postmaster_is_accepted(listen: Listen, protocol: str) -> None:
    intake = listen(protocol=protocol, **RECEIPTS)
    for path in ("<postmaster>", "postmaster", "<PostMaster>"):
        assert told_by(intake, path).startswith("250"), path


def test_postmaster_is_relayed_unchanged(listen: Listen, upstream: FakeUpstream) -> None:
    intake = listen(**RECEIPTS)
    with intake.client() as client:
        client.greet()
        for line in ("MAIL FROM:<orders@shop.example>", "RCPT TO:<postmaster>", "DATA"):
            assert client.say(line)[0] in "23"
        assert client.say(message() + b".\r\n").startswith("250 ")
    assert upstream.messages[-1].recipients == ("postmaster",)


def test_a_recipient_without_a_domain_is_never_removed_alone(
    listen: Listen, upstream: FakeUpstream
) -> None:
    """Only the MTA knows the name by which it would find the recipient."""
    intake = listen(SPLIT, protocol="milter", origin="people.example")
    with mta(intake.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail(SENDER)
        assert peer.rcpt(OK).final == "c"
        assert peer.rcpt("withdrawn").final == "c"
        outcome = peer.message(marketing())
    assert (outcome.final, outcome.edits) == ("y", [])
    assert "<withdrawn@people.example> refused: consent_withdrawn" in outcome.reply
    assert upstream.messages == []


def test_local_mail_with_an_unreadable_recipient_is_refused_as_a_whole(
    listen: Listen,
) -> None:
    intake = listen(SPLIT, protocol="milter")
    for path, reply in ((f"@r.test:{NO}", ROUTE), ("withdrawn", NO_ORIGIN)):
        with mta(intake.port) as peer:
            peer.negotiate()
            peer.connect()
            peer.mail(SENDER, i="4QID")
            assert peer.rcpt(OK).final == "c"
            assert peer.rcpt(path).final == "c"
            outcome = peer.message(marketing())
            assert (outcome.reply, outcome.edits) == (reply, [])
    assert intake.records.decided == []


# "I write the address of a real person as my MTA would, and you send me away."

SPELLINGS = {
    f"<{OK}>": OK,
    OK: OK,
    f" {OK}": OK,
    f"   <{OK}>": OK,
    "<try..this@people.example>": "try..this@people.example",
    "this.@people.example": "this.@people.example",
    "<.this@people.example>": ".this@people.example",
    '"two words"@people.example': '"two words"@people.example',
}


@INTAKES
def test_addresses_that_postfix_accepts_are_accepted_everywhere(
    listen: Listen, protocol: str
) -> None:
    intake = listen(protocol=protocol, **RECEIPTS)
    for path in SPELLINGS:
        told = path.strip(" ") if protocol in ("milter", "policy") else path
        assert told_by(intake, told).startswith("250"), path


def test_and_are_relayed_in_brackets(listen: Listen, upstream: FakeUpstream) -> None:
    intake = listen(**RECEIPTS)
    for path, bare in SPELLINGS.items():
        with intake.client() as client:
            client.greet()
            for line in (f"MAIL FROM:  {SENDER} SIZE=1000", f"RCPT TO:{path} NOTIFY=NEVER", "DATA"):
                assert client.say(line)[0] in "23", path
            assert client.say(message() + b".\r\n").startswith("250 "), path
        assert upstream.messages[-1].recipients == (bare,)
        assert upstream.messages[-1].sender == SENDER
    assert len(upstream.messages) == len(SPELLINGS)


@INTAKES
def test_no_spelling_hides_somebody_who_refused(listen: Listen, protocol: str) -> None:
    intake = listen(protocol=protocol, **RECEIPTS)
    for path in (
        NEVER,
        f"<{NEVER}>",
        "<COMPLAINED@people.example.>",
        '<"complained"@people.example>',
    ):
        assert "refused: suppressed_complaint" in told_by(intake, path)


@INTAKES
def test_commands_reject_addresses_that_the_intakes_refuse(listen: Listen, protocol: str) -> None:
    intake = listen(protocol=protocol, **RECEIPTS)
    for name in ("@r.test:a@b.test", '"@r.test:a"@b.test', f"{'l' * 65}@b.test", "a@b..test"):
        assert told_by(intake, f"<{name}>")[:3] in ("501", "553"), name
        with pytest.raises(AddressError):
            recipient(entered(name))


def test_a_path_of_a_megabyte_costs_nothing(listen: Listen) -> None:
    milter, policy = (listen(protocol=protocol, **RECEIPTS) for protocol in ("milter", "policy"))
    for path in ("a" * 60_000, "@a" + ",@a" * 20_000 + ":a@b", '"' + "\\a" * 30_000, "a." * 30_000):
        assert told_by(milter, f"<{path}@b.test>").startswith("553 5.1.3 ")
        assert told_by(policy, path).startswith("553 5.1.3 ")


# "You remove me by a name that the MTA does not know." With real MTAs.

TRICKS = [
    *[form.format(NO) for form in ROUTED],
    NO,
    f"  <{NO}>",
    f"<{NO}.>",
    "<WITHDRAWN@PEOPLE.EXAMPLE>",
    '<"withdrawn"@people.example>',
    r'<"with\drawn"@people.example>',
    "<withdrawn>",
    "<withdrawn(no)@people.example>",
    "<withdrawn @ people.example>",
    "<list@people.example>",
    "<canon@people.example>",
    '<"odd  local"@people.example>',
    '<"@r.test:withdrawn"@people.example>',
    "<try..this@people.example>",
    "<this.@people.example>",
    f"<{NO}> NOTIFY=FAILURE ORCPT=rfc822;{OK}",
    f"@r.test,{NO}",  # Sendmail delivers to recipients refused like that
    f"<{OK}>,<{NO}>",  # and forgets those that are not
    f"{NO},",
]
MAPS = {
    "virtual_alias_maps": f"inline:{{ {{list@people.example = {NO}, other@people.example}} }}",
    "virtual_alias_domains": "",
    "recipient_canonical_maps": "inline:{ {canon@people.example = other@people.example} }",
    "myorigin": "people.example",
    "smtpd_error_sleep_time": "0",
}
KNOWN = {OK, SENDER}


def hand_over(port: int, mail: bytes, paths: Sequence[str]) -> str:
    """Send as an app does, whatever is refused; return the last reply."""
    with socket.create_connection((LOOPBACK, port), timeout=60) as connection:
        stream = connection.makefile("rwb")

        def say(line: str) -> str:
            stream.write(line.encode() + b"\r\n")
            stream.flush()
            while (reply := stream.readline())[3:4] == b"-":
                pass
            return reply.decode()

        stream.readline()
        say("EHLO client.example")
        say(f"MAIL FROM:<{SENDER}>")
        for path in paths:
            say(f"RCPT TO:{path}")
        if not (reply := say("DATA")).startswith("354"):
            return reply
        return say(mail.decode() + ".")


def attack(port: int) -> Mapping[str, str]:
    """Every trick, alone beside somebody who may be mailed, and after and before the plain form.

    Returns the last reply to each message.
    """
    sent = {}
    for number, trick in enumerate(TRICKS):
        for order, paths in enumerate(([f"<{OK}>", trick], [f"<{NO}>", f"<{OK}>", trick],
                                       [trick, f"<{OK}>", f"<{NO}>"])):  # fmt: skip
            about = f"<t{number}.{order}@shop.example>"
            sent[about] = hand_over(port, marketing(message_id=about), paths)
    hand_over(port, marketing(message_id="<last@shop.example>"), [f"<{OK}>"])
    return sent


@contextlib.contextmanager
def asked_by_postfix(
    filled: Callable[..., RelayProcess], origin: str | None
) -> Iterator[PostfixInstance]:
    milter, notices = (f"{LOOPBACK}:{free_port()}" for _ in range(2))
    replaced = {"127.0.0.1:8891": milter, "127.0.0.1:10026": notices}
    toml, main, master, *_ = blocks("deploy/postfix-milter.md", replaced)
    config = tomllib.loads(toml)
    if origin:
        config["listener"][0]["origin"] = origin
    else:
        config["listener"][0].pop("origin", None)
    main_cf = parameters(main) | MAPS | {"non_smtpd_milters": f"inet:{milter}"}
    with PostfixInstance(main=main_cf, services=master) as postfix:
        filled(notices, config)
        yield postfix


@needs("postfix")
@pytest.mark.parametrize("origin", [None, "people.example"])
def test_recipients_removed_from_postfix_get_nothing(
    filled: Callable[..., RelayProcess], origin: str | None
) -> None:
    with asked_by_postfix(filled, origin) as postfix:
        sent = attack(postfix.port)
        wait_for(lambda: any(b"<last@" in m.message for m in postfix.delivered()), "the last")
        postfix.wait_empty()
        got = {(m.recipient, about) for m in postfix.delivered() for about in sent
               if about.encode() in m.message}  # fmt: skip
        assert {pair for pair in got if pair[0] not in KNOWN} == set()
        taken = {(OK, about) for about, reply in sent.items() if reply.startswith("250")}
        assert len(taken) > 10
        assert taken <= got  # the others do get it


@needs("postfix")
def test_mail_of_local_programs_is_refused_as_a_whole(filled: Callable[..., RelayProcess]) -> None:
    """Postfix reports complained@people.example, but would look for what the program wrote."""
    with asked_by_postfix(filled, None) as postfix:
        receipt = {"stream": "receipts"}
        for name, *people in (
            ("plain", "complained", "consent"),
            ("route", f"@r.test:{NEVER}", OK),
            ("full", NEVER, "consent"),
            ("good", "consent"),
        ):
            mail = message(message_id=f"<{name}@shop.example>", **receipt)
            postfix.submit(mail, "root", people)
        wait_for(lambda: len(postfix.delivered()) >= 4, "three bounces and the good one")
        postfix.wait_empty()
        got = [(m.recipient, m.return_path) for m in postfix.delivered()]
        root = "root@people.example"
        assert sorted(got) == [(OK, root), *[(root, "")] * 3]


@needs("sendmail")
def test_recipients_removed_from_sendmail_get_nothing(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> None:
    port, milter, notices = free_port(), free_port(), free_port()
    toml, mc = blocks(
        "deploy/sendmail-milter.md",
        {
            "127.0.0.1:8891": f"{LOOPBACK}:{milter}",
            "inet:8891@": f"inet:{milter}@",
            "10026": str(notices),
            "Port=smtp,": f"Port={port}, Addr={LOOPBACK},",
        },
    )
    config = tomllib.loads(toml)
    with SendmailInstance(mta.address, mc, port, [f"withdrawn: {NO}"]) as sendmail:
        filled(config["upstream"]["address"], config)
        sent = attack(sendmail.port)
        wait_for(lambda: any(b"<last@" in m.data for m in mta.messages), "the last")
        got = {(recipient, about) for m in mta.messages for recipient in m.recipients
               for about in sent if about.encode() in m.data}  # fmt: skip
        assert {pair for pair in got if pair[0] not in KNOWN} == set()
        taken = {(OK, about) for about, reply in sent.items() if reply.startswith("250")}
        assert len(taken) > 10
        assert taken <= got


@needs("postfix")
def test_no_route_leads_past_the_policy_server(filled: Callable[..., RelayProcess]) -> None:
    policy = f"{LOOPBACK}:{free_port()}"
    toml, main, *_ = blocks("deploy/postfix-policy.md", {"127.0.0.1:8892": policy})
    with PostfixInstance(main=parameters(main) | MAPS) as postfix:
        config = tomllib.loads(toml.replace('"127.0.0.1:25"', f'"{postfix.address}"'))
        config["listener"][0] |= {"streams": ["receipts"], "default_stream": "receipts"}
        config["listener"][0].pop("origin", None)
        del config["sender"]
        filled(postfix.address, config)
        mail = message(message_id="<policy@shop.example>")
        for path in (
            *[form.format(NEVER) for form in ROUTED],
            '<"@r.test:complained"@people.example>',
            "<complained>",
        ):
            assert hand_over(postfix.port, mail, [path])[:3] in ("554", "503"), path
        assert hand_over(postfix.port, mail, [f" {OK}"]).startswith("250")
        (got,) = postfix.delivered(1)
        assert got.recipient == OK
