import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.unsubscribe import UnsubscribeUris, is_one_click, read_unsubscribe

WEB = "https://unsubscribe.example.com/u/A1?x=1"
MAIL = "mailto:unsubscribe+a1@example.com?subject=unsubscribe"

READ = [
    (f"<{WEB}>", (WEB,), ()),
    (f"<{WEB}>, <{MAIL}>", (WEB,), (MAIL,)),
    (f"<{MAIL}>,<{WEB}>", (WEB,), (MAIL,)),
    (f"(to leave) <{WEB}> (or (write)),\t<{MAIL}> (!)", (WEB,), (MAIL,)),
    # folding and poor mail programs put white space into URIs
    ("<https://example.com/a \t b>", ("https://example.com/ab",), ()),
    ("<HTTPS://EXAMPLE.COM>, <MAILTO:a@b>", ("HTTPS://EXAMPLE.COM",), ("MAILTO:a@b",)),
    ("<https://u@h:443/?q#f>", ("https://u@h:443/?q#f",), ()),
    ("<https://[2001:db8::1]/>", ("https://[2001:db8::1]/",), ()),
    ("<mailto:%61%40b>, <mailto:a@b,c@d>", (), ("mailto:%61%40b", "mailto:a@b,c@d")),
    # reading stops where the list ends
    (f"<{WEB}> or <{MAIL}>", (WEB,), ()),
    (f"<{WEB}>; <{MAIL}>", (WEB,), ()),
    (f"<{WEB}>, {MAIL}", (WEB,), ()),
    (f"<{WEB}>, <{MAIL}", (WEB,), ()),
    (f"<{WEB}> (open, <{MAIL}>", (WEB,), ()),
    # not usable
    (WEB, (), ()),
    (f"unsubscribe: <{WEB}>", (), ()),
    ("<http://example.com/>, <ftp://example.com/>", (), ()),
    ("<https://>, <https:///x>, <https:example.com>, <https://?x>, <https://:443/>", (), ()),
    ("<mailto:>, <mailto:?to=a@b>, <mailto:nobody>, <mailto:a b@c>", (), ("mailto:ab@c",)),
    ("<https://café.example/>, <https://example.com/é>", (), ()),
    ("<>", (), ()),
    ("NO", (), ()),
    ("", (), ()),
    (f"<{WEB}>," * 2000, (), ()),
]


@pytest.mark.parametrize(("value", "https", "mailto"), READ)
def test_usable_ways_out(value: str, https: tuple[str, ...], mailto: tuple[str, ...]) -> None:
    assert read_unsubscribe(value.encode()) == UnsubscribeUris(https, mailto)


ENCODED = [
    "=?us-ascii?Q?=3Chttps=3A=2F=2Funsubscribe=2Eexample=2Ecom=2Fu=2FA1=3Fx=3D1=3E?=",
    "=?utf-8?q?=3Chttps=3A//unsubscribe.example?= =?utf-8?q?.com/u/A1=3Fx=3D1=3E?=",
    "=?UTF-8?B?PGh0dHBzOi8vdW5zdWJzY3JpYmUuZXhhbXBsZS5jb20vdS9BMT94PTE+?=",
    "<=?iso-2022-jp?B?aHR0cHM6Ly91bnN1YnNjcmliZS5leGFtcGxlLmNvbS91L0ExP3g9MQ?=>",
    "<https://unsubscribe.example.com/u/=?x-unknown*fr?q?A1=3Fx=3D1?=>",
]


@pytest.mark.parametrize("value", ENCODED)
def test_encoded_words_are_decoded_and_told(value: str) -> None:
    assert read_unsubscribe(value.encode()) == UnsubscribeUris((WEB,), (), encoded=True)


EXACT = [
    b" List-Unsubscribe=One-Click\r\n",
    b"List-Unsubscribe=One-Click\r\n",
    b"\tList-Unsubscribe=One-Click\r\n",
    b" List-Unsubscribe=One-Click",
    b"\r\n List-Unsubscribe=One-Click\r\n",
]
INEXACT = [
    b"",
    b" \r\n",
    b"  List-Unsubscribe=One-Click\r\n",
    b" \r\n List-Unsubscribe=One-Click\r\n",
    b" List-Unsubscribe=One-Click \r\n",
    b" List-Unsubscribe=One-Click\r\n \r\n",
    b" List-Unsubscribe=one-click\r\n",
    b" list-unsubscribe=one-click\r\n",
    b" List-Unsubscribe = One-Click\r\n",
    b" List-Unsubscribe=One-Click;\r\n",
    b' "List-Unsubscribe=One-Click"\r\n',
    b" List-Unsubscribe=One-Click, List-Unsubscribe=One-Click\r\n",
    b" =?utf-8?q?List-Unsubscribe=3DOne-Click?=\r\n",
    b" List-\r\n Unsubscribe=One-Click\r\n",
]


@pytest.mark.parametrize("value", EXACT)
def test_one_click_with_at_most_one_space(value: bytes) -> None:
    assert is_one_click(value)


@pytest.mark.parametrize("value", INEXACT)
def test_anything_else_is_not_one_click(value: bytes) -> None:
    assert not is_one_click(value)


@given(st.text("<>,() \\=?utf-8bqQA:/.@%4\xe9", max_size=60).map(str.encode))
def test_any_value_is_read_and_what_is_usable_is_ascii_in_brackets(value: bytes) -> None:
    read = read_unsubscribe(value)
    for uri in read.https + read.mailto:
        assert uri.isascii()
        assert not set(uri) & set("<> \t")


@given(st.permutations([WEB, MAIL, "http://example.com/", "https://b.example"]))
def test_the_order_of_preference_is_kept(uris: list[str]) -> None:
    read = read_unsubscribe(", ".join(f"<{uri}>" for uri in uris).encode())
    assert list(read.https) == [uri for uri in uris if uri.startswith("https:")]
    assert read.mailto == (MAIL,)
