import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.mime import decode_words

DECODED = [
    ("plain text", "plain text"),
    ("=?utf-8?Q?Caf=C3=A9_=3A_menu?=", "Café : menu"),
    ("=?UTF-8?b?Q2Fmw6k=?=", "Café"),
    ("=?UTF-8?b?Q2Fmw6k?=", "Café"),
    ("=?iso-8859-1?q?Caf=E9?= today", "Café today"),
    ("=?iso-8859-1?q?L=92=E9t=E9?=", "L’été"),  # Windows characters
    ("=?iso-8859-15*fr?q?5_=A4?=", "5 €"),
    ("=?koi8-r?B?8NLJ18XU?=", "Привет"),
    ("a =?utf-8?q?b?= c =?utf-8?q?d?= e", "a b c d e"),
    # white space between two encoded words is dropped
    ("=?utf-8?q?a?= \t =?utf-8?q?b?=", "ab"),
    ("=?utf-8?q?a?= =?iso-8859-1?q?=E9?=", "aé"),
    ("=?iso-8859-1?q?=E9?= =?utf-8?q?=C3=A9?=", "éé"),
    # one character split across two words
    ("=?utf-8?q?Caf=C3?= =?utf-8?q?=A9?=", "Café"),
    # an unknown charset, or a codec that is not a charset
    ("=?x-none?q?abc=E9?=", "abcé"),
    ("=?idna?q?xn--mnchen-3ya?=", "xn--mnchen-3ya"),
    ("=?rot13?q?nop?=", "nop"),
    # words that cannot be decoded stay
    ("=?utf-8?b?!?=", ""),
    ("=?utf-8?b?A?=", "=?utf-8?b?A?="),
    ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
    ("=?utf-8?q?é?=", "=?utf-8?q?é?="),
    ("=?utf-8?q?a", "=?utf-8?q?a"),
    ("=?utf-8?q?=FF?=", "\ufffd"),
]


@pytest.mark.parametrize(("text", "expected"), DECODED)
def test_decode(text: str, expected: str) -> None:
    assert decode_words(text) == expected


@given(st.text("=?utf-8qQbB_A4 é\t", max_size=60))
def test_any_text_is_decoded_without_an_error(text: str) -> None:
    decoded = decode_words(text)
    if "=?" not in text:
        assert decoded == text
