"""Double opt-in by mail: a request, a message through the relay itself, a button, and mail."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from hashlib import sha256
from typing import Any

import pytest

from tests.kit.audit import records
from tests.kit.messages import marketing
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess
from tests.kit.upstream import At, FakeUpstream, Reply

PUBLIC = "https://confirm.shop.example"
LEA = "lea@people.example"


def config(**more: Any) -> dict[str, Any]:
    return {
        "web": {"public_url": PUBLIC},
        "confirmation": {"sender": "hello@shop.example", **more},
    }


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(mta.address, config())


@pytest.fixture(autouse=True)
def fresh(mta: FakeUpstream) -> Iterator[None]:
    mta.begin()
    yield
    mta.behaviours.clear()


def start(relay: RelayProcess, address: str, *more: str) -> tuple[int, str, str]:
    return relay.command(
        *("consent", "start", address, "--purpose", "offers", "--source", "direct"),
        *("--wording", "offers by mail", "--version", "3", "--form", "/join", "--ip", "192.0.2.7"),
        *more,
    )


def mailed(mta: FakeUpstream) -> EmailMessage:
    (message,) = mta.messages
    read = message_from_bytes(message.data, policy=policy.default)
    assert isinstance(read, EmailMessage)
    return read


def link(relay: RelayProcess, mta: FakeUpstream) -> str:
    text = mailed(mta).get_content()
    (found,) = re.findall(rf"{re.escape(PUBLIC)}(/c/\S+)", text)
    return f"{relay.url}{found}"


def ask(uri: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(uri, data, headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


YES = {"confirm": "yes"}


def test_a_request_is_mailed_and_counts_once_the_button_is_pressed(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    code, _, complaint = start(relay, LEA)
    assert code == 0, complaint
    mail = mailed(mta)
    assert (mail["From"], mail["To"]) == ("Example SA <hello@shop.example>", LEA)
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "offers" in mail["Subject"]
    assert "X-Mail-Stream" not in mail
    uri = link(relay, mta)
    assert "lea" not in uri
    assert relay.send(marketing(), LEA)[0] == 550, "a request alone allows nothing"
    code, page = ask(uri)
    assert code == 200
    assert "Yes, Example SA may send me offers by e-mail." in page
    assert LEA not in page
    assert ask(uri, {})[0] == 200, "a machine's POST is not the button"
    assert relay.send(marketing(), LEA)[0] == 550, "and must change nothing"
    code, page = ask(uri, YES)
    assert (code, "that is confirmed" in page) == (200, True)
    assert relay.send(marketing(), LEA)[0] == 250
    counted = relay.metric("smtpproxy_confirmations_total", link="consent", answer="done")
    assert counted == 1
    request, confirmation = json.loads(relay.must("contact", "show", LEA, "--json"))["consents"]
    assert (request["pending"], request["evidence"]["version"]) == (True, "3")
    assert confirmation["method"] == "double_opt_in"
    evidence = confirmation["evidence"]
    assert evidence["wording"].startswith("Yes, Example SA may send me offers")
    assert evidence["form"] == f"{PUBLIC}/c/"
    for told in (request, confirmation):
        assert re.fullmatch(r"hmac:[0-9a-f]{8}:[0-9a-f]{32}", told["evidence"]["ip"])
    assert "already" in ask(uri, YES)[1], "a link works only once"
    relay.must("suppress", "add", LEA, "--origin", "unsubscribe", "--scope", "purpose:offers")
    assert ask(uri, YES)[0] == 200
    assert relay.send(marketing(), LEA)[0] == 550, "nor may it undo a later refusal"
    (record,) = records(relay, stream="confirmations")
    assert record.decided.recipients[0].canonical == LEA


def test_a_link_is_useless_after_a_withdrawal(relay: RelayProcess, mta: FakeUpstream) -> None:
    assert start(relay, "ben@people.example")[0] == 0
    uri = link(relay, mta)
    relay.must("consent", "withdraw", "ben@people.example", "--purpose", "offers")
    assert ask(uri, YES)[0] == 410
    relay.must("contact", "erase", "ben@people.example")
    assert ask(uri, YES)[0] == 410


def test_an_altered_link_is_unknown(relay: RelayProcess, mta: FakeUpstream) -> None:
    assert start(relay, "cleo@people.example")[0] == 0
    uri = link(relay, mta)
    for wrong in (
        uri[:-1],
        uri[:-2] + ("AA" if uri[-2:] != "AA" else "BB"),
        uri.replace("/c/", "/u/"),
    ):
        assert ask(wrong, YES)[0] == 404
    for method in ("PUT", "DELETE"):
        request = urllib.request.Request(uri, method=method)
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(request)


@pytest.mark.parametrize(
    ("origin", "scope", "goes"),
    [
        ("complaint", "purpose:appeals", False),
        ("objection", "marketing", False),
        ("bounce", "all", False),
        ("unsubscribe", "all", False),
        ("manual", "marketing", False),
        ("manual", "purpose:appeals", True),
        ("unsubscribe", "marketing", True),
        ("unsubscribe", "purpose:offers", True),
        ("erasure", "marketing", True),
    ],
)
def test_who_may_be_asked_and_when(
    relay: RelayProcess, mta: FakeUpstream, origin: str, scope: str, goes: bool
) -> None:
    person = f"{origin}-{scope.replace(':', '-')}@people.example"
    relay.must("suppress", "add", person, "--origin", origin, "--scope", scope)
    code, told, _ = start(relay, person)
    assert (code, len(mta.messages)) == (0, 1) if goes else (1, 0), told
    if goes:
        assert ask(link(relay, mta), YES)[0] == 200
        passes = origin in ("unsubscribe", "erasure") or scope == "purpose:appeals"
        assert (relay.send(marketing(), person)[0] == 250) is passes
    else:
        assert f"suppressed_{origin}" in told
        assert relay.command("contact", "show", person)[0] == 1, (
            "nothing may be recorded about them"
        )


def test_strangers_cannot_be_mailed_at_will(relay: RelayProcess, mta: FakeUpstream) -> None:
    for tag in ("", "+1", "+2"):
        assert start(relay, f"dora{tag}@people.example")[0] == 0
    code, told, _ = start(relay, "dora+3@people.example")
    assert (code, len(mta.messages)) == (1, 3)
    assert "in 24 hours" in told


def test_an_unavailable_or_refusing_relay_is_reported(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    mta.behaviours.append(At("end", Reply("451 4.3.2 later")))
    for _ in range(4):
        code, _, told = start(relay, "emil@people.example")
        assert code == 1
        assert "asks to try again later: 451" in told, "undelivered mail must not be counted"
    mta.behaviours.clear()
    assert start(relay, "emil@people.example")[0] == 0
    mta.behaviours.append(At("rcpt", Reply("550 5.1.1 nobody")))
    code, told, _ = start(relay, "emil@people.example")
    assert (code, "550 5.1.1 nobody" in told or "5.1.1 nobody" in told) == (1, True)


def test_an_internationalised_address_can_confirm(relay: RelayProcess, mta: FakeUpstream) -> None:
    assert start(relay, "léa@people.example")[0] == 0
    (message,) = mta.messages
    assert message.recipients == ("léa@people.example",)
    assert "SMTPUTF8" in message.parameters
    assert "To: léa@people.example\r\n".encode() in message.data
    assert ask(link(relay, mta), YES)[0] == 200


def test_a_request_survives_a_kill(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> None:
    relay = filled(mta.address, config())
    assert start(relay, LEA)[0] == 0
    uri = link(relay, mta)
    relay.kill()
    code, _, told = start(relay, "finn@people.example")
    assert code == 1
    assert "is smtpproxy serve running" in told
    relay.start()
    assert ask(uri, YES)[0] == 200
    relay.kill()
    relay.start()
    assert relay.send(marketing(), LEA)[0] == 250
    mta.begin()
    assert start(relay, "finn@people.example")[0] == 0
    assert ask(link(relay, mta), YES)[0] == 200


def test_the_api_sends_a_request(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> None:
    secret = "a secret of the shop"
    token = {"name": "shop", "sha256": sha256(secret.encode()).hexdigest(), "may": ["consent"]}
    relay = filled(mta.address, config(valid_for="1s", max_per_address=1) | {"token": [token]})

    def post(**body: object) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {secret}"}
        data = json.dumps({"wording": "offers by mail", "purpose": "offers", **body}).encode()
        request = urllib.request.Request(f"{relay.url}/v1/consents", data, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    assert post(address=LEA, language="fr", source="direct") == (200, {"state": "sent"})
    assert mailed(mta)["Subject"].startswith("Merci de confirmer")
    code, told = post(address="LEA@people.example")
    assert (code, told["error"]) == (429, "too_many_mails")
    for wrong in ({"address": "lea"}, {"address": LEA, "purpose": "x"}, {"address": LEA, "x": 1}):
        assert post(**wrong)[0] == 400
    assert post(address=LEA, purpose="tracking")[0] == 400, "the page must ask for consent to mail"
    relay.must("suppress", "add", "gil@people.example", "--origin", "complaint")
    code, told = post(address="gil@people.example")
    assert (code, told["state"], told["reason"]) == (200, "refused", "suppressed_complaint")
    uri = link(relay, mta)
    wait_for(lambda: ask(uri)[0] == 410, "the end of its time")
    assert ask(uri, YES)[0] == 410
    assert relay.send(marketing(), LEA)[0] == 550
