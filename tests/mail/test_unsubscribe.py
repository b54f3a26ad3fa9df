import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproxy.mail import unsubscribe
from smtpproxy.mail.unsubscribe import (
    UnsubscribeUris,
    is_one_click,
    plain_unsubscribe,
    read_unsubscribe,
)

WEB = "https://unsubscribe.shop.example/u/A1?x=1"
MAIL = "mailto:unsubscribe+a1@shop.example?subject=unsubscribe"

READ = [
    (f"<{WEB}>", (WEB,), ()),
    (f"<{WEB}>, <{MAIL}>", (WEB,), (MAIL,)),
    (f"<{MAIL}>,<{WEB}>", (WEB,), (MAIL,)),
    (f"(to leave) <{WEB}> (or (write)),\t<{MAIL}> (!)", (WEB,), (MAIL,)),
    # folding and careless mail programs put white space into URIs
    ("<https://shop.example/a \t b>", ("https://shop.example/ab",), ()),
    (
        "<HTTPS://SHOP.EXAMPLE>, <MAILTO:a@b.test>",
        ("HTTPS://SHOP.EXAMPLE",),
        ("MAILTO:a@b.test",),
    ),
    ("<https://u@h.example:443/?q#f>", ("https://u@h.example:443/?q#f",), ()),
    (
        "<mailto:%61%40b.test>, <mailto:a@b.test,c@d.test>",
        (),
        ("mailto:%61%40b.test", "mailto:a@b.test,c@d.test"),
    ),
    # reading stops at the end of the list
    (f"<{WEB}> or <{MAIL}>", (WEB,), ()),
    (f"<{WEB}>; <{MAIL}>", (WEB,), ()),
    (f"<{WEB}>, {MAIL}", (WEB,), ()),
    (f"<{WEB}>, <{MAIL}", (WEB,), ()),
    (f"<{WEB}> (open, <{MAIL}>", (WEB,), ()),
    # not usable
    (WEB, (), ()),
    (f"unsubscribe: <{WEB}>", (), ()),
    ("<http://shop.example/>, <ftp://shop.example/>", (), ()),
    ("<https>, <mailto>", (), ()),
    ("<>", (), ()),
    ("NO", (), ()),
    ("", (), ()),
    (f"<{WEB}>," * 2000, (), ()),
]


@pytest.mark.parametrize(("value", "https", "mailto"), READ)
def test_usable_ways_out(value: str, https: tuple[str, ...], mailto: tuple[str, ...]) -> None:
    assert read_unsubscribe(value.encode()) == UnsubscribeUris(https, mailto)


FAULTS = [
    ("<https:///x>", "host", ""),
    ("<https:shop.example>", "host", ""),
    ("<https://:443/>", "host", ""),
    ("<mailto:>", "address", ""),
    ("<mailto:?to=a@b.example>", "address", ""),
    ("<mailto:nobody>", "address", "nobody"),
    (f"<{WEB}>, <mailto:a@b.example,c>", "address", "c"),
    # leftovers of a template
    ("<https://u.example/{{unsubscribe_token}}>", "placeholder", "{{unsubscribe_token}}"),
    ("<https://u.example/{{ token }}>", "placeholder", "{{token}}"),
    ("<https://u.example/{{{token}}}>", "placeholder", "{{token}}"),
    ("<https://u.example/{%token%}>", "placeholder", "{%token%}"),
    ("<https://u.example/${token}>", "placeholder", "${token}"),
    ("<https://u.example/#{token}>", "placeholder", "#{token}"),
    ("<https://u.example/{token}>", "placeholder", "{token}"),
    ("<https://u.example/%7B%7Btoken%7D%7D>", "placeholder", "%7B%7Btoken%7D%7D"),
    ("<https://u.example/?t=%7Btoken%7D>", "placeholder", "%7Btoken%7D"),
    ("<*|UNSUB|*>", "placeholder", "*|UNSUB|*"),
    ("*|UNSUB|*", "placeholder", "*|UNSUB|*"),
    ("<https://u.example/?e=*%7CEMAIL%7C*>", "placeholder", "*%7CEMAIL%7C*"),
    ("<%%unsub_url%%>", "placeholder", "%%unsub_url%%"),
    ("<https://u.example/%%unsub_url%%>", "placeholder", "%%unsub_url%%"),
    ("<%unsubscribe_url%>", "placeholder", "%unsubscribe_url%"),
    ("<[unsubscribe]>", "placeholder", "[unsubscribe]"),
    ("[unsubscribe]", "placeholder", "[unsubscribe]"),
    ("see [unsubscribe]", "placeholder", "[unsubscribe]"),
    ("<https://[unsubscribe]>", "placeholder", "[unsubscribe]"),
    ("<https://u.example/[[token]]>", "placeholder", "[[token]]"),
    ("<https://u.example/__UNSUB_TOKEN__>", "placeholder", "__UNSUB_TOKEN__"),
    ("<https://u.example/##token##>", "placeholder", "##token##"),
    ("<https://u.example/%5B%5Btoken%5D%5D>", "placeholder", "%5B%5Btoken%5D%5D"),
    ("<https://u.example/?t=%3C%25=token%25%3E&a=b>", "placeholder", "%3C%25=token%25%3E"),
    ("<https://u.example/?t=$token&a=b>", "placeholder", "$token"),
    ("<https://u.example/%s>", "placeholder", "%s"),
    ("<https://u.example/%1$s/out>", "placeholder", "%1$s"),
    (f"<{WEB}>, <mailto:stop-{{id}}@shop.example>", "placeholder", "{id}"),
    ("<mailto:stop@shop.example>, <{{unsubscribe_url}}>", "placeholder", "{{unsubscribe_url}}"),
    # not a URI
    ("<https://caf\u00e9.example/>", "characters", "\u00e9"),
    (f"<https://shop.example/\u00e9>, <{MAIL}>", "characters", "\u00e9"),
    ("<https://shop.example/a|b>", "characters", "|"),
    ('<https://shop.example/a"b>', "characters", '"'),
    ("<https://shop.example/a\\b>", "characters", "\\"),
    ("<https://shop.example/%zz>", "characters", "%zz"),
    ("<https://shop.example/100%>", "characters", "%"),
    ("<https://shop.example/?a[b]=c>", "characters", "["),
    ("<https://shop.example/#a#b>", "characters", "#"),
    ("<mailto:stop@shop.example?subject=caf\u00e9>", "characters", "\u00e9"),
    # private networks
    ("<https://localhost/u>", "host", "localhost"),
    ("<https://localhost:8025/u>", "host", "localhost"),
    ("<https://localhost/u>, <{{unsubscribe_url}}>", "host", "localhost"),
    ("<https://app.localhost/u>", "host", "app.localhost"),
    ("<https://127.0.0.1/u>", "host", "127.0.0.1"),
    ("<https://0x7f.0.0.0x1/u>", "host", "0x7f.0.0.0x1"),
    ("<https://[2001:db8::1]/>", "host", "[2001:db8::1]"),
    ("<https://[192.0.2.1]/>", "host", "[192.0.2.1]"),
    ("<https://user@[::1]:443/>", "host", "[::1]:443"),
    ("<https://intranet/u>", "host", "intranet"),
    ("<https://mail.local/u>", "host", "mail.local"),
    ("<https://mail.localdomain/u>", "host", "mail.localdomain"),
    ("<https://example.com/u>", "host", "example.com"),
    ("<https://www.Example.ORG./u>", "host", "www.Example.ORG."),
    ("<mailto:stop@example.net>", "host", "example.net"),
    ("<mailto:stop@localhost>", "host", "localhost"),
    ("<mailto:stop@%5B192.0.2.1%5D>", "host", "[192.0.2.1]"),
    ("<https://a..example/>", "host", "a..example"),
    ("<https://-a.example/>", "host", "-a.example"),
    ("<https://shop.example:8o/>", "host", "shop.example:8o"),
    ("<https://shop.example:65536/>", "host", "shop.example:65536"),
]


@pytest.mark.parametrize(("value", "kind", "found"), FAULTS)
def test_unusable_links(value: str, kind: str, found: str) -> None:
    fault = read_unsubscribe(value.encode()).fault
    assert fault is not None
    assert (fault.kind, fault.found) == (kind, found)


GOOD = [
    "https://u.shop.example/u/AZm2_-x.~!$&'()*+,;=:@/%7E?a=1&b=%C3%A9/?#top",
    "https://u.shop.example/%7B0F8FAD5B-D9CB-469F-A165-70867728950E%7D",
    "https://u.shop.example/?j=%7B%22a%22%3A1%7D&x=%20foo%20",
    "https://u.shop.example/u/a__b__c-__Ab3_",
    "https://u.shop.example/?u=user%5Bid%5D%3D1",
    "https://u.shop.example/$2y$10$abc/x?$skip=1&h=$argon2id$v",
    "https://myexample.com/u",
    "https://shop.4example:65535/u",
    "https://shop.example?u=1",
    "https://example.co/u",
    "https://xn--caf-dma.test:8443",
    "https://my_app.shop.example/",
    "mailto:stop+1%2B2@shop.example?subject=unsubscribe%20AZm2&body=x",
    "mailto:leave-12-*@lists.shop.example",
]


@pytest.mark.parametrize("uri", GOOD)
def test_usable_links(uri: str) -> None:
    read = read_unsubscribe(f"<{uri}>".encode())
    assert (read.fault, read.https + read.mailto) == (None, (uri,))


def test_a_field_is_written_without_encoded_words() -> None:
    word = "=?utf-8?q?=3C" + WEB.replace("=", "=3D").replace("?", "=3F") + "=3E?="
    value = f"(to leave) {word}, <{MAIL}>".encode()
    assert read_unsubscribe(value).encoded
    plain = plain_unsubscribe(value)
    assert plain == f"<{WEB}>,\r\n <{MAIL}>".encode()
    for never in (b"", b"=?utf-8?q?=3Chttps=3A//u=2Eexample/=C3=A9=3E?=", b"<" + b"x" * 999 + b">"):
        assert plain_unsubscribe(never) is None


ENCODED = [
    "=?us-ascii?Q?=3Chttps=3A=2F=2Funsubscribe=2Eshop=2Eexample=2Fu=2FA1=3Fx=3D1=3E?=",
    "=?utf-8?q?=3Chttps=3A//unsubscribe.shop?= =?utf-8?q?.example/u/A1=3Fx=3D1=3E?=",
    "=?UTF-8?B?PGh0dHBzOi8vdW5zdWJzY3JpYmUuc2hvcC5leGFtcGxlL3UvQTE/eD0xPg?=",
    "<=?iso-2022-jp?B?aHR0cHM6Ly91bnN1YnNjcmliZS5zaG9wLmV4YW1wbGUvdS9BMT94PTE?=>",
    "<https://unsubscribe.shop.example/u/=?x-unknown*fr?q?A1=3Fx=3D1?=>",
]


@pytest.mark.parametrize("value", ENCODED)
def test_encoded_words_are_decoded_and_reported(value: str) -> None:
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


odd_text = st.text("<>,() \\=?utf-8bqQA:/.@%4\xe9", max_size=60)
odd_links = st.builds(
    "{}{}{}".format,
    st.sampled_from(["https://u.shop.test/", "mailto:stop@shop.test?", "https://u.shop.test"]),
    st.text("/?=._-+&%1a:@", max_size=9),
    st.sampled_from(["", "", "\r\n ", "\t", "\xe9", "(a)", "=?utf-8?q?x?=", " <b>"]),
)


@given(st.one_of(odd_text, st.lists(odd_links, min_size=1).map(lambda x: f"<{'>, <'.join(x)}>")))
def test_any_value_is_read_and_usable_links_are_bracketed_ascii(text: str) -> None:
    value = text.encode()
    read = read_unsubscribe(value)
    for uri in read.https + read.mailto:
        assert uri.isascii()
        assert not set(uri) & set("<> \t")


@given(st.permutations([WEB, MAIL, "http://shop.example/", "https://b.example"]))
def test_the_order_of_preference_is_kept(uris: list[str]) -> None:
    read = read_unsubscribe(", ".join(f"<{uri}>" for uri in uris).encode())
    assert list(read.https) == [uri for uri in uris if uri.startswith("https:")]
    assert read.mailto == (MAIL,)


uri_parts = st.sampled_from(
    [
        *("https://", "mailto:", "u.shop.test", "shop", "example.com", "stop", "@", "/", "?", "="),
        *("_", "__", "unsub", "mail", ".", "-", "+", "&", ":", ";", ",", "%", "#", "a" * 70, "1"),
        *(">, <", ">,<", "><", "(", "=?utf-8?q?x?=", " ", "\t"),
    ]
)


@given(
    st.sampled_from(["", "https://u.shop.test/", "mailto:stop@shop.test"]),
    st.lists(uri_parts, max_size=14).map("".join),
)
def test_the_fast_path_for_plain_fields_reads_alike(start: str, uris: str) -> None:
    value = f"<{start}{uris}>"
    assert read_unsubscribe(value.encode()) == unsubscribe._read_any(value)


@given(st.from_regex(unsubscribe._PLAIN, fullmatch=True))
@example("<https://u.shop.test/?t=?utf-8?q?x?=>")
@example("<https://u.shop.test/__unsub_link__>")
@example("<mailto:a@shop.test>, <https://example.com>")
def test_fields_that_only_look_plain_are_read_alike(value: str) -> None:
    assert read_unsubscribe(value.encode()) == unsubscribe._read_any(value)
