"""Real clients over TLS and with AUTH: swaks, curl, msmtp, smtplib, openssl and Postfix."""

import base64
import contextlib
import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.certificates import Authority
from tests.kit.messages import message
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.processes import run
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

SENDER = "news@shop.example"
USER, PASSWORD = "shop", "correct horse battery"

Send = Callable[[RelayProcess, Authority, str, str, str, Path], tuple[bool, str]]
"""Sends (relay, root, "starttls" or "implicit", mechanism, password); returns success."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def relay(
    mta: FakeUpstream, filled: Callable[..., RelayProcess], authority: Authority
) -> Iterator[RelayProcess]:
    pair = authority.issue("relay.example", file="server")
    keys = {"certificate": str(pair.certificate), "private_key": str(pair.key), "auth": "required"}
    users = authority.folder / "users"
    config = {
        "listener": [
            listener("starttls", "receipts", default="receipts", tls="starttls", **keys),
            listener("implicit", "receipts", default="receipts", tls="implicit", **keys),
        ],
        "auth": {"users": str(users), "failure_delay": "50ms", "max_failures_per_address": 1000},
        "web": {},
        "credential": [{"user": USER, "senders": [SENDER]}],
    }
    draft = RelayProcess(authority.folder, mta.address, config)
    code, said, wrong = draft.command("user", "add", USER, stdin=PASSWORD.encode() + b"\n")
    assert (code, said) == (0, f"{USER}: added\n"), wrong
    process = filled(mta.address, config)
    yield process
    assert PASSWORD not in process.output
    assert base64.b64encode(PASSWORD.encode()).decode() not in process.output


MAIL = message(sender=SENDER, subject="Your order")


def swaks(
    relay: RelayProcess, root: Authority, tls: str, mechanism: str, password: str, folder: Path
) -> tuple[bool, str]:
    done = run(
        program("swaks"), "--server", LOOPBACK, "--port", str(relay.port(tls)),
        "--tls" if tls == "starttls" else "--tlsc", "--tls-verify", "--tls-ca-path", str(root.path),
        "--auth", mechanism, "--auth-user", USER, "--auth-password", password,
        "--ehlo", "client.example", "--from", SENDER, "--to", address("stranger"), "--data", "-",
        stdin=MAIL.replace(b"\r\n", b"\n"),
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


def curl(
    relay: RelayProcess, root: Authority, tls: str, mechanism: str, password: str, folder: Path
) -> tuple[bool, str]:
    (folder / "mail").write_bytes(MAIL)
    scheme = "smtp" if tls == "starttls" else "smtps"
    done = run(
        program("curl"), "--silent", "--show-error", "--verbose", "--noproxy", "*",
        "--ssl-reqd", "--cacert", str(root.path), "--user", f"{USER}:{password}",
        "--login-options", f"AUTH={mechanism}",
        "--mail-from", SENDER, "--mail-rcpt", address("stranger"),
        "--upload-file", str(folder / "mail"),
        f"{scheme}://{LOOPBACK}:{relay.port(tls)}/client.example",
    )  # fmt: skip
    return done.returncode == 0, done.stderr


def msmtp(
    relay: RelayProcess, root: Authority, tls: str, mechanism: str, password: str, folder: Path
) -> tuple[bool, str]:
    done = run(
        program("msmtp"), "--file=/dev/null", f"--host={LOOPBACK}", f"--port={relay.port(tls)}",
        "--domain=client.example", f"--from={SENDER}", f"--auth={mechanism.lower()}",
        f"--user={USER}", f"--passwordeval=echo {password}", "--tls=on",
        f"--tls-starttls={'on' if tls == 'starttls' else 'off'}",
        f"--tls-trust-file={root.path}", "--debug", "--", address("stranger"),
        stdin=MAIL.replace(b"\r\n", b"\n"),
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


def library(
    relay: RelayProcess, root: Authority, tls: str, mechanism: str, password: str, folder: Path
) -> tuple[bool, str]:
    context = ssl.create_default_context(cafile=str(root.path))
    with contextlib.ExitStack() as stack:
        client: smtplib.SMTP
        if tls == "implicit":
            client = smtplib.SMTP_SSL(LOOPBACK, relay.port(tls), timeout=30, context=context)
        else:
            client = smtplib.SMTP(LOOPBACK, relay.port(tls), timeout=30)
        stack.enter_context(client)
        if tls == "starttls":
            client.starttls(context=context)
        client.ehlo("client.example")
        client.user, client.password = USER, password
        try:
            client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
        except smtplib.SMTPAuthenticationError as error:
            return False, str(error)
        client.sendmail(SENDER, [address("stranger")], MAIL)
    return True, ""


CLIENTS = [
    pytest.param(send, mechanism, id=f"{name}-{mechanism}", marks=marks)
    for name, send, marks, mechanisms in (
        ("swaks", swaks, needs("swaks"), ("PLAIN", "LOGIN")),
        ("curl", curl, needs("curl"), ("PLAIN", "LOGIN")),
        ("msmtp", msmtp, needs("msmtp"), ("PLAIN", "LOGIN", "SCRAM-SHA-256")),
        ("smtplib", library, (), ("PLAIN", "LOGIN")),
    )
    for mechanism in mechanisms
]


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize(("send", "mechanism"), CLIENTS)
def test_a_client_delivers_and_a_wrong_password_does_not(
    send: Send,
    mechanism: str,
    tls: str,
    relay: RelayProcess,
    authority: Authority,
    mta: FakeUpstream,
    tmp_path: Path,
) -> None:
    before = len(mta.messages)
    went, said = send(relay, authority, tls, mechanism, PASSWORD, tmp_path)
    if not went and "GNU SASL: Error authenticating user" in said and "--> AUTH" not in said:
        pytest.skip("this msmtp cannot do SCRAM within TLS: it gives up before it says anything")
    assert went, said
    assert len(mta.messages) == before + 1
    assert re.search(rb"with (?:ESMTPSA|UTF8SMTPSA) id", mta.messages[-1].data)
    went, said = send(relay, authority, tls, mechanism, "wrong", tmp_path)
    assert not went, said
    assert "535" in said
    assert len(mta.messages) == before + 1


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_openssl_verifies_the_certificate(
    relay: RelayProcess, authority: Authority, tls: str
) -> None:
    starttls = ["-starttls", "smtp"] if tls == "starttls" else []
    done = run(
        "openssl", "s_client", "-connect", f"{LOOPBACK}:{relay.port(tls)}", *starttls,
        "-CAfile", str(authority.path), "-verify_return_error", "-verify_hostname", "localhost",
        "-crlf", "-ign_eof", stdin=b"QUIT\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Verify return code: 0 (ok)" in done.stdout
    assert "221 2.0.0 bye" in done.stdout


def test_an_expired_certificate_works_for_clients_that_do_not_check(
    mta: FakeUpstream, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("relay.example", days=-1, file="expired")
    tls = {"tls": "starttls", "certificate": str(pair.certificate), "private_key": str(pair.key)}
    config = {"listener": [listener("apps", "receipts", default="receipts", **tls)]}
    with RelayProcess(tmp_path, mta.address, config) as relay:
        relay.must("reload")
        unchecked, checked = ssl.create_default_context(), authority.client_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client:
            client.starttls(context=unchecked)
            client.sendmail(SENDER, [address("stranger")], MAIL)
        with (
            smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client,
            pytest.raises(ssl.SSLCertVerificationError, match="expired"),
        ):
            client.starttls(context=checked)
        logged = [one for one in relay.log if f"{pair.certificate} expired on" in str(one)]
        assert [one["level"] for one in logged] == ["warning", "warning"], (
            "once at the start and once at the reload"
        )
        assert f"{pair.certificate} expired on" in relay.must("check")
        wait_for(lambda: "(expired)" in relay.must("status"), "the status")


@needs("postfix")
def test_postfix_relays_with_tls_and_a_password(
    relay: RelayProcess, authority: Authority, mta: FakeUpstream
) -> None:
    """Configured as in docs/deploy/tls-auth.md."""
    host = f"{LOOPBACK}:{relay.port('starttls')}"
    postfix = PostfixInstance(
        relayhost=host,
        services="tlsmgr unix - - n 1000? 1 tlsmgr\n",
        main={
            "smtp_tls_security_level": "encrypt",
            "smtp_tls_loglevel": "1",
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": f"inline:{{ {{ [{LOOPBACK}]:{relay.port('starttls')} = "
            f"{USER}:{PASSWORD.replace(' ', '_')} }} }}",
            "smtp_sasl_security_options": "noanonymous",
        },
    )
    assert " " in PASSWORD
    relay_user = relay.command(
        "user", "add", USER, "--replace", stdin=PASSWORD.replace(" ", "_").encode() + b"\n"
    )
    assert relay_user[0] == 0
    time.sleep(1.1)  # checked once a second
    before = len(mta.messages)
    try:
        with postfix:
            postfix.submit(MAIL, SENDER, [address("stranger")])
            with contextlib.suppress(AssertionError):
                wait_for(lambda: len(mta.messages) > before, "the message", timeout=15)
            log = postfix.log
    finally:
        relay.command("user", "add", USER, "--replace", stdin=PASSWORD.encode() + b"\n")
        time.sleep(1.1)
    assert len(mta.messages) > before, log
    assert "TLS connection established" in log
    assert re.search(rb"with (?:ESMTPSA|UTF8SMTPSA) id", mta.messages[-1].data)


def test_metrics_count_tls_and_logins(
    relay: RelayProcess, authority: Authority, tmp_path: Path
) -> None:
    wait_for(
        lambda: relay.metric("smtpproxy_certificate_expiry_timestamp_seconds") > time.time(),
        "the expiry",
    )
    assert relay.metric("smtpproxy_certificate_usable", listener="starttls") == 1
    library(relay, authority, "starttls", "PLAIN", "wrong", tmp_path)

    def counted() -> bool:
        failed = relay.metric(
            "smtpproxy_auth_total", listener="starttls", mechanism="PLAIN", outcome="failed"
        )
        ok = relay.metric("smtpproxy_tls_handshakes_total", listener="starttls", outcome="ok")
        return failed > 0 and ok > 0

    wait_for(counted, "the counts")


def test_repeated_logins_are_quick(relay: RelayProcess, authority: Authority) -> None:
    """argon2 is computed once: the second login waits for no hash."""
    context = ssl.create_default_context(cafile=str(authority.path))
    done: list[int] = []

    def session() -> None:
        with smtplib.SMTP(LOOPBACK, relay.port("starttls"), timeout=60) as client:
            client.starttls(context=context)
            client.login(USER, PASSWORD)
            done.append(1)

    session()
    threads = [threading.Thread(target=session) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == 21
