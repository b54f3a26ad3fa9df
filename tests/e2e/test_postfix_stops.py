"""The MTA behind the relay goes down under load and comes back: nothing is lost."""

from collections.abc import Callable

from tests.kit.audit import outcome, records, relayed
from tests.kit.numbered import NumberedLoad, number_of
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess, listener


@needs("postfix")
def test_nothing_that_was_answered_250_is_missing(
    postfix: PostfixInstance, filled: Callable[..., RelayProcess]
) -> None:
    till = listener("till", "receipts", default="receipts")
    relay = filled(postfix.address, {"server": {"workers": 2}, "listener": [till]})
    with NumberedLoad(relay.port(), sessions=8) as load:
        load.wait_accepted(150)
        for _ in range(2):
            postfix.stop()
            load.wait_not_accepted(30)
            postfix.start()
            load.wait_accepted(150)
        fates = load.stop()
    assert {(fate.code, fate.text[:4]) for fate in fates if not fate.accepted} == {(451, "4.4.")}
    postfix.flush()
    postfix.wait_empty(60)
    arrived = {number_of(mail.message) for mail in postfix.delivered(len(load.accepted))}
    assert load.accepted <= arrived
    # Mail that arrived though deferred lost its reply on the way: a handful at most.
    assert len(arrived - load.accepted) <= 2 * 8

    def answered() -> set[int]:
        entries = relayed(records(relay))
        return {number_of(e.decided.message_id or "") for e in entries if outcome(e) == 250}

    wait_for(lambda: load.accepted == answered(), "the outcomes of all")
