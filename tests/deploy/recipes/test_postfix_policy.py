"""Postfix asks by policy delegation, configured as in docs/deploy/postfix-policy.md."""

import grp
import os
import smtplib
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.recipes.clients import ORDERS, delivered, send, session
from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks, parameters
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.store import address

pytestmark = needs("postfix")

PAGE = "deploy/postfix-policy.md"


@pytest.fixture(scope="module")
def pair(filled: Callable[..., RelayProcess]) -> Iterator[tuple[RelayProcess, PostfixInstance]]:
    """smtpproxy and Postfix as on the page; Postfix delivers everybody's mail."""
    policy = f"{LOOPBACK}:{free_port()}"
    toml, main, *_ = blocks(PAGE, {"127.0.0.1:8892": policy})
    with PostfixInstance(main=parameters(main) | {"smtputf8_enable": "yes"}) as postfix:
        config = tomllib.loads(toml.replace('"127.0.0.1:25"', f'"{postfix.address}"'))
        yield filled(postfix.address, config | {"web": {}}), postfix


@pytest.fixture
def relay(pair: tuple[RelayProcess, PostfixInstance]) -> RelayProcess:
    return pair[0]


@pytest.fixture
def postfix(pair: tuple[RelayProcess, PostfixInstance]) -> PostfixInstance:
    return pair[1]


@pytest.fixture
def client(postfix: PostfixInstance) -> Iterator[smtplib.SMTP]:
    with session(postfix.port) as client:
        yield client


def test_recipients_are_refused_at_rcpt_and_the_others_get_mail(
    relay: RelayProcess, postfix: PostfixInstance, client: smtplib.SMTP
) -> None:
    mail = marketing(message_id="<some@shop.example>")
    client.mail("news@shop.example")
    assert client.rcpt(address("consent"))[0] == 250
    code, text = client.rcpt(address("withdrawn"))
    record = records(relay)[-1].decided
    assert (code, text.decode()) == (
        550,
        "5.7.1 <withdrawn@people.example>: Recipient address rejected: "
        "<withdrawn@people.example> refused: consent_withdrawn"
        f" (stream offers) id={record.id}",
    )
    assert client.rcpt(address("desk"))[0] == 250
    assert client.data(mail)[0] == 250
    got = delivered(postfix, "<some@shop.example>", 2)
    assert {each.recipient for each in got} == {address("consent"), address("desk")}
    assert (record.client.peer, record.client.helo) == (LOOPBACK, "client.example")
    verdicts = [r.decided.recipients[0].verdict.action.value for r in records(relay)[-3:]]
    assert verdicts == ["allow", "refuse", "allow"]
    assert relay.metric("smtpproxy_allowed_total", basis="consent") >= 1
    assert relay.metric("smtpproxy_recipients_total", verdict="refuse") >= 1
    assert relay.metric("smtpproxy_relayed_total", listener="postfix", code_class="2xx") >= 1


def test_the_sender_determines_the_stream(client: smtplib.SMTP, postfix: PostfixInstance) -> None:
    receipt = message(message_id="<receipt@shop.example>")
    assert send(client, receipt, "stranger@people.example", sender=ORDERS)[0] == 250
    assert send(client, receipt, "stranger@people.example")[0] == 550
    delivered(postfix, "<receipt@shop.example>")


def test_a_null_reverse_path_has_no_sender_rule(client: smtplib.SMTP) -> None:
    """The stream is then uncertain, so only what every stream refuses is refused."""
    assert send(client, marketing(), address("withdrawn"), sender="")[0] == 250
    assert send(client, marketing(), address("complained"), sender="")[0] == 550


@pytest.mark.parametrize("path", ['"odd local"@people.example', '"a\\"b"@people.example'])
def test_quoted_addresses_are_understood(
    relay: RelayProcess, client: smtplib.SMTP, path: str
) -> None:
    client.mail("news@shop.example")
    code, text = client.docmd(f"RCPT TO:<{path}>")
    assert (code, b"refused: no_record" in text) == (550, True)
    assert records(relay)[-1].decided.recipients[0].address == path


def test_a_non_ascii_address_is_understood(relay: RelayProcess, client: smtplib.SMTP) -> None:
    client.mail("news@shop.example", ["SMTPUTF8"])
    client.send("RCPT TO:<jos\u00e9@people.example>\r\n".encode())
    code, text = client.getreply()
    assert (code, b"refused: no_record" in text) == (550, True)
    assert records(relay)[-1].decided.recipients[0].address == "jos\u00e9@people.example"


def test_several_messages_pass_on_one_connection(client: smtplib.SMTP) -> None:
    people = [address("consent"), address("desk")]
    for _ in range(3):
        assert send(client, marketing(), *people)[0] == 250
        assert send(client, marketing(), *people, address("withdrawn"))[0] == 550


def test_an_internal_failure_gives_451(relay: RelayProcess, client: smtplib.SMTP) -> None:
    database = Path(relay.config["store"]["url"].removeprefix("sqlite://"))
    away = database.rename(database.with_suffix(".away"))
    try:
        code, text = send(client, marketing(), address("consent"))
        assert (code, text.endswith("temporary_failure")) == (451, True)
        assert text.startswith("4.3.0 ")
    finally:
        away.rename(database)
    assert send(client, marketing(), address("consent"))[0] == 250


def test_a_recipient_who_slips_through_is_stopped_at_the_end(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    """The pitfall: an earlier restriction that permits."""
    main = postfix.config / "main.cf"
    text = main.read_text()
    main.write_text(text.replace("= reject_unauth_destination,", "= permit_mynetworks,", 1))
    try:
        postfix.restart()
        with session(postfix.port) as client:
            code, said = send(client, marketing(), address("withdrawn"))
            assert (code, "consent_withdrawn" in said) == (550, True)
            code, said = send(client, marketing(), address("consent"), address("withdrawn"))
            assert (code, said[:5]) == (451, "4.3.0")
    finally:
        main.write_text(text)
        postfix.restart()
    assert "is check_policy_service in smtpd_recipient_restrictions" in relay.output


def test_policy_delegation_works_over_a_unix_socket(filled: Callable[..., RelayProcess]) -> None:
    with PostfixInstance() as postfix:
        queue = postfix.root / "queue"
        folder = queue / "smtpproxy"
        _, _, install, address_line, smtpd = blocks(PAGE, {"/var/spool/postfix": str(queue)})
        assert install.split()[-1] == str(folder)
        folder.mkdir()
        os.chown(folder, -1, grp.getgrnam("postfix").gr_gid)
        folder.chmod(0o2750)
        listener = {"name": "postfix", "protocol": "policy", "streams": ["offers"]}
        listener |= tomllib.loads(address_line)
        relay = filled(postfix.address, {"listener": [listener | {"default_stream": "offers"}]})
        with (postfix.config / "main.cf").open("a") as main:
            main.write(smtpd)
        postfix.restart()
        with session(postfix.port) as client:
            assert send(client, marketing(), address("consent"))[0] == 250
            code, text = send(client, marketing(), address("withdrawn"))
            assert (code, text[:5]) == (550, "5.7.1")
        relay.kill()


def test_nothing_passes_without_smtpproxy(relay: RelayProcess, postfix: PostfixInstance) -> None:
    """Keep this test last, as the relay it starts ends with it."""
    assert relay.terminate() == 0
    with session(postfix.port) as client:
        code, text = send(client, marketing(), address("consent"))
        assert (code, text[:5]) == (451, "4.3.5")
    relay.start()
    with session(postfix.port) as client:
        assert send(client, marketing(), address("consent"))[0] == 250
