"""Postfix uses smtpproxy as a milter, configured as in docs/deploy/postfix-milter.md."""

import grp
import os
import smtplib
import socket
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.audit import outcome, records
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks, parameters
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postfix import Delivered, PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.store import address

pytestmark = needs("postfix")

PAGE = "deploy/postfix-milter.md"
SENDER = "news@shop.example"


def lines(milter: str, without_milter: str) -> list[str]:
    return blocks(PAGE, {"127.0.0.1:8891": milter, "127.0.0.1:10026": without_milter})


@pytest.fixture(scope="module")
def pair(
    filled: Callable[..., RelayProcess],
) -> Iterator[tuple[RelayProcess, PostfixInstance]]:
    """smtpproxy and Postfix as on the page; Postfix delivers everybody's mail."""
    milter, notices = (f"{LOOPBACK}:{free_port()}" for _ in range(2))
    toml, main, master, *_ = lines(milter, notices)
    config = tomllib.loads(toml)
    with PostfixInstance(
        main=parameters(main)
        | {"non_smtpd_milters": f"inet:{milter}", "smtputf8_enable": "yes", "soft_bounce": "no"},
        services=master,
    ) as postfix:
        yield filled(notices, config | {"web": {}}), postfix


@pytest.fixture
def relay(pair: tuple[RelayProcess, PostfixInstance]) -> RelayProcess:
    return pair[0]


@pytest.fixture
def postfix(pair: tuple[RelayProcess, PostfixInstance]) -> PostfixInstance:
    return pair[1]


def session(postfix: PostfixInstance) -> smtplib.SMTP:
    client = smtplib.SMTP(LOOPBACK, postfix.port, timeout=60)
    client.ehlo("client.example")
    return client


def send(
    client: smtplib.SMTP, mail: bytes, *recipients: str, sender: str = SENDER, options: Any = ()
) -> tuple[int, str]:
    """Send a message; return the reply that decided."""
    code, text = client.mail(sender, options)
    for recipient in recipients:
        if code < 400:
            code, text = client.rcpt(recipient)
    if code < 400:
        code, text = client.data(mail)
    else:
        client.rset()
    return code, text.decode()


def delivered(postfix: PostfixInstance, about: str, count: int = 1) -> list[Delivered]:
    def found() -> list[Delivered] | None:
        mails = [mail for mail in postfix.delivered() if about.encode() in mail.message]
        return mails if len(mails) >= count else None

    return wait_for(found, f"{count} of {about}", every=0.1)


def test_a_permitted_message_is_delivered_unchanged(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    mail = marketing(message_id="<good@shop.example>", body="caf\xe9\r\n..dots\r\n")
    with session(postfix) as client:
        code, text = send(client, mail, address("consent"))
    assert code == 250
    (got,) = delivered(postfix, "<good@shop.example>")
    assert got.recipient == address("consent")
    assert got.message == mail
    record = records(relay)[-1]
    queue_id = text.rpartition(" ")[2]
    assert record.decided.client.queue_id == queue_id
    assert (record.decided.client.peer, record.decided.client.helo) == (LOOPBACK, "client.example")
    assert record.decided.size == len(mail)
    wait_for(lambda: outcome(records(relay)[-1]) == 250, "what the MTA was told")
    assert relay.metric("smtpproxy_relayed_total", listener="postfix", code_class="2xx") >= 1


def test_encoded_words_in_list_unsubscribe_are_decoded(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    encoded = "=?utf-8?q?=3Chttps=3A//u=2Eshop=2Eexample/AZm2=3E?=, <mailto:stop@shop.example>"
    mail = marketing(message_id="<words@shop.example>", unsubscribe=encoded)
    with session(postfix) as client:
        assert send(client, mail, address("consent"))[0] == 250
    (got,) = delivered(postfix, "<words@shop.example>")
    plain = "<https://u.shop.example/AZm2>,\r\n <mailto:stop@shop.example>"
    assert got.message == mail.replace(encoded.encode(), plain.encode())


def test_several_messages_on_one_connection_some_refused(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    with session(postfix) as client:
        receipt = message(stream="receipts", message_id="<receipt@shop.example>")
        assert send(client, receipt, "stranger@people.example")[0] == 250
        code, text = send(client, marketing(), address("withdrawn"))
        assert code == 550  # only the header could have made it a receipt
        assert text.startswith("5.7.1 <withdrawn@people.example> refused: consent_withdrawn")
        code, text = send(client, marketing(unsubscribe=None), address("consent"))
        assert (code, text.partition(" (")[0]) == (550, "5.7.0 refused: unsubscribe_missing")
        code, text = send(client, marketing(), address("complained"))
        assert (code, "suppressed_complaint" in text) == (550, True)
        again = marketing(message_id="<again@shop.example>")
        assert send(client, again, address("consent"))[0] == 250
    (got,) = delivered(postfix, "<receipt@shop.example>")
    assert b"x-mail-stream" not in got.message.lower()
    (got,) = delivered(postfix, "<again@shop.example>")
    assert got.message == again


def test_a_recipient_refused_at_rcpt_does_not_affect_the_others(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    """A complaint counts on every stream that the client may use."""
    mail = marketing(message_id="<rcpt@shop.example>")
    with session(postfix) as client:
        client.mail(SENDER)
        assert client.rcpt(address("consent"))[0] == 250
        code, text = client.rcpt(address("complained"))
        assert (code, text.split()[0]) == (550, b"5.7.1")
        assert b"refused: suppressed_complaint (stream offers) id=" in text
        assert client.data(mail)[0] == 250
    (got,) = delivered(postfix, "<rcpt@shop.example>")
    assert got.recipient == address("consent")


def test_split_removes_refused_recipients_and_notifies_the_sender(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    """Whatever the refused address looks like: Postfix must find it again."""
    refused = [address("withdrawn"), '"odd local"@people.example', "x+tag@People.Example"]
    mail = marketing(message_id="<split@shop.example>", subject="split")
    with session(postfix) as client:
        assert send(client, mail, *refused[:2], address("consent"), refused[2])[0] == 250
    got = delivered(postfix, "<split@shop.example>", 2)
    notice = next(mail for mail in got if mail.return_path == "")
    assert notice.recipient == SENDER
    words = b" ".join(notice.message.split())
    assert b"<withdrawn@people.example> refused: consent_withdrawn" in words
    assert b"x+tag@People.Example" in words
    postfix.wait_empty()
    got = [m for m in postfix.delivered() if b"<split@shop.example>" in m.message]
    assert sorted(m.recipient for m in got) == [address("consent"), SENDER]


def test_split_removes_a_non_ascii_recipient(relay: RelayProcess, postfix: PostfixInstance) -> None:
    mail = marketing(message_id="<utf8@shop.example>")
    with socket.create_connection((LOOPBACK, postfix.port)) as connection:
        stream = connection.makefile("rwb")

        def say(line: str) -> bytes:
            stream.write(line.encode() + b"\r\n")
            stream.flush()
            while (reply := stream.readline())[3:4] == b"-":
                pass
            return reply

        stream.readline()
        say("EHLO client.example")
        assert say(f"MAIL FROM:<{SENDER}> SMTPUTF8").startswith(b"250")
        assert say("RCPT TO:<jos\u00e9@people.example>").startswith(b"250")
        assert say("RCPT TO:<consent@people.example>").startswith(b"250")
        assert say("DATA").startswith(b"354")
        assert say(mail.decode() + ".").startswith(b"250")
    delivered(postfix, "<utf8@shop.example>", 2)
    postfix.wait_empty()
    got = [m for m in postfix.delivered() if b"<utf8@shop.example>" in m.message]
    assert sorted(m.recipient for m in got) == [address("consent"), SENDER]


def test_a_null_reverse_path_is_refused_for_all(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    with session(postfix) as client:
        code, text = send(client, marketing(), address("consent"), address("withdrawn"), sender="")
        assert code == 550
        assert "<withdrawn@people.example> refused: consent_withdrawn" in text


def test_bdat_is_supported(relay: RelayProcess, postfix: PostfixInstance) -> None:
    good = marketing(message_id="<bdat@shop.example>")
    bad = marketing(unsubscribe=None)
    with session(postfix) as client:
        assert "chunking" in client.esmtp_features
        for mail, code in ((bad, 550), (good, 250)):
            client.mail(SENDER)
            client.rcpt(address("consent"))
            half = len(mail) // 2
            client.send(f"BDAT {half}\r\n".encode() + mail[:half])
            assert client.getreply()[0] == 250
            client.send(f"BDAT {len(mail) - half} LAST\r\n".encode() + mail[half:])
            assert client.getreply()[0] == code
    (got,) = delivered(postfix, "<bdat@shop.example>")
    assert got.message == good


def test_large_messages_pass_unchanged(relay: RelayProcess, postfix: PostfixInstance) -> None:
    mail = marketing(message_id="<large@shop.example>", body=("x" * 78 + "\r\n") * 250_000)
    with session(postfix) as client:
        assert send(client, mail, address("consent"))[0] == 250
        code, text = send(client, mail + mail, address("consent"))
        assert (code, text[:5]) == (552, "5.3.4")
    (got,) = delivered(postfix, "<large@shop.example>")
    assert got.message == mail
    postfix.wait_empty()


def test_refused_mail_of_local_programs_bounces(
    relay: RelayProcess, postfix: PostfixInstance
) -> None:
    mail = marketing(message_id="<local@shop.example>")
    postfix.submit(mail, SENDER, [address("complained")])
    (bounce,) = delivered(postfix, "<local@shop.example>")
    assert (bounce.recipient, bounce.return_path) == (SENDER, "")
    assert b"suppressed_complaint" in bounce.message
    postfix.submit(
        message(stream="receipts", message_id="<cron@shop.example>"), SENDER, ["root@mx.example"]
    )
    (got,) = delivered(postfix, "<cron@shop.example>")
    assert b"x-mail-stream" not in got.message.lower()
    postfix.wait_empty()


def test_an_internal_failure_is_451(relay: RelayProcess, postfix: PostfixInstance) -> None:
    database = Path(relay.config["store"]["url"].removeprefix("sqlite://"))
    away = database.rename(database.with_suffix(".away"))
    with session(postfix) as client:
        code, text = send(client, marketing(), address("consent"))
        assert (code, text) == (451, "4.3.0 temporary_failure")
        away.rename(database)
        assert send(client, marketing(), address("consent"))[0] == 250


@pytest.mark.parametrize("version", ["2", "3", "4"])
def test_older_versions_of_the_protocol_work(
    filled: Callable[..., RelayProcess], version: str
) -> None:
    milter = free_port()
    main = {
        "smtpd_milters": f"inet:{LOOPBACK}:{milter}",
        "milter_protocol": version,
        "milter_default_action": "tempfail",
    }
    listener = {"name": "postfix", "protocol": "milter", "address": f"{LOOPBACK}:{milter}"}
    with PostfixInstance(main=main) as postfix:
        relay = filled(postfix.address, {"listener": [listener | {"streams": ["receipts"]}]})
        receipt = message(stream="receipts", headers=[("X-Fold", "a\r\n\tb")])
        with session(postfix) as client:
            assert send(client, receipt, "stranger@people.example")[0] == 250
            assert send(client, receipt, address("complained"))[0] == 550
            assert send(client, marketing(), address("consent"))[0] == 550
        (got,) = postfix.delivered(1)
        assert got.message == receipt.replace(b"X-Mail-Stream: receipts\r\n", b"")
        relay.kill()


def test_a_unix_socket_works(filled: Callable[..., RelayProcess]) -> None:
    with PostfixInstance() as postfix:
        queue = postfix.root / "queue"
        folder = queue / "smtpproxy"
        _, _, _, install, address_line, smtpd, *_ = blocks(PAGE, {"/var/spool/postfix": str(queue)})
        assert install.split()[-1] == str(folder)
        folder.mkdir()
        os.chown(folder, -1, grp.getgrnam("postfix").gr_gid)
        folder.chmod(0o2750)
        listener = {"name": "postfix", "protocol": "milter", "streams": ["offers"]}
        listener |= tomllib.loads(address_line)
        relay = filled(postfix.address, {"listener": [listener | {"default_stream": "offers"}]})
        mode = (folder / "milter").stat()
        assert (stat.S_IMODE(mode.st_mode), grp.getgrgid(mode.st_gid).gr_name) == (0o660, "postfix")
        with (postfix.config / "main.cf").open("a") as main:
            main.write(smtpd + "milter_default_action = tempfail\n")
        postfix.restart()
        with session(postfix) as client:
            assert send(client, marketing(), address("consent"))[0] == 250
            code, text = send(client, marketing(), address("withdrawn"))
            assert (code, text[:5]) == (550, "5.7.1")
        relay.kill()


def test_nothing_passes_without_smtpproxy(relay: RelayProcess, postfix: PostfixInstance) -> None:
    """The last test of the file: a relay started by a test ends with it."""
    assert relay.terminate() == 0
    with session(postfix) as client:
        code, text = send(client, marketing(), address("consent"))
        assert (code, text[:5]) == (451, "4.7.1")
    relay.start()
    with session(postfix) as client:
        assert send(client, marketing(), address("consent"))[0] == 250
