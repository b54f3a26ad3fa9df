"""From raw header octets to the features that rules see."""

from email.headerregistry import Address
from email.message import EmailMessage
from email.mime.text import MIMEText
from email.policy import SMTP
from email.utils import formataddr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.unsubscribe import FaultKind
from smtpproxy.policy.features import MessageIdentity, read_features, read_identity
from smtpproxy.policy.model import MessageFeatures

STREAM_HEADER = "X-Mail-Stream"
GOOD = (
    b"Message-ID: <1@example.com>\r\n"
    b"From: =?utf-8?Q?Caf=C3=A9?= <offers@Example.com>\r\n"
    b"Subject: =?utf-8?B?w4k=?=t=?utf-8?Q?=C3=A9?=\r\n"
    b"x-mail-stream: offers\r\n"
    b"List-Unsubscribe: <https://shop.example/u/1>,\r\n <mailto:leave@shop.example>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"\r\n"
)


def _read(raw: bytes) -> MessageFeatures:
    return read_features(HeaderBlock(raw), STREAM_HEADER)


def test_a_good_message() -> None:
    assert _read(GOOD) == MessageFeatures(
        from_domains=("example.com",),
        stream_header=("offers",),
        unsubscribe_fields=1,
        unsubscribe_https=("https://shop.example/u/1",),
        unsubscribe_mailto=("mailto:leave@shop.example",),
        one_click=True,
    )


def test_the_signatures_it_came_with_are_counted() -> None:
    assert _read(GOOD).dkim_fields == 0
    assert _read(b"DKIM-Signature: v=1\r\ndkim-signature: v=1\r\n" + GOOD).dkim_fields == 2


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (b"List-Unsubscribe: <https://shop.example/u/1>\r\n", None),
        (b"List-Unsubscribe: <https://shop.example/{{token}}>\r\n", FaultKind.PLACEHOLDER),
        (
            b"List-Unsubscribe: <https://shop.example/u/1>\r\n"
            b"List-Unsubscribe: <https://shop.example/{{token}}>\r\n",
            FaultKind.PLACEHOLDER,
        ),
        # MTAs cut lines this long
        (b"List-Unsubscribe: <https://shop.example/" + b"a" * 949 + b">\r\n", None),
        (b"List-Unsubscribe: <https://shop.example/" + b"a" * 950 + b">\r\n", FaultKind.LINE),
    ],
)
def test_faults_that_break_a_way_out(fields: bytes, kind: FaultKind | None) -> None:
    found = _read(b"From: a@b.example\r\n" + fields + b"\r\n")
    assert (found.unsubscribe_fault and found.unsubscribe_fault.kind) == kind
    assert found.malformed is None


MALFORMED = [
    (b"To: a@x\r\n", "there is no From field"),
    (b"From: a@x\r\nfrom : b@x\r\n", "there are 2 From fields"),
    (b"From: \r\n", "the From field contains no address"),
    (b"From: nobody: ;\r\n", "the From field contains no address"),
    (b"From: Shop, Inc. <a@x>\r\n", "a name without an address"),
    (b"From: a@x\r\nTo: \0\r\n", "a NUL in line 2"),
    (b"From: a@x\r\nnonsense\r\n", "line 2 is not a header field"),
    (b" From: a@x\r\n", "line 1 continues a field"),
    (b"", "there is no From field"),
    (b"From: a@x\r\nSubject: 1\r\nSubject: 2\r\n", "there are two different Subject fields"),
    (
        b"From: a@x\r\nContent-type: text/plain\r\nCONTENT-TYPE: text/html\r\n",
        "there are two different Content-Type fields",
    ),
]


@pytest.mark.parametrize(("raw", "said"), MALFORMED)
def test_an_unreadable_header_is_reported(raw: bytes, said: str) -> None:
    malformed = _read(raw + b"\r\n").malformed
    assert malformed is not None
    assert malformed.startswith(said)


def test_every_from_address_counts() -> None:
    raw = b'From: a@x, Team: "b" <b@M\xc3\x9cNCHEN.de>, c@[192.0.2.1];\r\n'
    assert _read(raw).from_domains == ("x", "xn--mnchen-3ya.de", "[192.0.2.1]")


def test_every_stream_header_counts() -> None:
    raw = b"From: a@x\r\nX-Mail-Stream:offers\r\nX-MAIL-STREAM : \r\n news \r\n"
    assert _read(raw).stream_header == ("offers", "news")
    assert _read(b"X-Mail-Stream:\r\n").stream_header == ("",)


def test_several_unsubscribe_fields_are_counted_with_all_their_links() -> None:
    features = _read(GOOD[:-2] + b"List-Unsubscribe: =?utf-8?q?=3Chttps://b.example=3E?=\r\n\r\n")
    assert features.unsubscribe_fields == 2
    assert features.unsubscribe_https == ("https://shop.example/u/1", "https://b.example")
    assert features.unsubscribe_encoded


def test_one_click_must_be_declared_exactly_once() -> None:
    line = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    assert not _read(GOOD.replace(line, b"")).one_click
    assert not _read(GOOD.replace(line, line + line)).one_click
    assert not _read(GOOD.replace(line, line.lower())).one_click
    name = b"list-unsubscribe-POST : List-Unsubscribe=One-Click\r\n"
    assert _read(GOOD.replace(line, name)).one_click


SOURCE_HEADER = "X-Source-Statement"
STATEMENTS = [
    (b"X-Source-Statement: From Lists Ltd.\r\n", "From Lists Ltd."),
    (b"x-source-statement :\r\n From\r\n Lists Ltd.\r\n", "From Lists Ltd."),
    (b"X-Source-Statement: =?utf-8?q?Re=C3=A7ue_de_L?=\r\n", "Reçue de L"),
    (b"X-Source-Statement: first\r\nX-Source-Statement: second\r\n", "first"),
    (b"X-Source-Statement:\r\n", None),
    (b"X-Source-Statement: \t \r\n", None),
    (b"X-Source-Statement: =?utf-8?q?=00=0A?=\r\n", None),
    (b"X-Source-Statements: x\r\n", None),
    (b"", None),
]


@pytest.mark.parametrize(("field", "said"), STATEMENTS)
def test_how_a_message_states_its_source(field: bytes, said: str | None) -> None:
    headers = HeaderBlock(field + GOOD)
    assert read_features(headers, STREAM_HEADER, SOURCE_HEADER).source_statement == said
    assert read_features(headers, STREAM_HEADER).source_statement is None  # not required


def test_identity_is_decoded_into_one_line() -> None:
    assert read_identity(HeaderBlock(GOOD)) == MessageIdentity(
        "<1@example.com>", "Été", "Café <offers@Example.com>"
    )
    assert read_identity(HeaderBlock(b"\r\n")) == MessageIdentity()
    odd = HeaderBlock(b"Subject: =?utf-8?q?a=0D=0Ab=00?= caf\xe9\r\nSubject: second\r\n")
    assert read_identity(odd).subject == "a  b  caf\ufffd"
    long = HeaderBlock(b"Subject: " + b"x" * 5000 + b"\r\n")
    assert read_identity(long).subject == "x" * 998


NAMES = [
    *("Jeanne", "Café de la Gare", "Shop, Inc.", 'a "quoted" name', "Foo: Bar; <x@evil.example>"),
    *("(comment)", "漢字の店 " * 8, "x" * 120, "=?utf-8?q?x?=", "[Shop]", "A.B. C", ""),
]


@pytest.mark.parametrize("name", NAMES)
def test_messages_by_python_programs_are_read(name: str) -> None:
    """Python's default policy folds a long List-Unsubscribe into encoded words."""
    web = f"https://unsubscribe.shop.example/u/{'A1b2' * 40}"
    mail = f"mailto:unsubscribe+{'z' * 30}@shop.example?subject=unsubscribe"
    modern, old = EmailMessage(policy=SMTP), MIMEText("hello")
    modern["From"] = Address(name, "offers", "example.com")
    old["From"] = formataddr((name, "offers@example.com"))
    for message, encoded in ((modern, True), (old, False)):
        message["Subject"] = "Été " * 30
        message["List-Unsubscribe"] = f"<{web}>, <{mail}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        features = _read(message.as_bytes(policy=message.policy.clone(linesep="\r\n")))
        assert features == MessageFeatures(
            from_domains=("example.com",),
            unsubscribe_fields=1,
            unsubscribe_https=(web,),
            unsubscribe_mailto=(mail,),
            unsubscribe_encoded=encoded,
            one_click=True,
        )


alphabet = st.sampled_from(
    [
        *(b"From: ", b"List-Unsubscribe: ", b"List-Unsubscribe-Post: ", b"\r\n", b"\n", b" "),
        *(b"a@x", b"<", b">", b",", b'"', b"(", b"\0", b"\xff"),
        *(b"=?utf-8?q?", b"?=", b"https://h"),
    ]
)


@given(st.lists(alphabet, max_size=30).map(b"".join))
def test_any_octets_are_read_without_error(raw: bytes) -> None:
    features = _read(raw)
    assert features.malformed is not None or features.from_domains
    read_identity(HeaderBlock(raw))
