"""The format of lines is stable: what was written is read years later as it was meant."""

from datetime import UTC, datetime

from msgspec.structs import replace

from smtpproxy.events import Client, Decided, JudgedRecipient
from smtpproxy.policy.model import (
    Action,
    Basis,
    ConsentAct,
    Contact,
    Decision,
    Evidence,
    MessageFeatures,
    Origin,
    RecipientFacts,
    Source,
    Stream,
    Suppression,
    Verdict,
)
from smtpproxy.sinks.audit.chain import START, Chain, take_apart
from smtpproxy.sinks.audit.lines import DecisionEntry, LineMaker, decided, read_line

AT = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)

LINE = (
    b'{"hash":"5f272d1c7234e10a0769e26965d98787735850d3dd90d06be69da542a9fa3b86","n":1,'
    b'"entry":{"kind":"decision","id":"01KJKB3Q0020CT1R0RZ1H6E7A8","at":"2026-03-01T10:00:00Z",'
    b'"stage":"data","client":{"listener":"apps","peer":"192.0.2.1","helo":"app.example"},'
    b'"stream":{"name":"offers","purpose":"offers"},"rulebook":"fr","message":{"action":"allow"},'
    b'"recipients":[{"action":"allow","basis":"consent","rule":"consent"}],"size":4096,'
    b'"relayed":true},"personal":[{"salt":"00000000000000000000000000000000",'
    b'"reverse_path":"news@shop.example","features":{"one_click":true},'
    b'"address":"A@b.example","canonical":"a@b.example","facts":{'
    b'"suppressions":[{"scope":"purpose:news","origin":"unsubscribe",'
    b'"since":"2026-03-01T10:00:00Z"}],"contact":{"address":"a@b.example","source":"direct",'
    b'"acts":[{"purpose":"offers","at":"2026-03-01T10:00:00Z","method":"unticked_box",'
    b'"channels":["email"],"evidence":{"wording":"v3"}}]}}}]}\n'
)
"""Fields at their default are not written, so changing a default would change what this means."""

ALLOWED = Verdict(Action.ALLOW, basis=Basis.CONSENT, rule="consent")
MEANT = Decided(
    id="01KJKB3Q0020CT1R0RZ1H6E7A8",
    at=AT,
    stage="data",
    client=Client("apps", "192.0.2.1", "app.example"),
    reverse_path="news@shop.example",
    decision=Decision(
        Stream(name="offers", purpose="offers"), "fr", (ALLOWED,), Verdict(Action.ALLOW)
    ),
    recipients=(JudgedRecipient("A@b.example", "a@b.example", ALLOWED),),
    facts={
        "a@b.example": RecipientFacts(
            (Suppression("purpose:news", Origin.UNSUBSCRIBE, AT),),
            Contact(
                "a@b.example",
                source=Source.DIRECT,
                acts=(
                    ConsentAct(
                        "offers",
                        AT,
                        method="unticked_box",
                        channels=frozenset({"email"}),
                        evidence=Evidence("v3"),
                    ),
                ),
            ),
        )
    },
    features=MessageFeatures(one_click=True),
    size=4096,
    relayed=True,
)


def test_an_old_line_is_read_as_it_was_meant() -> None:
    line = read_line(LINE)
    assert isinstance(line.entry, DecisionEntry)
    assert decided(line, line.entry) == MEANT
    sealed = take_apart(LINE)
    assert sealed.hash_after(START.hash.encode()) == sealed.hash


def test_a_new_line_has_this_format() -> None:
    maker = LineMaker()
    maker._salts.append("0" * 32)
    assert Chain().seal(*maker.decision(MEANT)) == LINE


def test_the_defaults_that_lines_rely_on_are_unchanged() -> None:
    stream = Stream(name="s")
    assert (stream.stream_class, stream.nature, stream.rulebook, stream.mode) == (
        "marketing", "commercial", "fr", "enforce",
    )  # fmt: skip
    assert (stream.one_click_required, stream.paused) == (True, False)
    act = ConsentAct("p", AT)
    assert (act.withdrawal, act.conditional, act.pending) == (False, None, False)
    assert act.channels == {"email"}
    contact = Contact("a@b.example")
    assert (contact.audience, contact.source, contact.optout_offered) == ("unknown", None, None)
    assert Verdict(Action.ALLOW).reason == "none"
    assert MessageFeatures().one_click is False


def test_a_login_name_is_erased_with_the_message() -> None:
    """It may be an address; the queue id and the HELO name identify nobody."""
    client = Client("apps", "192.0.2.1", "app.example", "jeanne@shop.example", "4XyZ")
    for recipients in (MEANT.recipients, MEANT.recipients * 2):
        meant = replace(MEANT, client=client, recipients=recipients)
        meant = replace(
            meant, decision=replace(MEANT.decision, recipients=(ALLOWED,) * len(recipients))
        )
        entry, personal = LineMaker().decision(meant)
        assert b"jeanne@shop.example" not in entry
        assert b'"queue_id":"4XyZ"' in entry
        assert b'"login":"jeanne@shop.example"' in personal[0]
        line = read_line(
            b'{"hash":"","n":1,"entry":%b,"personal":[%b]}' % (entry, b",".join(personal))
        )
        assert isinstance(line.entry, DecisionEntry)
        assert decided(line, line.entry).client == client
