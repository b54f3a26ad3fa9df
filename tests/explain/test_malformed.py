"""Why a header is unreadable, in the reader's language."""

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import message_trace
from smtpproxy.locale import Phrase, recognised, texts
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import read_body
from smtpproxy.mail.visible_html import Way
from smtpproxy.mail.visible_text import VisibleText
from smtpproxy.policy.content_checks import check_content
from smtpproxy.policy.features import read_features
from smtpproxy.policy.model import MessageFeatures
from tests.explain.test_trace import OFFERS

FROM = {
    "from_empty": "",
    "long": "\r\n ".join(["a" * 900] * 20),
    "from_long": "a" * 990,
    "comment": "a@b (c",
    "quote": 'a "b',
    "outside_quotes": "a \\b <a@b>",
    "bracket_open": "<a@b",
    "bracket_close": "a > <a@b>",
    "bracket_empty": "x <>",
    "bracket_inside": "<a@b;>",
    "group_open": "a: b@c",
    "group_end": "a@b; c",
    "group_name": ": a@b",
    "comma": "<a@b> <c@d>",
    "in_name": "a@b <c@d>",
    "mailbox_long": f"{'a' * 250} <a@b>",
    "one_at": "a@b@c",
    "no_at": "Shop",
    "incomplete": "a@",
    "space": "a b@c",
    "domain_spaced": "a@b .c",
    "in_address": "a@[192.0.2.1]x",
    "control": '"\\\x01"@b',
    "left_out": '"(x)a"@b',
    "route": '"a b%c"@d',
    "route_domain": "a%stra\u00dfe.test@b",
    "route_host": "a%&b.test@c",
    "routes": "%".join("abcdefghijklmnopqr") + "@x",
    "domain_long": "a@" + "b." * 130 + "c",
    "domain_capital": "a@\u1e9e.test",
    "domain_idna": "a@\u2665\u200d.test",
    "domain_labels": "a@-b",
    "domain_literal": "a@[x]",
}
HEADERS = {
    "from_none": b"To: a@b\r\n",
    "from_several": b"From: a@b\r\nFrom: c@d\r\n",
    "doubled": b"From: a@b\r\nSubject: 1\r\nSubject: 2\r\n",
    "nul": b"From: a@b\0\r\n",
    "cr": b"From: a@b\rc\r\n",
    "lf": b"From: a@b\nTo: c@d\r\n",
    "continues": b" From: a@b\r\n",
    "no_field": b"From: a@b\r\nnonsense\r\n",
    "field_name": b"From: a@b\r\n--x: y\r\n",
    "spaced_colon": b"From: a@b\r\nX : y\r\nList-Unsubscribe: <https://u.test/>\r\n",
    "local_utf8": b"From: \xff@b\r\n",
} | {key: f"From: {value}\r\n".encode() for key, value in FROM.items()}
PARTS = {
    "part_doubled": b"Content-Type: text/plain\r\nContent-Type: text/html\r\n",
    "part_spaced": b"Content-Type: multipart/mixed; boundary=b\r\n",
    "part_unclear": b"Content-Type: text /html\r\n",
    "part_header": b"Content-Type: multipart/mixed; boundary=c\r\n",
    "parameter_doubled": b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n",
}


NO_FIELDS = HeaderBlock(b"\r\n")
BROKEN = VisibleText(
    "unsubscribe",
    ("https://u.test/1",),
    broken=frozenset({"https://u.test/1"}),
    ways=(Way("https://u.test/1", 0, 11, (0, 11)),),
)
TEXTS = ("link_broken",)


def malformed(key: str) -> str:
    if key in TEXTS:
        stream = replace(OFFERS, body_optout=True)
        said = check_content(stream, MessageFeatures(), NO_FIELDS, "", BROKEN).malformed
    elif key in PARTS:
        body = b"--b\r\nContent-Type : text/html\r\n\r\nx\r\n--b--\r\n--c\r\nx\r\n--c--\r\n"
        read = read_body(HeaderBlock(PARTS[key] + b"\r\n"), body)
        said = read.malformed or read.unclear
    else:
        said = read_features(HeaderBlock(HEADERS[key] + b"\r\n"), "X-Mail-Stream").malformed
    assert said is not None
    return said


@pytest.mark.parametrize("key", [*HEADERS, *PARTS, *TEXTS])
def test_each_reason_is_recognised(key: str) -> None:
    found = recognised("malformed", malformed(key))
    assert isinstance(found, Phrase), found
    assert found.key == f"malformed.{key}"


def test_every_reason_is_covered() -> None:
    known = {key for key in texts("en").phrases if key.startswith("malformed.")}
    assert known == {f"malformed.{key}" for key in (*HEADERS, *PARTS, *TEXTS)}


def told(said: str | None, lang: str) -> str:
    return message_trace(OFFERS, MessageFeatures(malformed=said), lang=lang)[-1].text


def test_reasons_in_french() -> None:
    assert (
        told(malformed("nul"), "fr") == "l’en-tête est illisible (la ligne 1 contient un octet nul)"
    )
    assert told(malformed("doubled"), "fr").endswith("(il y a deux champs Subject différents)")
    assert told(malformed("from_several"), "fr").endswith("(il y a 2 champs From)")
    assert told(None, "fr").endswith("(il n’y a pas de champ From)")
    assert told("an older text", "fr") == "l’en-tête est illisible (an older text)"


def test_reasons_in_english_are_as_recorded() -> None:
    for key in (*HEADERS, *PARTS):
        assert told(malformed(key), "en") == f"the header cannot be read: {malformed(key)}"
