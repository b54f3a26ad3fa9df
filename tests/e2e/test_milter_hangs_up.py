"""An MTA that hangs up on the milter while the sender's notice is on its way."""

import contextlib
from collections.abc import Callable

from tests.kit.audit import records
from tests.kit.messages import marketing
from tests.kit.mta import Outcome, mta
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Hold

SENDER = "news@shop.example"
MESSAGE = marketing(stream="offers")


def test_the_sender_gets_one_notice(filled: Callable[..., RelayProcess]) -> None:
    with FakeUpstream(At("end", Hold(), nth=1)) as upstream:
        milter = listener("mta", "offers", "receipts", protocol="milter")
        relay = filled(upstream.address, {"policy": {"on_mixed": "split"}, "listener": [milter]})

        def attempt(timeout: float) -> Outcome:
            with mta(relay.port(), timeout) as peer:
                peer.negotiate()
                peer.connect()
                peer.mail(SENDER)
                for person in ("consent", "withdrawn"):
                    assert peer.rcpt(address(person)).final == "c"
                return peer.message(MESSAGE)

        with contextlib.suppress(TimeoutError):
            attempt(0.5)
        upstream.wait_held()
        upstream.release()
        upstream.wait_messages(1)
        wait_for(lambda: sum(e.outcome is not None for e in records(relay)) == 2, "both answers")
        outcome = attempt(10)
        assert outcome.final == "c"
        assert outcome.deleted == [f"<{address('withdrawn')}>"]
        assert [m.recipients for m in upstream.messages] == [(SENDER,)]
