"""Mail with tracking pixels through a running relay: counted, refused, or sent without them."""

import json
from base64 import encodebytes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.e2e.test_ways_out import PUBLIC, tokens
from tests.kit.audit import records
from tests.kit.dkim import KeyFile, signed, verdicts
from tests.kit.messages import marketing, message
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Hold

AGREED, OTHER = address("consent"), address("customer")
PIXEL = '<img src="https://t.example/wf/open?upn=8f2c" alt="" width="1" height="1">'
_LONG = "New " * 30
HTML = f"<p>{_LONG} shoes &eacute;t&eacute;</p>\r\n..<p>.</p>\r\n{PIXEL}\r\n<p>Bye</p>\r\n"
TYPE = ("Content-Type", "text/html; charset=utf-8")
BASE64 = ("Content-Transfer-Encoding", "base64")

WEB: dict[str, Any] = {"web": {}}

Start = Callable[..., RelayProcess]


@pytest.fixture(scope="module")
def started(filled: Start) -> Start:
    """Start a relay; `fate` is the setting for pixels on the stream offers. `WEB` adds metrics."""

    def start(upstream: str, fate: str, offers: Any = None, **config: Any) -> RelayProcess:
        more = {"tracking_pixels": fate, **(offers or {})}
        streams = [{**each, **(more if each["name"] == "offers" else {})} for each in STREAMS]
        apps = listener("apps", "offers", "receipts", default="offers")
        return filled(upstream, {"stream": streams, "listener": [apps], **config})

    return start


@pytest.fixture(scope="module")
def shared(started: Start, mta: FakeUpstream) -> RelayProcess:
    return started(mta.address, "strip", **WEB)


@pytest.fixture
def stripping(shared: RelayProcess, mta: FakeUpstream) -> Iterator[RelayProcess]:
    """A shared relay: nobody has agreed to tracking, and nothing has been sent yet."""
    mta.begin()
    yield shared
    shared.command("consent", "withdraw", AGREED, "--purpose", "tracking")


@pytest.fixture(scope="module")
def shared_adding(started: Start, mta: FakeUpstream) -> RelayProcess:
    offers = {"unsubscribe": "add", "unsubscribe_mailto": "stop@shop.example"}
    return started(mta.address, "strip", offers, web={"public_url": PUBLIC})


@pytest.fixture
def adding(shared_adding: RelayProcess, mta: FakeUpstream) -> Iterator[RelayProcess]:
    """The same, with a copy and a link for each recipient."""
    mta.begin()
    yield shared_adding
    for who in (AGREED, OTHER):
        shared_adding.command("consent", "withdraw", who, "--purpose", "tracking")


def counted(relay: RelayProcess, action: str, stream: str = "offers") -> float:
    return relay.metric("smtpproxy_tracking_pixels_total", stream=stream, action=action)


def agree(relay: RelayProcess, who: str) -> None:
    told = ("--purpose", "tracking", "--method", "unticked_box", "--wording", "openings, v1")
    code, _, errors = relay.command("consent", "record", who, *told)
    assert code == 0, errors


def html(body: str = HTML, **more: Any) -> bytes:
    return marketing(body=body, headers=[TYPE], **more)


def test_a_pixel_is_counted_and_recorded(started: Start) -> None:
    with FakeUpstream() as mta:
        relay = started(mta.address, "observe", **WEB)
        assert relay.send(html(), AGREED)[0] == 250
        assert relay.send(marketing(), AGREED)[0] == 250
        receipt = message(stream="receipts", headers=[TYPE], body=HTML)
        assert relay.send(receipt, "stranger@people.example")[0] == 250
        assert [PIXEL.encode() in each.data for each in mta.messages] == [True, False, True]
        assert (counted(relay, "passed"), counted(relay, "passed", "receipts")) == (1, 1)
        first = records(relay)[0]
        assert "t.example" in relay.command("explain", "--id", first.decided.id)[1]
        assert "upn" not in repr(first)  # which would identify the person


def test_a_pixel_is_refused_for_people_who_did_not_agree(started: Start) -> None:
    with FakeUpstream() as mta:
        relay = started(mta.address, "refuse", **WEB)
        code, text = relay.send(html(), AGREED)
        assert (code, "5.7.1" in text, "refused: tracking_unconsented" in text) == (550, True, True)
        agree(relay, AGREED)
        for kind, reason in (
            ("Text/HTML ; (b)", "tracking_unconsented"),
            ("(a) Text / HTML (b)", "header_malformed"),  # some programs show no text
        ):
            written = marketing(body=HTML, headers=[("Content-Type", kind)])
            assert reason in relay.send(written, OTHER)[1]
        assert relay.send(html(), AGREED)[0] == 250
        assert relay.send(html(), AGREED, OTHER)[0] == 550  # on_mixed = "refuse"
        assert mta.messages[0].data.endswith(HTML.encode())
        relay.command("consent", "withdraw", AGREED, "--purpose", "tracking")
        assert relay.send(html(), AGREED)[0] == 550
        assert (counted(relay, "refused"), counted(relay, "consented")) == (5, 1)
        path = Path(relay.config["server"]["state_dir"]) / "asked.eml"
        path.write_bytes(html())
        asked = ("--mail-from", "news@shop.example", "--rcpt", AGREED, "--stream", "offers")
        told = json.loads(relay.command("explain", str(path), *asked, "--json")[1])
        assert told["recipients"][0]["reason"] == "tracking_unconsented"


@pytest.mark.parametrize("encoding", ["8bit", "base64"])
def test_a_pixel_is_removed_and_everything_else_stays(
    stripping: RelayProcess, mta: FakeUpstream, encoding: str
) -> None:
    def sent(text: str) -> bytes:
        body = text if encoding == "8bit" else _base64(text)
        fields = [TYPE] if encoding == "8bit" else [TYPE, BASE64]
        return marketing(body=body, headers=fields, message_id="<1@shop.example>")

    before = counted(stripping, "stripped")
    assert stripping.send(sent(HTML), AGREED)[0] == 250
    (found,) = mta.messages
    head, _, body = found.data.partition(b"\r\n\r\n")
    expected = HTML.replace(PIXEL, "<!---->")
    if encoding == "8bit":
        assert body == expected.encode()
        assert head.endswith(sent(HTML).partition(b"\r\n\r\n")[0])
    else:
        assert PIXEL not in _text(body)
        assert body.split(b"\r\n")[0] == sent(HTML).partition(b"\r\n\r\n")[2].split(b"\r\n")[0]
    assert counted(stripping, "stripped") == before + 1
    agree(stripping, AGREED)
    assert stripping.send(sent(HTML), AGREED)[0] == 250
    assert mta.messages[1].data.endswith(sent(HTML).partition(b"\r\n\r\n")[2])
    assert stripping.send(sent(HTML), AGREED, OTHER)[0] == 250  # one message for both
    assert mta.messages[2].data.partition(b"\r\n\r\n")[2] == body


def _base64(text: str) -> str:
    return encodebytes(text.encode()).decode().replace("\n", "\r\n")


def _text(body: bytes) -> str:
    from base64 import b64decode

    return b64decode(body).decode()


def test_each_copy_follows_its_recipients_choice(adding: RelayProcess, mta: FakeUpstream) -> None:
    agree(adding, AGREED)
    sent = html(unsubscribe=None, one_click=None)
    assert adding.send(sent, AGREED, OTHER)[0] == 250
    told = {each.recipients[0]: PIXEL.encode() in each.data for each in mta.messages}
    assert told == {AGREED: True, OTHER: False}


def test_mail_signed_by_others_is_refused_and_mail_signed_by_the_relay_is_edited(
    started: Start, tmp_path: Path
) -> None:
    theirs, ours = KeyFile(tmp_path, "app"), KeyFile(tmp_path, "relay")
    with FakeUpstream() as mta:
        relay = started(mta.address, "strip", {"check_dkim": False})
        assert relay.send(signed(html(), theirs, ["From", "Subject"]), AGREED)[0] == 550
        sealed = b"ARC-Message-Signature: i=1; d=lists.example; s=a\r\n" + html()
        assert relay.send(sealed, AGREED)[0] == 550
        agree(relay, AGREED)
        assert relay.send(signed(html(), theirs, ["From", "Subject"]), AGREED)[0] == 250
        assert verdicts(mta.messages[0].data, theirs) == [True]
        signing = started(mta.address, "strip", {"check_dkim": False}, dkim=[ours.table()])
        assert signing.send(signed(html(), theirs, ["From", "Subject"]), OTHER)[0] == 250
        assert PIXEL.encode() not in mta.messages[1].data
        own, _, broken = mta.messages[1].data.partition(b"\r\nReceived:")
        anew = broken[broken.index(b"\r\nDKIM-Signature:") :].partition(b"\r\nFrom:")
        assert verdicts(own + b"\r\nFrom:" + anew[2], ours) == [True]


SIGNATURE = "--b\r\nContent-Type: application/pkcs7-signature\r\n\r\nMIIB\r\n--b--\r\n"
SIGNED_TYPE = (
    "Content-Type",
    'multipart/signed; protocol="application/pkcs7-signature"; boundary=b',
)


def test_mail_signed_by_its_author_is_never_edited(
    stripping: RelayProcess, mta: FakeUpstream
) -> None:
    """Even without any signature but the one inside the message (RFC 1847)."""
    body = f"--b\r\nContent-Type: text/html\r\n\r\n{HTML}\r\n{SIGNATURE}"
    sent = marketing(body=body, headers=[SIGNED_TYPE])
    fates = ("refused", "consented")
    before = [counted(stripping, fate) for fate in fates]
    code, text = stripping.send(sent, AGREED)
    assert (code, "refused: tracking_unconsented" in text) == (550, True)
    assert not mta.messages
    agree(stripping, AGREED)
    assert stripping.send(sent, AGREED)[0] == 250
    assert mta.messages[0].data.endswith(sent)
    assert [counted(stripping, fate) for fate in fates] == [count + 1 for count in before]


def test_every_form_of_pixel_is_removed_from_multipart_mail(
    stripping: RelayProcess, mta: FakeUpstream
) -> None:
    """multipart/related in quoted-printable, as programs send it."""
    base = "https://t.example/wf/open?upn=3D8f2c"
    forms = [
        f'<image src=3D"{base}" width=3D1 height=3D1>',
        f'<input type=3Dimage src=3D"{base}" width=3D1 height=3D1>',
        f'<img srcset=3D"{base} 2x" width=3D1 height=3D1>',
        f'<img src=3D"{base.replace("//", "")}" width=3D1 height=3D1>',
        f'<img src=3D"{base}" width=3D1 height=3D1',
    ]
    cell = '<td background=3D"%s">caf=C3=A9</td><b title=3D"<!--">=\r\n'
    top = (
        "--b\r\nContent-Type: text/html; charset=3Dutf-8\r\n".replace("=3D", "=")
        + "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    end = "\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <1>\r\n\r\n\r\n--b--\r\n"
    related = ("Content-Type", "multipart/related; boundary=b")
    between = "=\r\n<p>=\r\n"
    body = top + cell % base + between.join(forms) + end
    expected = top + cell % "data:," + between.join("<!---->" for _ in forms) + end
    assert stripping.send(marketing(body=body, headers=[related]), AGREED)[0] == 250
    (found,) = mta.messages
    assert found.data.decode().partition("\r\n\r\n")[2] == expected


def test_an_ambiguous_part_is_refused(stripping: RelayProcess, mta: FakeUpstream) -> None:
    types = "Content-Type: text/plain\r\nContent-Type: text/html\r\n"
    body = f"--b\r\n{types}\r\n{HTML}\r\n--b--\r\n"
    mixed = marketing(body=body, headers=[("Content-Type", "multipart/mixed; boundary=b")])
    whole = marketing(body=HTML, headers=[("Content-Type", "text/plain"), TYPE])
    for sent in (mixed, whole):
        code, text = stripping.send(sent, AGREED)
        assert (code, text.partition(" (")[0]) == (554, "5.6.0 refused: header_malformed")
    assert not mta.messages


def test_a_large_message_is_edited_only_at_its_start(
    stripping: RelayProcess, mta: FakeUpstream
) -> None:
    rest = "".join(f"<p>{'x' * 70} {n}</p>\r\n" for n in range(40_000))
    assert stripping.send(html(HTML + rest), AGREED)[0] == 250
    expected = HTML.replace(PIXEL, "<!---->") + rest
    assert mta.messages[0].data.endswith(b"\r\n\r\n" + expected.encode())


def test_a_withdrawal_during_delivery_counts(stripping: RelayProcess, mta: FakeUpstream) -> None:
    """The upstream has not answered 354 yet, so the outgoing message is rebuilt."""
    agree(stripping, AGREED)
    mta.begin(At("data", Hold(), to=AGREED))
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(stripping.send, html(), AGREED)
        mta.wait_held()
        stripping.command("consent", "withdraw", AGREED, "--purpose", "tracking")
        mta.release()
        assert sent.result(30)[0] == 250
    assert [PIXEL.encode() in each.data for each in mta.messages] == [False]


def test_after_a_withdrawal_the_second_copy_waits_for_a_retry(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    sent = html(unsubscribe=None, one_click=None, message_id="<copies@shop.example>")
    agree(adding, AGREED)
    agree(adding, OTHER)
    mta.begin(At("data", Hold(), to=OTHER))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(adding.send, sent, AGREED, OTHER)
        mta.wait_held()
        adding.command("consent", "withdraw", OTHER, "--purpose", "tracking")
        mta.release()
        assert waiting.result(30)[0] == 451
    assert adding.send(sent, AGREED, OTHER)[0] == 250
    told = [(each.recipients[0], PIXEL.encode() in each.data) for each in mta.messages]
    assert told == [(AGREED, True), (OTHER, False)]


def test_people_who_agreed_are_mailed_while_others_are_refused(started: Start) -> None:
    with FakeUpstream() as mta:
        relay = started(mta.address, "refuse", policy={"on_mixed": "split"})
        agree(relay, AGREED)
        assert relay.send(html(), AGREED, OTHER)[0] == 250
        assert [each.recipients for each in mta.messages] == [("news@shop.example",), (AGREED,)]
        assert b"tracking_unconsented" in mta.messages[0].data


def test_observed_mail_is_relayed_unchanged(started: Start) -> None:
    with FakeUpstream() as mta:
        for fate in ("strip", "refuse"):
            relay = started(mta.address, fate, {"mode": "observe"}, **WEB)
            assert relay.send(html(), AGREED)[0] == 250
            assert counted(relay, "passed") == 1
        assert all(each.data.endswith(HTML.encode()) for each in mta.messages)
        refused = relay.metric(
            "smtpproxy_observed_refusals_total", stream="offers", reason="tracking_unconsented"
        )
        assert refused == 1


def test_the_link_in_a_message_withdraws_the_consent_for_the_next(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    agree(adding, AGREED)
    sent = html(unsubscribe=None, one_click=None)
    assert adding.send(sent, AGREED)[0] == 250
    page = f"{adding.url}/u/{tokens(mta.messages[0])}"
    with urlopen(page, b"do=untrack") as answer:
        assert b"from the next message on." in answer.read()
    assert adding.send(sent, AGREED)[0] == 250
    assert [PIXEL.encode() in each.data for each in mta.messages] == [True, False]
    assert adding.metric("smtpproxy_feedback_total", stream="offers", kind="untrack") == 1
