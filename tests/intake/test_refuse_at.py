"""refuse_at = "data": nobody is refused before the content, over SMTP, LMTP or milter."""

import pytest

from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.messages import marketing
from tests.kit.mta import mta
from tests.kit.relay import STREAMS

STRANGER = "stranger@people.example"


def late(listen: Listen, protocol: str) -> Intake:
    streams = [stream | {"refuse_at": "data"} for stream in STREAMS]
    return listen(
        {"stream": streams}, protocol=protocol, streams=["offers"], default_stream="offers"
    )


@pytest.mark.parametrize(("protocol", "hello"), [("smtp", "EHLO"), ("lmtp", "LHLO")])
def test_a_client_is_refused_after_the_content(listen: Listen, protocol: str, hello: str) -> None:
    intake = late(listen, protocol)
    with intake.client() as client:
        client.reply()
        client.say(f"{hello} client.example")
        client.begin(STRANGER)
        reply = client.say(marketing() + b".\r\n")
    assert reply.startswith("550 5.7.1 ")
    assert "no_record" in reply
    assert [decided.stage for decided in intake.records.decided] == ["data"]


def test_an_mta_is_refused_at_the_end_of_the_message(listen: Listen) -> None:
    intake = late(listen, "milter")
    with mta(intake.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail("news@shop.example")
        assert peer.rcpt(STRANGER).final == "c"
        assert "no_record" in peer.message(marketing()).reply
    assert [decided.stage for decided in intake.records.decided] == ["data"]
