"""Tracking pixels, pictures that only look like one, and removing the pixels."""

import time
from base64 import encodebytes
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP

import pytest

from smtpproxy.mail.cutting import CannotCut
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import decode_text, read_body, read_texts
from smtpproxy.policy.pixels import find_pixels, pixels_of, without_pixels

TOKEN = "606e942a5af74291533850"
ONE = 'width="1" height="1"'
BLANKS = " " * 20
PIXEL = f'<img src="https://t.example/o/{TOKEN}" width="1" height="1">'

UUID = "3F2504E0-4f89-41d3-9a0c-0305e82c3301"
TRACKING = {
    "known, whatever its size": '<img src="https://x.us2.list-manage.com/track/open.php?u=1&amp;e=2">',
    "known by its path": '<IMG SRC="http://u1.ct.example.org/wf/open?upn=abc" alt="">',
    "known, whatever its case": "<img src=HTTPS://L.EMLTRK.COM/x?d=1>",
    "known by its ids": f'<img src="https://l.example/campaign/{UUID}/{UUID}/px.png" alt="" />',
    "known by its query": '<img src="//w.example/?mailpoet_router&amp;endpoint=track&amp;data=W">',
    "known by two ids": '<img src="https://o.example/mail/track/9/6f1e/blank.gif"/>',
    "known by a task": (
        '<img src="https://j.example/index.php?option=com_acym&amp;ctrl=frontstats&amp;task=openStats'
        '&amp;id=5" width="50" height="1">'
    ),
    "one pixel": '<img src="http://a.example/log.php?m=1" width=1 height=1>',
    "no pixel at all": "<img height='0' width='0' src='//a.example/c?q=fc-Wpom'>",
    "by its style": '<img style="width:1px;height:1px !important" src="https://a.example/o.php">',
    "one side": '<img src="https://a.example/openrate.asp?id=1" height="0">',
    "a token in its name": f'<img src="https://a.example/email/{TOKEN}.gif" width="1" height="1"/>',
    "a token in its path": f'<img src="https://a.example/{TOKEN}/image.gif" width="1" height="1">',
    "a program's name": '<img src="https://a.example/marker" width="1" height="1">',
    "a word": '<img src="https://a.example/images/opens2.gif" width="1" height="1">',
    "hidden": '<img style="display: none" src="https://a.example/track?id=9">',
    "transparent": '<img style="opacity:0" src="https://a.example/track?id=9">',
    "a query of its own": f'<img src="https://a.example/spacer.gif?id=77" {ONE}>',
    "a style that says nothing": f'<img style="width:;height:" src="//a.example/o?i=1" {ONE}>',
    "hidden by an attribute": '<img hidden src="https://a.example/opened/9.gif">',
    "on several lines": '<img\r\n src="https://a.example/o?i=1"\r\n width="1"\r\n height="1">',
    "character references": '<img src="http&#58;//a&#46;example/o?i=1" width="1" height="1">',
    "for one program": '<!--[if mso]><img src="//a.example/o?i=1" width=1 height=1><![endif]-->',
    "of AMP": '<amp-img src="https://a.example/o?i=1" width="1" height="1"></amp-img>',
    "of Outlook": '<!--[if mso]><v:fill src="https://l.emltrk.com/x?d=1"/><![endif]-->',
    "behind a long name": f'<img data-{"x" * 30}src="//a.example/" src="//a.example/o" {ONE}>',
    "by a style with many blanks": f'<img src="//a.example/o" style="width:{BLANKS}1{BLANKS}px">',
    "with many blanks": f'<img src{BLANKS}=\n{BLANKS}"https://a.example/o?i=1" {ONE}>',
    "behind a blank of no HTML": f'<img a\xa0src="https://a.example/" src="//a.example/o" {ONE}>',
    "after a quote that is never closed": '<p title="x>' + PIXEL,
    "the other name of img": f'<image src="https://a.example/o?i=1" {ONE}>',
    "a button": f'<input type="IMAGE" src="https://a.example/o?i=1" {ONE}>',
    "srcset alone": f'<img srcset="https://a.example/o?i=1 1x" {ONE}>',
    "srcset beside a harmless file": (
        f'<img src="https://a.example/spacer.gif" srcset="https://a.example/s.gif,'
        f' https://a.example/o?i=1 2x" {ONE}>'
    ),
    "a source of a picture": (
        '<picture><source srcset="https://l.emltrk.com/x?d=1"><img src="cid:1"></picture>'
    ),
    "no slashes": f'<img src="https:a.example/o?i=1" {ONE}>',
    "one slash": f'<img src="https:/a.example/o?i=1" {ONE}>',
    "three slashes": f'<img src="https:///a.example/o?i=1" {ONE}>',
    "a known background": '<div style="background:url(https://l.emltrk.com/x?d=1)">x</div>',
    "a background of one pixel": (
        "<div style=\"width:1px;height:1px;background-image: url( 'https://a.example/o?i=1' )\">"
    ),
    "a picture before a list": '<ul style="list-style-image:URL(https://l.emltrk.com/x?d=1)">',
    "a background attribute": f'<TD BACKGROUND="https://a.example/o?i=1" {ONE}>',
    "a background with character references": (
        '<p style="width:0;height:0;background:url(&quot;https://a.example/o?i=1&quot;)">x</p>'
    ),
    "a background that says so": (
        '<table background="https://a.example/track/open.php?u=77"><tr><td>x</td></tr></table>'
    ),
    "after an odd end of a comment": "<!-- a --!>" + PIXEL,
    "after a comment in a value": '<p title="<!--">a</p>' + PIXEL,
    "after a style sheet in a value": "<a title='<style>' href='/'>a</a>" + PIXEL,
    "after a script that is no element": "<scripted>" + PIXEL,
    "after a declaration": "<!DOCTYPE html><?xml?><![endif]>" + PIXEL,
    "after a value without quotes": "<p title=it's>a</p>" + PIXEL,
    "after a style sheet": "<style type='text/css'>p { color: red }</style>" + PIXEL,
    "after a long picture": f'<img src="data:image/png;base64,{"A" * 20_000}">' + PIXEL,
    "a > between quotes": '<img alt="a>b" src="https://a.example/o?i=1" width="1" height="1">',
}
OTHERS = {
    "a picture": '<img src="https://a.example/logo.png" width="200" height="40">',
    "a picture with a query": '<img src="https://a.example/i.png?w=600&h=20" width="600">',
    "a spacer": '<img src="https://a.example/images/spacer.gif" width="1" height="1">',
    "a spacer of a version": f'<img src="https://a.example/spacer.gif?v=20240101" {ONE}>',
    "a spacer with an empty query": f'<img src="https://a.example/spacer.gif?" {ONE}>',
    "a background of a file that is called so": (
        '<td background="https://a.example/images/open.gif?v=2" width="600">x</td>'
    ),
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
    "in a value": f"<p title='{PIXEL}'>a</p>",
    "in a style sheet with attributes": f"<style media='all'>{PIXEL}</style>",
    "a button without a picture": f'<input type="text" src="https://a.example/o?i=1" {ONE}>',
    "a background": '<td background="https://a.example/images/paper.jpg" width="600">x</td>',
    "a background with a query": (
        '<div style="background:#fff url(https://a.example/hero.jpg?w=600&h=300) no-repeat">'
    ),
    "a background in a folder of openings": (
        '<td background="https://a.example/openings/door.jpg?id=9">x</td>'
    ),
    "a line as wide as the page": (
        '<td height="1" style="background:url(https://a.example/line?c=ccc)"></td>'
    ),
    "a background of the message itself": f'<td background="cid:a@a.example" {ONE}>',
    "a spacer in a background": f'<td background="https://a.example/spacer.gif" {ONE}>',
    "two sizes of a picture": (
        '<img src="https://a.example/a.png" srcset="https://a.example/a.png?w=1200 2x" width="600">'
    ),
    "another protocol": f'<img src="ftp:a.example/o?i=1" {ONE}>',
    "another element": '<imgx src="https://a.example/o?i=1" width="1" height="1">',
}


@pytest.mark.parametrize("name", TRACKING)
def test_these_pictures_track_opening(name: str) -> None:
    (found,) = find_pixels("<html><body><p>Hello</p>" + TRACKING[name] + "</body></html>")
    assert found.pixel.host == found.pixel.host.lower()


@pytest.mark.parametrize(
    ("name", "sign"),
    [("known, whatever its size", "known"), ("one pixel", "tiny"), ("hidden", "hidden")],
)
def test_which_sign_marks_a_pixel(name: str, sign: str) -> None:
    (found,) = find_pixels(TRACKING[name])
    assert found.pixel.sign == sign


@pytest.mark.parametrize("name", OTHERS)
def test_these_pictures_track_nothing(name: str) -> None:
    assert not find_pixels("<html><body><p>Hello</p>" + OTHERS[name] + "</body></html>")


@pytest.mark.parametrize("count", [998, 999, 1_000, 1_001, 120_000])
def test_a_pixel_is_found_after_any_number_of_meaningless_tags(count: int) -> None:
    """A thousand of them at a time are skipped and count as one."""
    (found,) = find_pixels("<b>" * count + PIXEL)
    assert found.pixel.host == "t.example"


@pytest.mark.parametrize("end", ["", " ", "\r\n", " alt='"])
def test_a_pixel_left_unclosed_at_the_end_is_found(end: str) -> None:
    (found,) = find_pixels("<html><body><p>Hello</p>" + PIXEL[:-1] + end)
    assert found.pixel.host == "t.example"


ENCODINGS = ["7bit", "8bit", "quoted-printable", "base64"]
CHARSETS = ["utf-8", "iso-8859-1", "windows-1252", "gb18030", "shift_jis", "koi8-r", "big5"]


def message(html: str, encoding: str = "8bit", charset: str = "utf-8") -> tuple[HeaderBlock, bytes]:
    """A message with a text and an HTML part, both encoded alike."""
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
def test_pixels_are_removed_from_a_message(encoding: str, charset: str) -> None:
    before, after = "<p>\u00e9\u4e2d\u6587\u0416\uff5e</p>\r\n" * 9, "<p>\u00e9t\u00e9</p>"
    headers, body = message(before + PIXEL + PIXEL + after + PIXEL, encoding, charset)
    edited = without_pixels(headers, body)
    was, _, _ = read_texts(headers, body)
    texts, whole, _ = read_texts(headers, edited)
    assert whole
    assert [text.plain for text in texts] == [True, False]
    assert not pixels_of(texts)
    left = decode_text(texts[1].octets, charset).replace("<!-- -->", "").replace("<!--  -->", "")
    assert left.replace("<!---->", "") == decode_text(was[1].octets, charset).replace(PIXEL, "")
    assert edited[: was[1].start] == body[: was[1].start]
    assert edited.endswith(b"--b--\r\n")


BACKGROUND = '<td width="600" background="https://l.emltrk.com/x?d=1">'
STYLE = "<p style='color:red;background:url(https://a.example/track/open?u=7) 0 0'>"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_background_is_removed_and_its_element_stays(encoding: str) -> None:
    headers, body = message(f"<tr>{BACKGROUND}a</td></tr>{STYLE}b</p>{PIXEL}c", encoding)
    edited, _, _ = read_texts(headers, without_pixels(headers, body))
    left = edited[1].octets.decode().replace(" ", "").strip()
    assert left == (
        '<tr><tdwidth="600"background="data:,">a</td></tr>'
        "<pstyle='color:red;background:url(data:,)00'>b</p><!---->c"
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_content_for_outlook_alone_stays_hidden_from_others(encoding: str) -> None:
    """A comment inside would end the conditional comment and show the rest to everybody."""
    outlook = f"<!--[if mso]>{PIXEL}<p>Outlook</p>{PIXEL}<![endif]-->"
    others = f"<!--[if !mso]><!-->{PIXEL}<p>others</p><!--<![endif]-->"
    headers, body = message(f"{PIXEL}{outlook}{others}{outlook}{PIXEL}c", encoding)
    edited, _, _ = read_texts(headers, without_pixels(headers, body))
    left = edited[1].octets.decode().replace(" ", "").strip()
    empty = "<!--[ifmso]><a></a><p>Outlook</p><a></a><![endif]-->"
    assert left == (
        f"<!---->{empty}<!--[if!mso]><!--><!----><p>others</p><!--<![endif]-->{empty}<!---->c"
    )


def test_pixels_are_removed_from_a_part_only_some_programs_show() -> None:
    headers, body = message(PIXEL, "quoted-printable")
    body = body.replace(b"Content-Type: text/html", b"Content-Type: text/x-amp-html")
    assert pixels_of(read_texts(headers, body)[0])
    assert PIXEL[5:20].encode() not in without_pixels(headers, body)
    assert [part.plain for part in read_body(headers, body).parts] == [True]


def test_pixels_are_removed_from_several_parts() -> None:
    headers, body = message(f"<p>a</p>{PIXEL}")
    text, html, end = body.split(b"--b")[1:]
    amp = html.replace(b"text/html", b"text/x-amp-html")
    edited = without_pixels(headers, b"--b".join([b"", text, amp, html, end]))
    assert edited.count(b"<p>a</p><!-- -->") + edited.count(b"<p>a</p><!---->") == 2


def test_a_pixel_at_the_end_of_a_message_is_removed() -> None:
    headers = HeaderBlock(b"Content-Type: text/html\r\n\r\n")
    assert PIXEL.encode() not in without_pixels(headers, b"<p>a</p>" + PIXEL.encode())
    headers, body = message(PIXEL)
    assert PIXEL.encode() not in without_pixels(headers, body, whole=False)


@pytest.mark.parametrize("kind", ["text/html (a; b)", "(a) text/html; x=y", "Text / HTML"])
def test_a_content_type_with_comments_and_spaces_is_read(kind: str) -> None:
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: base64 (as ever)\r\n\r\n".encode()
    assert pixels_of(read_texts(HeaderBlock(head), encodebytes(PIXEL.encode()))[0])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_unclosed_pixel_is_removed_as_far_as_it_was_read(encoding: str) -> None:
    headers, body = message("<p>a</p>" + PIXEL[:-1], encoding)
    edited, _, _ = read_texts(headers, without_pixels(headers, body))
    assert edited[1].octets.decode().replace(" ", "").strip() == "<p>a</p><!---->"
    with pytest.raises(CannotCut):
        without_pixels(headers, body[: body.rindex(b"\r\n--b--")], whole=False)


def test_an_unclosed_pixel_at_the_end_of_reading_stays() -> None:
    start = "x" * (512 * 1024 - len(PIXEL) + 1)
    headers, body = message(start + PIXEL[:-1] + " alt='the rest of it'>")
    with pytest.raises(CannotCut):
        without_pixels(headers, body)


def test_mail_written_by_programs_loses_only_its_pixels() -> None:
    """By Python's email package, with a real picture that must stay."""
    mail = EmailMessage()
    mail["Subject"] = "\u00e9t\u00e9"
    mail.set_content("caf\u00e9")
    html = f"<p>caf\u00e9 {'long ' * 40}</p><img src='cid:1'>{PIXEL}<p>{BACKGROUND}\u20ac</p>"
    mail.add_alternative(html, subtype="html", cte="quoted-printable")
    related = mail.get_payload()[1]  # type: ignore[index]
    assert isinstance(related, EmailMessage)
    related.add_related(bytes(range(256)), "image", "png", cid="<1>")
    mail.add_attachment(PIXEL.encode(), "text", "html", filename="page.html")
    whole = mail.as_bytes(policy=SMTP)
    head, _, body = whole.partition(b"\r\n\r\n")
    headers = HeaderBlock(head + b"\r\n\r\n")
    edited = without_pixels(headers, body)
    left = message_from_bytes(head + b"\r\n\r\n" + edited, policy=SMTP)
    assert isinstance(left, EmailMessage)
    for was, now in zip(message_from_bytes(whole, policy=SMTP).walk(), left.walk(), strict=True):
        if was.get_content_type() == "text/html" and not was.is_attachment():
            without = html.replace(PIXEL, "<!---->").replace("https://l.emltrk.com/x?d=1", "data:,")
            assert now.get_content().strip() == without
        elif not was.is_multipart():
            assert now.get_content() == was.get_content()
    assert b"page.html" in edited


SIGNED = b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n\r\nMIIB\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Type: multipart/signed; boundary=b\r\n\r\n", b"--b\r\n%b\r\n--b--\r\n"),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", b"--b\r\n%b\r\n--b--\r\n" + SIGNED),
        (b"Content-Type: text/html; charset=utf-16\r\n\r\n", None),
        (b"Content-Type: text/html\r\nContent-Type: multipart/signed\r\n\r\n", b"%b"),
    ],
)
def test_pixels_that_cannot_be_removed(head: bytes, body: bytes | None) -> None:
    part = b"Content-Type: text/html\r\n\r\n" + PIXEL.encode()
    content = PIXEL.encode("utf-16") if body is None else body % part
    assert pixels_of(read_texts(HeaderBlock(head), content)[0])
    with pytest.raises(CannotCut):
        without_pixels(HeaderBlock(head), content)


def test_the_start_of_a_message_is_cut_only_where_that_is_safe() -> None:
    headers, body = message("x" * 100 + PIXEL, "base64")
    beginning = body[: body.rindex(b"\r\n--b--")]
    with pytest.raises(CannotCut):
        without_pixels(headers, beginning, whole=False)


@pytest.mark.parametrize("ends", [" ", "\xa0", " ,"])
def test_the_end_of_a_srcset_is_read_once(ends: str) -> None:
    """240 KB took three seconds when it was read again from each space."""
    began = time.process_time()
    assert find_pixels(f'<img srcset="a,{ends * 4_000}">' * 60) == ()
    assert time.process_time() - began < 1
