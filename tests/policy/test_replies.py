"""The replies that clients get, exactly as in the design."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.policy.model import Action, Reason, Verdict
from smtpproxy.policy.replies import message_reply, recipient_reply, recipients_reply, reply_codes

ID = "01J9ZK3V5N8Q2W4X6Y7Z8A9B0C"


def refuse(reason: Reason) -> Verdict:
    return Verdict(Action.REFUSE, reason)


def defer(reason: Reason) -> Verdict:
    return Verdict(Action.DEFER, reason)


WITHDRAWN = refuse(Reason.CONSENT_WITHDRAWN)
MISSING = refuse(Reason.CONSENT_MISSING)
NO_RECORD = refuse(Reason.NO_RECORD)
PAUSED = defer(Reason.STREAM_PAUSED)
FAILED = defer(Reason.TEMPORARY_FAILURE)


def test_the_reply_to_a_refused_recipient() -> None:
    reply = recipient_reply("a@b.example", WITHDRAWN, "offers", ID)
    assert reply.encode() == (
        b"550 5.7.1 <a@b.example> refused: consent_withdrawn (stream offers) id=%s\r\n"
        % ID.encode()
    )


def test_the_reply_to_a_deferred_recipient() -> None:
    assert str(recipient_reply("a@b.example", PAUSED, "offers", ID)) == (
        f"450 4.7.0 <a@b.example> deferred: stream_paused (stream offers) id={ID}"
    )
    assert str(recipient_reply("a@b.example", FAILED, "offers", ID)) == (
        f"451 4.3.0 <a@b.example> deferred: temporary_failure (stream offers) id={ID}"
    )


MESSAGES = [
    (refuse(Reason.UNSUBSCRIBE_MISSING), "550 5.7.0 refused: unsubscribe_missing"),
    (refuse(Reason.UNSUBSCRIBE_MALFORMED), "550 5.7.0 refused: unsubscribe_malformed"),
    (refuse(Reason.ONE_CLICK_MISSING), "550 5.7.0 refused: one_click_missing"),
    (refuse(Reason.HEADER_MALFORMED), "554 5.6.0 refused: header_malformed"),
    (refuse(Reason.SENDER_NOT_PERMITTED), "550 5.7.1 refused: sender_not_permitted"),
    (refuse(Reason.STREAM_NOT_PERMITTED), "550 5.7.1 refused: stream_not_permitted"),
    (refuse(Reason.RECIPIENTS_REFUSED), "550 5.7.1 refused: recipients_refused"),
    (defer(Reason.RECIPIENTS_REFUSED), "450 4.7.0 deferred: recipients_refused"),
    (FAILED, "451 4.3.0 deferred: temporary_failure"),
]


@pytest.mark.parametrize(("verdict", "text"), MESSAGES)
def test_replies_to_messages(verdict: Verdict, text: str) -> None:
    assert str(message_reply(verdict, "offers", ID)) == f"{text} (stream offers) id={ID}"


def test_recipients_refused_after_rcpt_are_listed_in_the_reply() -> None:
    named = [("a@x", MISSING), ("b@y", NO_RECORD)]
    assert str(recipients_reply(named, "offers", ID)) == (
        f"550 5.7.1 refused: <a@x> consent_missing, <b@y> no_record (stream offers) id={ID}"
    )


def test_only_refused_recipients_are_named_if_there_are_any() -> None:
    assert str(recipients_reply([("a@x", PAUSED), ("b@y", NO_RECORD)], "offers", ID)) == (
        f"550 5.7.1 refused: <b@y> no_record (stream offers) id={ID}"
    )
    assert str(recipients_reply([("a@x", PAUSED), ("b@y", PAUSED)], "offers", ID)) == (
        f"450 4.7.0 deferred: <a@x> stream_paused, <b@y> stream_paused (stream offers) id={ID}"
    )


def test_a_list_that_is_too_long_is_cut_and_counted() -> None:
    named = [(f"recipient{n:03}@customer.example", MISSING) for n in range(100)]
    line = recipients_reply(named, "offers", ID).encode().decode()
    shown = line.count("<")
    assert 8 <= shown < 100
    assert f" consent_missing and {100 - shown} more (stream offers) id={ID}\r\n" in line
    assert len(line) <= 511
    # nothing that would have fitted is left out
    assert len(line) > 511 - len(", <recipient000@customer.example> consent_missing")


def test_characters_beyond_printable_ascii_are_shown_by_code_point() -> None:
    shown = recipient_reply("jos\u00e9\U0001f600@x", MISSING, "offers", ID).text
    assert shown.startswith("<jos\\x{E9}\\x{1F600}@x> refused:")
    octets = recipient_reply("a\udce9@x", MISSING, "offers", ID).text
    assert octets.startswith("<a\\x{E9}@x> refused:")


def test_nothing_in_an_address_can_end_the_line_or_the_brackets() -> None:
    evil = 'a@x> refused: none\r\n250 2.1.5 ok <\x00\x7f"'
    line = recipient_reply(evil, MISSING, "offers\r\n250 ok", ID + "\r\n").encode()
    assert line.count(b"\r") == line.count(b"\n") == 1
    assert line.count(b"<") == line.count(b">") == 1


def test_a_bracket_in_an_address_is_shown_by_its_code_point() -> None:
    for path, shown in (("a>b@x", "<a\\x{3E}b@x>"), ("a<b@x", "<a\\x{3C}b@x>")):
        assert recipient_reply(path, MISSING, "offers", ID).text.startswith(f"{shown} refused:")


def test_an_address_that_is_too_long_leaves_room_for_the_number_of_the_others() -> None:
    named = [(f"{'a' * 600}@x", MISSING), ("b@x", MISSING)]
    line = recipients_reply(named, "offers", ID).encode()
    assert b"aaa...> consent_missing and 1 more (stream offers)" in line
    assert len(line) <= 511


def test_help_that_does_not_fit_is_left_out() -> None:
    path, url = f"{'a' * 350}@x.example", f"https://consent.example.com/{'w' * 99}"
    without = recipient_reply(path, MISSING, "offers", ID)
    assert recipient_reply(path, MISSING, "offers", ID, url) == without


def test_an_allowed_recipient_has_no_reply_of_ours() -> None:
    with pytest.raises(ValueError, match="allowed"):
        message_reply(Verdict(Action.ALLOW), "offers", ID)
    with pytest.raises(ValueError, match="nobody"):
        recipients_reply([("a@x", Verdict(Action.ALLOW))], "offers", ID)


texts = st.text(st.sampled_from("ab@.<>\\\r\n\0 é\udcff漢😀"), max_size=400) | st.text(max_size=40)
refusals = st.sampled_from([MISSING, WITHDRAWN, PAUSED, FAILED])


@given(texts, refusals, texts, texts)
def test_any_recipient_reply_is_one_line_of_ascii(
    address: str, verdict: Verdict, stream: str, ident: str
) -> None:
    _check(recipient_reply(address, verdict, stream, ident).encode(), verdict)


@given(st.lists(st.tuples(texts, refusals), min_size=1, max_size=20), texts)
def test_any_reply_for_many_is_one_line_of_ascii(
    named: list[tuple[str, Verdict]], stream: str
) -> None:
    worst = next((v for _, v in named if v.action is Action.REFUSE), named[0][1])
    _check(recipients_reply(named, stream, ID).encode(), worst)


urls = st.integers(9, 128).map(lambda n: ("https://consent.example.com/" + "w" * n)[:n])


@given(texts, refusals, st.lists(st.tuples(texts, refusals), min_size=1, max_size=20), urls)
def test_the_help_link_is_added_where_it_fits_and_changes_nothing_else(
    address: str, verdict: Verdict, named: list[tuple[str, Verdict]], url: str
) -> None:
    first = next((v for _, v in named if v.action is Action.REFUSE), named[0][1])
    for bare, helping, reason in (
        (recipient_reply(address, verdict, "offers", ID),
         recipient_reply(address, verdict, "offers", ID, url), verdict.reason),
        (message_reply(verdict, "offers", ID), message_reply(verdict, "offers", ID, url),
         verdict.reason),
        (recipients_reply(named, "offers", ID), recipients_reply(named, "offers", ID, url),
         first.reason),
    ):  # fmt: skip
        with_url = bare.encode()[:-2] + f" see {url}/{reason}\r\n".encode()
        assert helping.encode() == (with_url if len(with_url) <= 511 else bare.encode())


def _check(line: bytes, verdict: Verdict) -> None:
    code, enhanced = reply_codes(verdict)
    assert line.isascii()
    assert len(line) <= 511
    assert line.startswith(f"{code} {enhanced} ".encode())
    assert line.endswith(b"\r\n")
    assert line[:-2].decode().isprintable()
    assert verdict.reason.encode() in line
