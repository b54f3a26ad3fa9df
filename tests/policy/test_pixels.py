"""What is a tracking pixel, and what only looks like one; and a message without them."""

import pytest

from smtpproxy.mail.cutting import CannotCut
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import decode_text, read_texts
from smtpproxy.policy.pixels import find_pixels, pixels_of, without_pixels

TOKEN = "606e942a5af74291533850"
ONE = 'width="1" height="1"'
PIXEL = f'<img src="https://t.example/o/{TOKEN}" width="1" height="1">'

TRACKING = {
    "known, whatever its size": '<img src="https://x.us2.list-manage.com/track/open.php?u=1&amp;e=2">',
    "known by its path": '<IMG SRC="http://u1.ct.example.org/wf/open?upn=abc" alt="">',
    "known, whatever its case": "<img src=HTTPS://L.EMLTRK.COM/x?d=1>",
    "one pixel": '<img src="http://a.example/log.php?m=1" width=1 height=1>',
    "no pixel at all": "<img height='0' width='0' src='//a.example/c?q=fc-Wpom'>",
    "by its style": '<img style="width:1px;height:1px !important" src="https://a.example/o.php">',
    "one side": '<img src="https://a.example/openrate.asp?id=1" height="0">',
    "a token in its name": f'<img src="https://a.example/email/{TOKEN}.gif" width="1" height="1"/>',
    "a token in its path": f'<img src="https://a.example/{TOKEN}/image.gif" width="1" height="1">',
    "a program's name": '<img src="https://a.example/marker" width="1" height="1">',
    "a word": '<img src="https://a.example/images/opens2.gif" width="1" height="1">',
    "hidden": '<img style="display: none" src="https://a.example/track?id=9">',
    "hidden by an attribute": '<img hidden src="https://a.example/opened/9.gif">',
    "on several lines": '<img\r\n src="https://a.example/o?i=1"\r\n width="1"\r\n height="1">',
    "character references": '<img src="http&#58;//a&#46;example/o?i=1" width="1" height="1">',
    "for one program": '<!--[if mso]><img src="//a.example/o?i=1" width=1 height=1><![endif]-->',
    "after a quote that is never closed": '<p title="x>' + PIXEL,
    "a > between quotes": '<img alt="a>b" src="https://a.example/o?i=1" width="1" height="1">',
}
OTHERS = {
    "a picture": '<img src="https://a.example/logo.png" width="200" height="40">',
    "a picture with a query": '<img src="https://a.example/i.png?w=600&h=20" width="600">',
    "a spacer": '<img src="https://a.example/images/spacer.gif" width="1" height="1">',
    "a spacer of a version": f'<img src="https://a.example/spacer.gif?v=20240101" {ONE}>',
    "a spacer in a folder of a hash": f'<img src="https://a.example/{TOKEN}/pixel.gif" {ONE}>',
    "a rule": '<img src="https://a.example/l.php?id=1" width="600" height="1">',
    "a rule by its style": '<img style="width:100%;height:1px" src="https://a.example/l?i=1">',
    "of the message itself": '<img src="cid:o@a.example" width="1" height="1">',
    "in the source": '<img src="data:image/gif;base64,R0lGOD" width="1" height="1">',
    "of nowhere": '<img src="dot.gif?i=1" width="1" height="1">',
    "for another screen": '<img style="display:none" src="https://a.example/mobile.jpg?w=320">',
    "in a comment": f"<!-- {PIXEL} -->",
    "in a style sheet": f"<style>/* {PIXEL} */</style>",
    "in a text": "&lt;img src='https://a.example/o?i=1' width=1 height=1&gt;",
    "another element": '<imgx src="https://a.example/o?i=1" width="1" height="1">',
}


@pytest.mark.parametrize("name", TRACKING)
def test_it_tells_of_an_opening(name: str) -> None:
    (found,) = find_pixels("<html><body><p>Hello</p>" + TRACKING[name] + "</body></html>")
    assert found.pixel.host == found.pixel.host.lower()


@pytest.mark.parametrize("name", OTHERS)
def test_it_tells_of_nothing(name: str) -> None:
    assert not find_pixels("<html><body><p>Hello</p>" + OTHERS[name] + "</body></html>")


ENCODINGS = ["7bit", "8bit", "quoted-printable", "base64"]
CHARSETS = ["utf-8", "iso-8859-1", "windows-1252", "gb18030", "shift_jis", "koi8-r", "big5"]


def message(html: str, encoding: str = "8bit", charset: str = "utf-8") -> tuple[HeaderBlock, bytes]:
    """A text and an HTML part, the one as the other encoded."""
    from tests.mail.test_cutting import encoded

    head = b'Content-Type: multipart/alternative; boundary="b"\r\n\r\n'
    parts = []
    for kind, text in (("plain", "Hello"), ("html", html)):
        parts += [b"--b\r\n", f"Content-Type: text/{kind}; charset={charset}\r\n".encode()]
        parts += [f"Content-Transfer-Encoding: {encoding}\r\n\r\n".encode()]
        parts += [encoded(text.encode(charset, "replace"), encoding.encode())]
    return HeaderBlock(head), b"".join([*parts, b"--b--\r\n"])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("charset", CHARSETS)
def test_a_message_without_them(encoding: str, charset: str) -> None:
    before, after = "<p>\u00e9\u4e2d\u6587\u0416\uff5e</p>\r\n" * 9, "<p>\u00e9t\u00e9</p>"
    headers, body = message(before + PIXEL + PIXEL + after + PIXEL, encoding, charset)
    edited = without_pixels(headers, body)
    was, _ = read_texts(headers, body)
    texts, whole = read_texts(headers, edited)
    assert whole
    assert [text.plain for text in texts] == [True, False]
    assert not pixels_of(texts)
    left = decode_text(texts[1].octets, charset).replace("<!-- -->", "").replace("<!--  -->", "")
    assert left.replace("<!---->", "") == decode_text(was[1].octets, charset).replace(PIXEL, "")
    assert edited[: was[1].start] == body[: was[1].start]
    assert edited.endswith(b"--b--\r\n")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Type: multipart/signed; boundary=b\r\n\r\n", b"--b\r\n%b\r\n--b--\r\n"),
        (b"Content-Type: text/html; charset=utf-16\r\n\r\n", None),
    ],
)
def test_what_cannot_be_taken_out(head: bytes, body: bytes | None) -> None:
    part = b"Content-Type: text/html\r\n\r\n" + PIXEL.encode()
    content = PIXEL.encode("utf-16") if body is None else body % part
    assert pixels_of(read_texts(HeaderBlock(head), content)[0])
    with pytest.raises(CannotCut):
        without_pixels(HeaderBlock(head), content)


def test_the_beginning_of_a_message_is_cut_only_where_it_surely_ends() -> None:
    headers, body = message("x" * 100 + PIXEL, "base64")
    beginning = body[: body.rindex(b"\r\n--b--")]
    with pytest.raises(CannotCut):
        without_pixels(headers, beginning, whole=False)
