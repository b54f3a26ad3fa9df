"""DKIM through the whole relay: its signatures verified by others, and apps' verified by it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.dkim import KeyFile, signed, verdicts
from tests.kit.dns import NameServer
from tests.kit.messages import marketing, message
from tests.kit.parts import needs
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.soak import only_at_length
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream
from tests.kit.verifiers import Rspamd, opendkim

StartFilled = Callable[..., RelayProcess]
BOTH = ["from", "subject", "list-unsubscribe", "list-unsubscribe-post"]

HARD = ".\r\n..a\r\n.b  c \t d  \r\n\r\n" + "é" * 400 + "\r\n" + "x" * 900 + "\r\n \r\n\t\r\n\r\n"
MESSAGES = {
    "plain": marketing(),
    "hard": marketing(body=HARD),
    "stream-header": marketing(stream="offers"),
    "folded": marketing(subject="one\r\n\ttwo\r\n  three ", headers=[("List-Id", "\r\n <a.b>")]),
    "no-body": marketing(body=""),
    "empty-lines": marketing(body="\r\n \r\n\r\n"),
    "spooled": marketing(body=HARD * 400),
    "receipt": message(stream="receipts", headers=[("X-Any", " a  b ")]),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[KeyFile]:
    folder = tmp_path_factory.mktemp("keys")
    return [KeyFile(folder, "r1"), KeyFile(folder, "e1", kind="ed25519")]


@pytest.fixture(scope="module")
def delivered(filled: StartFilled, keys: list[KeyFile]) -> Iterator[dict[str, bytes]]:
    """All messages as delivered by Postfix behind the signing relay."""
    with PostfixInstance() as postfix:
        relay = filled(
            postfix.address,
            {
                "server": {"spool_threshold": "64KiB"},
                "dkim": [key.table() for key in keys],
                "web": {},
            },
        )
        found = {}
        for number, (name, mail) in enumerate(MESSAGES.items(), 1):
            code, text = relay.send(mail, address("consent"))
            assert code == 250, text
            known = set(found.values())
            new = {each.message for each in postfix.delivered(number)} - known
            (found[name],) = new
        assert relay.metric("smtpproxy_stage_seconds_count", stage="sign") == len(MESSAGES)
        yield found


@needs("postfix")
@pytest.mark.parametrize("name", MESSAGES)
def test_dkimpy_verifies_what_postfix_delivers(
    delivered: dict[str, bytes], keys: list[KeyFile], name: str
) -> None:
    mail = delivered[name]
    assert mail.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n")
    assert verdicts(mail, *keys) == [True, True]
    assert b"X-Mail-Stream" not in mail


@needs("postfix", "opendkim")
@pytest.mark.parametrize("name", MESSAGES)
def test_opendkim_verifies_what_postfix_delivers(
    delivered: dict[str, bytes], keys: list[KeyFile], tmp_path: Path, name: str
) -> None:
    assert opendkim(tmp_path, delivered[name], *keys) == {"r1": "pass", "e1": "pass"}
    changed = delivered[name].replace(b"Subject:", b"Subject: x")
    assert set(opendkim(tmp_path, changed, *keys).values()) == {"fail"}


@only_at_length
@pytest.mark.soak
@needs("postfix", "rspamd")
def test_rspamd_verifies_what_postfix_delivers(
    delivered: dict[str, bytes], keys: list[KeyFile], tmp_path: Path
) -> None:
    with NameServer(*(key.dns for key in keys)) as dns, Rspamd(tmp_path, dns) as rspamd:
        for name, mail in delivered.items():
            found = rspamd.verdicts(mail)
            assert set(found) == {"R_DKIM_ALLOW"}, name
            assert sorted(found["R_DKIM_ALLOW"]) == ["shop.example:s=e1", "shop.example:s=r1"]
        changed = delivered["plain"].replace(b"Subject:", b"Subject: x")
        assert set(rspamd.verdicts(changed)) == {"R_DKIM_REJECT"}


class Checking:
    """A relay without keys that verifies what apps have signed."""

    def __init__(self, relay: RelayProcess, mta: FakeUpstream, dns: NameServer) -> None:
        self.relay, self.mta, self.dns = relay, mta, dns

    def send(self, mail: bytes) -> tuple[int, str]:
        code, text = self.relay.send(mail, address("consent"))
        return code, text.partition(" (stream")[0]

    def relayed(self) -> bytes:
        return self.mta.messages[-1].data


@pytest.fixture(scope="module")
def checking(filled: StartFilled, mta: FakeUpstream, keys: list[KeyFile]) -> Iterator[Checking]:
    with NameServer(keys[0].dns) as dns:
        settings = {"dns": {"nameservers": [dns.address], "timeout": "500ms"}, "web": {}}
        yield Checking(filled(mta.address, settings), mta, dns)


def test_a_valid_signature_over_both_fields_passes(checking: Checking, keys: list[KeyFile]) -> None:
    mail = signed(marketing(), keys[0], BOTH)
    assert checking.send(mail)[0] == 250
    assert checking.relayed().endswith(mail)
    assert verdicts(checking.relayed(), *keys) == [True]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: signed(marketing(), key, ["from", "list-unsubscribe"]),
        lambda key: signed(marketing(), key, BOTH).replace(b"are in", b"are out"),
        lambda key: signed(marketing(), key, BOTH).replace(b" s=r1;", b" s=none;"),
        lambda key: b"DKIM-Signature: garbage\r\n" + marketing(),
    ],
)
def test_fields_not_covered_by_a_valid_signature_are_refused(
    checking: Checking, keys: list[KeyFile], spoil: Callable[[KeyFile], bytes]
) -> None:
    refused = checking.relay.metric(
        "smtpproxy_messages_total", reason="unsubscribe_unsigned", verdict="refuse"
    )
    assert checking.send(spoil(keys[0])) == (550, "5.7.0 refused: unsubscribe_unsigned")
    assert (
        checking.relay.metric(
            "smtpproxy_messages_total", reason="unsubscribe_unsigned", verdict="refuse"
        )
        == refused + 1
    )


def test_mail_is_deferred_while_the_dns_is_silent(checking: Checking, tmp_path: Path) -> None:
    slow = KeyFile(tmp_path, "slow")
    checking.dns.add(slow.dns)
    checking.dns.fail(slow.name, "silence")
    mail = signed(marketing(), slow, BOTH)
    assert checking.send(mail) == (451, "4.3.0 deferred: temporary_failure")
    metric = checking.relay.metric
    assert metric("smtpproxy_failures_total", part="dns") == 1
    assert metric("smtpproxy_dns_lookups_total", outcome="failed") == 1
    assert metric("smtpproxy_stage_seconds_count", stage="dns") >= 1


def test_mail_without_a_signature_needs_no_dns(checking: Checking) -> None:
    asked = len(checking.dns.asked)
    assert checking.send(marketing())[0] == 250
    assert checking.send(message(stream="receipts"))[0] == 250
    assert len(checking.dns.asked) == asked


@pytest.mark.parametrize("make", [marketing, message])
def test_the_relay_does_not_break_an_apps_signature(
    checking: Checking, keys: list[KeyFile], make: Callable[..., bytes]
) -> None:
    """The stream header is removed, unless a signature that is not replaced covers it."""
    stream = "offers" if make is marketing else "receipts"
    covered = signed(make(stream=stream), keys[0], [*BOTH, "x-mail-stream"])
    assert checking.send(covered)[0] == 250
    assert b"X-Mail-Stream" in checking.relayed()
    assert verdicts(checking.relayed(), *keys) == [True]
    free = signed(make(stream=stream), keys[0], BOTH)
    assert checking.send(free)[0] == 250
    assert b"X-Mail-Stream" not in checking.relayed()
    assert verdicts(checking.relayed(), *keys) == [True]


def test_the_relay_signs_what_it_sends(
    filled: StartFilled, mta: FakeUpstream, keys: list[KeyFile], tmp_path: Path
) -> None:
    """Its own signature covers the outgoing message, whether the app's still does or not."""
    app = KeyFile(tmp_path, "app")
    relay = filled(mta.address, {"dkim": [keys[0].table()]})
    covered = signed(marketing(stream="offers"), app, [*BOTH, "x-mail-stream"])
    assert relay.send(covered, address("consent"))[0] == 250
    mail = mta.messages[-1].data
    assert b"X-Mail-Stream" not in mail.partition(b"\r\n\r\n")[0].replace(b"x-mail-stream", b"")
    assert verdicts(mail, keys[0], app) == [True, False]


def test_added_unsubscribe_fields_are_signed_for_each_recipient(
    filled: StartFilled, mta: FakeUpstream, keys: list[KeyFile]
) -> None:
    """RFC 8058 section 4, for fields that only the relay can sign."""
    offers = {
        "name": "offers",
        "class": "marketing",
        "purpose": "offers",
        "products": ["shoes"],
        "from_domains": ["shop.example"],
        "unsubscribe": "add",
    }
    relay = filled(
        mta.address,
        {
            "stream": [offers],
            "web": {"public_url": "https://out.shop.example"},
            "dkim": [key.table() for key in keys],
        },
    )
    before = len(mta.messages)
    mail = signed(marketing(unsubscribe=None, one_click=None), keys[0], ["from", "subject"])
    assert relay.send(mail, address("consent"), address("customer"))[0] == 250
    copies = [each.data for each in mta.messages[before:]]
    assert len(set(copies)) == 2
    for copy in copies:
        assert verdicts(copy, *keys) == [True, True, True]  # and the app's is not broken
        first = copy.partition(b"\r\nReceived:")[0].lower()
        assert b"list-unsubscribe:list-unsubscribe:" in first.replace(b"\r\n\t ", b"")


def test_only_mail_of_the_keys_domain_and_stream_is_signed(
    filled: StartFilled, mta: FakeUpstream, keys: list[KeyFile]
) -> None:
    config: dict[str, Any] = {"dkim": [keys[0].table(streams=["receipts"])]}
    relay = filled(mta.address, config)
    assert relay.send(marketing(), address("consent"))[0] == 250
    assert b"DKIM-Signature" not in mta.messages[-1].data
    assert relay.send(message(stream="receipts"), address("consent"))[0] == 250
    assert verdicts(mta.messages[-1].data, *keys) == [True]


def test_a_relay_with_a_bad_key_does_not_start(
    tmp_path: Path, mta: FakeUpstream, keys: list[KeyFile]
) -> None:
    relay = RelayProcess(tmp_path, mta.address, {"dkim": [keys[0].table(key="/none.pem")]})
    code, _, errors = relay.command("serve", timeout=30)
    assert code == 2
    assert "dkim[0].key: /none.pem cannot be read: No such file" in errors
