"""Which header fields are signed, and in which form."""

import dkim

from smtpproxy.mail.dkim_canonical import ALWAYS, SIGNED, hashed_fields, to_sign
from smtpproxy.mail.headers import HeaderBlock

HEADER = HeaderBlock(
    b"Received: by a\r\nFrom: Shop\r\n <a@shop.example> \r\nSUBJECT:  two\t words \r\n"
    b"List-Id: <x>\r\nFeedback-ID: 1:a:b\r\nReply-To: c\r\nReply-To: d\r\nReceived: by b\r\n\r\n"
)


def test_fields_dkimpy_recommends_are_signed_and_those_it_warns_of_are_not() -> None:
    assert set(dkim.DKIM.SHOULD) <= SIGNED
    assert not set(dkim.DKIM.SHOULD_NOT) & SIGNED
    assert set(dkim.DKIM.FROZEN) <= set(ALWAYS) <= SIGNED


def test_nobody_can_add_a_second_from_or_list_unsubscribe() -> None:
    names, hashed = to_sign(HEADER.values_by_name(SIGNED))
    assert hashed == hashed_fields(names, HEADER.raw_fields(SIGNED))
    assert names.count(b"from") == 2
    assert names.count(b"subject") == 2
    assert names.count(b"list-id") == 2
    assert names.count(b"feedback-id") == 2
    assert names.count(b"reply-to") == 2
    for absent in (b"to", b"list-unsubscribe", b"list-unsubscribe-post"):
        assert names.count(absent) == 1
    assert b"received" not in names
    assert b"date" not in names  # a later server may add a missing Date


def test_relaxed_fields_equal_dkimpys_from_the_bottom_up() -> None:
    header = HeaderBlock(b"To: one\r\nto :  two \r\nFrom:\ta\r\n\tb\r\nTO: three\r\n\r\n")
    fields = header.raw_fields({b"to", b"from"})
    relaxed = hashed_fields([b"to", b"from", b"to", b"from", b"to", b"to"], fields)
    assert relaxed == b"to:three\r\nfrom:a b\r\nto:two\r\nto:one\r\n"
    simple = hashed_fields([b"to", b"from", b"to"], fields, relaxed=False)
    assert simple == b"TO: three\r\nFrom:\ta\r\n\tb\r\nto :  two \r\n"
