"""The parts and text of a message that its readers see."""

import encodings
import subprocess
import sys
import time
from email.message import EmailMessage
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP

import pytest

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import Body, MimeLimits, TextPart, decode_text, read_body


def read(raw: bytes, limits: MimeLimits | None = None) -> Body:
    head, _, body = raw.partition(b"\r\n\r\n")
    headers = HeaderBlock(head + b"\r\n\r\n")
    return read_body(headers, body) if limits is None else read_body(headers, body, limits)


def texts(raw: bytes) -> list[str]:
    return [part.text.replace("\r\n", "\n").strip() for part in read(raw).parts]


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "8bit"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1", "windows-1252", "iso-8859-15"])
def test_encodings_and_charsets(encoding: str, charset: str) -> None:
    message = EmailMessage(policy=SMTP)
    message.set_content("Vous désinscrire\n" * 40, charset=charset, cte=encoding)
    message.add_alternative("<p>Été</p>\n", subtype="html", charset=charset, cte=encoding)
    body = read(message.as_bytes())
    assert body.whole
    assert [part.plain for part in body.parts] == [True, False]
    assert body.parts[0].text.replace("\r\n", "\n") == "Vous désinscrire\n" * 40
    assert body.parts[1].text.strip() == "<p>Été</p>"


def test_nested_multiparts_attachments_and_messages() -> None:
    message = EmailMessage(policy=SMTP)
    message.set_content("plain")
    message.add_alternative("<p>html</p>", subtype="html")
    message.get_payload()[1].add_related(b"\x89PNG", "image", "png", cid="<1>")
    message.add_attachment("attached", filename="a.txt")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="a.pdf")
    assert texts(message.as_bytes()) == ["plain", "<p>html</p>"]
    outer = MIMEMultipart()
    outer.attach(MIMEMessage(MIMEText("another's")))
    outer.attach(MIMEText("ours"))
    assert texts(outer.as_bytes(policy=SMTP)) == ["ours"]


BOUNDARIES = [
    # the preamble and the epilogue are not shown
    (b"pre\r\n--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\nepi", ["one", "two"]),
    # a boundary that starts like another is a different one
    (b"--b\r\n\r\none\r\n--bb\r\nx\r\n--b-- \t\r\n", ["one\n--bb\nx"]),
    (b"--b  \r\n\r\none\r\n--b--", ["one"]),
    # never closed, as in a truncated message
    (b"--b\r\n\r\none\r\n--b\r\nContent-Type: text/plain\r\n\r\ntw", ["one", "tw"]),
    (b"--b\r\nContent-Type: text/plain\r\n", []),
    (b"--b--\r\n\r\n--b\r\n\r\none", []),
    (b"--bc\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--", ["two"]),
    (b"", []),
]


@pytest.mark.parametrize(("body", "expected"), BOUNDARIES)
def test_boundaries(body: bytes, expected: list[str]) -> None:
    for value in (b'"b"', b"b", b"b; charset=x", b'"\\b"', b"b ; charset=x", b'"b', b"b c"):
        head = b"Content-Type: Multipart/MIXED; x=y;\r\n boundary=" + value + b"\r\n\r\n"
        assert texts(head + body) == expected


LEFT_OUT = [
    b"Content-Type: multipart/mixed\r\n\r\n--b\r\n\r\none",
    b"Content-Type: multipart/mixed; boundary=" + b"b" * 300 + b"\r\n\r\none",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\none\r\n--b--",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\none\r\n--b\r\n--b--",
]


@pytest.mark.parametrize("raw", LEFT_OUT)
def test_unreadable_content_is_reported(raw: bytes) -> None:
    assert (read(raw).parts, read(raw).whole) == ((), False)


def test_an_empty_part_counts_as_read() -> None:
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n--b\r\n\r\none\r\n--b--"
    assert read(raw) == Body((TextPart(True, "one"),), whole=True)


@pytest.mark.parametrize("encoding", [b"7bit", b"8BIT", b"Binary"])
def test_unencoded_text_is_read_as_is(encoding: bytes) -> None:
    raw = b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n=20 one"
    assert read(raw) == Body((TextPart(True, "=20 one"),), whole=True)


def test_text_in_an_unknown_encoding_is_read_as_most_programs_show_it() -> None:
    raw = b"Content-Transfer-Encoding: utf-8\r\n\r\n=20 one"
    assert read(raw) == Body((TextPart(True, "=20 one"),), whole=False)


PIECES = [
    b"boundary*0=b; boundary*1=c",
    b"boundary*0*=us-ascii''%62; boundary*1=c",
    b"boundary*=us-ascii'en'b%63",
    b"BOUNDARY*1=c; boundary*0=b; boundary*3=x",
    b"boundary*0*=us-ascii''b; boundary*1*=%63",
]


@pytest.mark.parametrize("pieces", PIECES)
def test_a_boundary_may_be_split_into_rfc_2231_pieces(pieces: bytes) -> None:
    head = b"Content-Type: multipart/mixed; " + pieces
    assert texts(head + b"\r\n\r\n--bc\r\n\r\none\r\n--bc--") == ["one"]
    assert read(head + b"; boundary=x\r\n\r\n--bc--").malformed is not None


def test_an_apostrophe_in_a_later_piece_does_not_end_the_language() -> None:
    head = b"Content-Type: multipart/mixed; boundary*0*=us-ascii''b; boundary*1*=c'd\r\n\r\n"
    assert texts(head + b"--bc'd\r\n\r\none\r\n--bc'd--") == ["one"]


def test_charset_names_ignore_case() -> None:
    for other in (b"charset=UTF-8", b"charset*=us-ascii'en'UTF-8", b"charset*0=Utf-; charset*1=8"):
        head = b"Content-Type: text/plain; charset=utf-8; " + other
        assert read(head + b"\r\n\r\none").malformed is None


def test_the_root_of_related_parts_is_named_once() -> None:
    head = b"Content-Type: multipart/related; start=<a>; boundary=b; "
    assert read(head + b"start=<a>\r\n\r\n--b--").malformed is None
    assert read(head + b"start=<b>\r\n\r\n--b--").malformed is not None


def part(kind: str, text: str = "") -> str:
    return f"--b\r\nContent-Type: {kind}\r\n\r\n{text or kind}\r\n"


ROOT_SECOND = ["text/html\r\nContent-ID: <1>", "text/html\r\nContent-ID: <2>"]
SHOWN = [
    ("alternative", ["text/plain", "text/html"], [False, True]),
    ("alternative", ["text/html; n=1", "text/html; n=2"], [False, True]),
    ("alternative", ["text/html", "text/plain"], [True, False]),
    ("alternative", ["text/plain; n=1", "text/plain; n=2", "text/calendar"], [False, True]),
    ("related", ["text/html; n=1", "image/png", "text/html; n=2"], [True, False]),
    ("related; start=<2>", [*ROOT_SECOND, "text/html\r\nContent-ID: <2>"], [False, True, False]),
    ('related; start=" 2@x "', ["text/html", "text/html\r\ncontent-id: <2@x>"], [False, True]),
    ("related", ["text/html\r\nContent-ID: <1>", "text/html"], [True, False]),
    ("related; start=<3>", ROOT_SECOND, [True, False]),  # no part has that id
    ("related; start=<>", ["text/html", "text/html\r\nContent-ID:"], [True, False]),
    ("related; start=<p>", ["text/html", "image/png\r\nContent-ID: <p>"], [False]),
    ("mixed; start=<2>", ROOT_SECOND, [True, True]),
    ("mixed", ["text/plain", "text/html"], [True, True]),
]


@pytest.mark.parametrize(("kind", "parts", "shown"), SHOWN)
def test_which_parts_most_programs_show(kind: str, parts: list[str], shown: list[bool]) -> None:
    head = f"Content-Type: multipart/{kind}; boundary=b\r\n\r\n"
    raw = head + "".join(map(part, parts)) + "--b--"
    assert [one.shown for one in read(raw.encode()).parts] == shown


def test_limits_hold_and_are_reported() -> None:
    limits = MimeLimits(depth=3, parts=5, text=100)
    long = read(b"\r\n\r\n" + b"x" * 101, limits)
    assert long == Body((TextPart(True, "x" * 100),), whole=False)
    assert read(b"\r\n\r\n" + b"x" * 100, limits).whole
    many = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 50
    assert len(read(many, limits).parts) == 4
    assert not read(many, limits).whole
    deep = b"\r\nx"
    for level in range(5):
        name = b"%d" % level
        deep = b"Content-Type: multipart/mixed; boundary=%b\r\n\r\n--%b\r\n" % (name, name) + deep
    assert read(deep, MimeLimits(depth=5)) == Body((TextPart(True, "x"),), whole=True)
    assert read(deep, MimeLimits(depth=4)) == Body((), whole=False)


def test_broken_base64_is_decoded_as_far_as_possible() -> None:
    head = b"Content-Transfer-Encoding: Base64 \r\n\r\n"
    for data in (b"b25l", b"b2\r\n5 l!", b"b25l=", b"b25lb", b"b25l==dHdv"):
        assert texts(head + data) == ["one"]


CHARSETS = [
    (b"caf\xc3\xa9", "", "café"),
    (b"caf\xe9", "", "café"),
    (b"caf\xe9", "us-ascii", "café"),
    (b"caf\xe9", "no-such-charset", "café"),
    (b"caf\xc3\xa9", "punycode", "café"),  # Python codecs that are not charsets
    (b"caf\xc3\xa9", "unicode_escape", "café"),
    (b"caf\xc3\xa9", "zlib", "café"),
    (b"\xc3\xa9 caf\xc3", "", "é caf"),  # cut inside a letter
    (b"caf\xc3", "utf-8", "caf\ufffd"),
    (b"+ZeU-", "utf-7", "日"),
    (b"\xc6\xfc", "euc-jp", "日"),
    (b"\x00\x01", "utf-16le", "Ā"),
    (b"\x80", "Windows-1252", "€"),
]


@pytest.mark.parametrize(("octets", "charset", "text"), CHARSETS)
def test_charsets(octets: bytes, charset: str, text: str) -> None:
    head = b'Content-Type: text/plain; charset="%b"\r\n\r\n' % charset.encode()
    assert read(head + octets).parts == (TextPart(True, text),)


NAMES = [
    *("utf-8", "UTF8", "utf-16le", "UTF-7", "iso-8859-1", "ISO 8859-15", "iso.8859.2", "latin1"),
    *("l2", "cp437", "cp1252", "Windows-1251", "macintosh", "koi8-r", "KOI8-U", "gb2312", "GBK"),
    *("cp874", "iso-8859-13"),
    *("gb18030", "big5", "Shift_JIS", "sjis", "euc-jp", "ks_c_5601-1987", "tis-620", "iso-2022-jp"),
    *("iso-8859-9", "latin5", "iso-8859-11"),
]
AS_WINDOWS = {
    **dict.fromkeys(("iso-8859-1", "latin1"), "windows-1252"),
    **dict.fromkeys(("iso-8859-9", "latin5"), "windows-1254"),
    **dict.fromkeys(("iso-8859-11", "tis-620"), "cp874"),
    **dict.fromkeys(("Shift_JIS", "sjis"), "cp932"),
    "gb2312": "gbk",
    "ks_c_5601-1987": "cp949",
}
"""The encodings that browsers use for these names."""


@pytest.mark.parametrize("name", NAMES)
def test_charsets_have_all_their_python_names(name: str) -> None:
    for octet in range(128, 256):
        octets = bytes((octet, 0x41, 0x42))
        assert decode_text(octets, name) == octets.decode(AS_WINDOWS.get(name, name), "replace")


def test_charsets_are_loaded_on_first_use_and_unknown_names_are_not_kept() -> None:
    code = (
        "import sys; from smtpproxy.mail import mime\n"
        "mime.decode_text(b'caf\\xe9', 'iso-8859-2')\n"
        "print(*[name for name in sys.modules if name.startswith('encodings.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert set(done.stdout.split()) <= {
        *("encodings.aliases", "encodings.utf_8", "encodings.ascii", "encodings.latin_1"),
        *("encodings.cp1252", "encodings.iso8859_15", "encodings.iso8859_2"),
        "encodings.utf_8_sig",  # Python 3.13 reads its own .pth files with it
    }
    decode_text(b"caf\xe9", "")  # the fallback
    kept = set(encodings._cache)  # type: ignore[attr-defined]
    for number in range(100):
        decode_text(b"caf\xe9", f"charset-{number}")
    assert set(encodings._cache) == kept  # type: ignore[attr-defined]


UNCLEAR = [
    b"Content-Type: text /plain",  # Python, mailparser and postal-mime show none of these texts
    b"Content-Type: (c) text/plain",
    b"Content-Type: text",
    b"Content-Type:",
    b"Content-Type: text/html charset=utf-8",  # which Thunderbird shows
    b"Content-Type: text/html, charset=utf-8",
    b'Content-Type: "text/html"',  # which mailparser and postal-mime show
    b"Content-Type: text/plain; boundary*0=b",  # unknown to Sendmail and Claws
    b"Content-Type: text/plain; x=1;\tBoundary*=b",
    b"Content-Type: text/plain;(c)boundary*0=b",
    b"Content-Type: text/plain\xc2\xa0; charset=utf-8",  # not a space to most programs
    b"Content-Type: text/plain; x=" + b"x" * 970,  # which Sendmail and Postfix cut
    b'Content-Disposition: "attachment"',
    b"Content-Disposition: attachment\xc2\xa0; filename=a",
    b"Content-Disposition: inline, attachment",
    b"Content-Disposition: ; attachment",
    b"Content-Transfer-Encoding: base64;",  # which Python shows as base64
    b"Content-Transfer-Encoding: base64 (c)",
    b'Content-Transfer-Encoding: "base64"',
]
CLEAR = [
    b"Content-Type: text/plain ; charset=utf-8 (c)",
    b"Content-Type: Text/HTML;charset=utf-8",
    b"Content-Type:\r\n text/html",
    b"Content-Type: text/plain; x=\r\n " + b"x" * 970,
    b'Content-Type: text/plain; name="the boundary*.txt"',
    b"Content-Disposition: inline; filename=a",
    b"Content-Disposition: attachment",
    b"Content-Transfer-Encoding: 8bit;",  # written by some libraries
    b"Content-Transfer-Encoding: 7BIT (c)",
    b"Content-Transfer-Encoding: binary; charset=utf-8",
    b"Content-Transfer-Encoding: BASE64 ",
    b"Content-Transfer-Encoding:",
    b"Content-Disposition:",
    b"Content-Type: image / png",  # not text
    b"Content-Type: application/pdf name=a.pdf",
    b"Content-Type: text/html5",
    b"X-Other: text /plain",
]


@pytest.mark.parametrize("field", [*UNCLEAR, *CLEAR])
def test_fields_that_some_programs_misread_are_reported(field: bytes) -> None:
    name = field.partition(b":")[0].decode()
    expected = f"some programs cannot read the {name} of a part" if field in UNCLEAR else None
    assert read_body(HeaderBlock(field + b"\r\n\r\n"), b"x").unclear == expected
    outer = HeaderBlock(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n")
    assert read_body(outer, b"--b\r\n" + field + b"\r\n\r\nx\r\n--b--\r\n").unclear == expected


@pytest.mark.parametrize("space", [" ", "\t", "\x0b", "\x1c", "\xa0", "\u2003"])
@pytest.mark.parametrize("start", ["Content-Type: text/html", "Content-Disposition: inline"])
def test_fields_of_only_spaces_are_read_in_linear_time(space: str, start: str) -> None:
    """A pattern that let words include spaces took 0.2 s for each part."""
    field = f'{start}{space * 1_300}"\r\n'.encode()
    body = b"--b\r\nContent-Type: text/html\r\n%b\r\n\r\n" % field * 150
    began = time.process_time()
    read_body(HeaderBlock(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"), body)
    assert time.process_time() - began < 3


NO_TEXT = b"Content-Disposition: Attachment; filename=a"
TWICE = [
    (b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: 8bit", False),
    (b"Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64", True),
    (b'Content-Type: text/plain; charset="utf-8"; charset=UTF8', False),
    (b"Content-Type: text/plain; charset=utf-8; charset=utf-7", True),
    (b"Content-Type: application/pdf\r\nContent-Type: image/png", False),
    (b"Content-Type: application/pdf\r\nContent-Type: text/html", True),
    (b"Content-Type: application/pdf; charset=utf-8; charset=binary", False),
    (b"Content-Type: application/pdf\r\nContent-Disposition: inline\r\n" + NO_TEXT, False),
    (b"Content-Disposition: inline\r\n" + NO_TEXT, True),
]


def faults(part: bytes) -> tuple[str | None, str | None]:
    outer = HeaderBlock(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n")
    body = read_body(outer, b"--b\r\n" + part + b"\r\n\r\nx\r\n--b--\r\n")
    return body.malformed, body.unclear


@pytest.mark.parametrize(("part", "differs"), TWICE)
def test_a_repeated_field_matters_if_programs_may_show_different_text(
    part: bytes, differs: bool
) -> None:
    assert (faults(part)[0] is not None) == differs


@pytest.mark.parametrize(
    "field",
    [
        b"X-A: b",
        *(field for field in UNCLEAR if b"Disposition" not in field),
        *(part for part, _ in TWICE[:7]),
    ],
)
def test_odd_fields_of_an_attachment_do_not_matter(field: bytes) -> None:
    assert faults(field + b"\r\n" + NO_TEXT) == (None, None)
    assert faults(NO_TEXT + b"\r\n" + field) == (None, None)


@pytest.mark.parametrize("line", [b"text", b"--x: y", b" Content-Type: text/html", b"\xc3\xa9: x"])
@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_malformed_lines_in_the_header_of_a_part(line: bytes, end: bytes) -> None:
    """Python ends the header there, and so does Sendmail when it rewrites text for other MTAs."""
    outer = HeaderBlock(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n")
    part = b"\r\n--b\r\n" + line + b"\r\n" + NO_TEXT + b"\r\n" + end
    assert read_body(outer, part + b"x\r\n--b--\r\n").unclear is not None
    assert read_body(outer, part.replace(line + b"\r\n", b"") + b"--b--\r\n").unclear is None
    assert read_body(outer, part + b"x\r\n--b\r\nContent-Ty").unclear is not None


def test_a_truncated_header_is_not_a_fault_of_its_part() -> None:
    outer = HeaderBlock(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n")
    assert read_body(outer, b"--b\r\n\r\nx\r\n--b\r\nContent-Ty").unclear is None


def test_parts_inside_an_attachment_count_as_text() -> None:
    part = b"Content-Type: multipart/mixed; boundary=c\r\n" + NO_TEXT
    assert faults(part + b"\r\n\r\n--c\r\n" + UNCLEAR[0]) != (None, None)


def test_the_parts_of_a_digest_are_messages() -> None:
    body = (
        b"--b\r\n\r\nSubject: x\r\n\r\ny\r\n--b\r\nContent-Type: text/plain\r\n\r\nz\r\n--b--\r\n"
    )
    for kind, texts in (("mixed", ["Subject: x\r\n\r\ny", "z"]), ("digest", ["z"])):
        headers = HeaderBlock(f"Content-Type: multipart/{kind}; boundary=b\r\n\r\n".encode())
        assert [part.text for part in read_body(headers, body).parts] == texts
