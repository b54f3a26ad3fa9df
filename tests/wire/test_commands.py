"""The record that each form of a command gives, or the reply that refuses it."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproxy.wire.commands import (
    SIMPLE_MAIL,
    SIMPLE_RCPT,
    CommandError,
    Hello,
    Mail,
    Rcpt,
    parse_mail,
    parse_rcpt,
)
from tests.wire.feeding import HELLO, quick, settled, talk

LOCAL_64 = "l" * 64
DOMAIN_255 = ".".join(["d" * 63] * 4)
PATH_256 = f"{LOCAL_64}@{'.'.join(['d' * 61] * 3)}.ddd"  # including brackets
assert (len(DOMAIN_255), len(PATH_256) + 2) == (255, 256)


def said(line: str, *, before: bytes = b"", greeting: bytes = HELLO) -> tuple[object, list[str]]:
    """The last command's record (None when refused) and the reply's lines.

    NOOP follows, to show that the command ends where it should.
    """
    opening = greeting + before
    data = opening + line.encode("utf-8", "surrogateescape") + b"\r\n" + b"NOOP\r\n"
    talked = settled(data)
    already = len(talk(opening).commands)
    replies = talked.lines[len(talk(opening).lines) :]
    assert replies.pop() == "250 2.0.0 OK"
    return (talked.commands[already] if talked.commands[already:] else None), replies


@pytest.mark.parametrize(
    ("line", "hello"),
    [
        ("EHLO client.example", Hello("client.example", True)),
        ("HELO client.example", Hello("client.example", False)),
        ("ehlo Client.Example", Hello("Client.Example", True)),
        ("EHLO  client.example  ", Hello("client.example", True)),
        ("EHLO localhost", Hello("localhost", True)),
        ("EHLO my_host", Hello("my_host", True)),
        ("EHLO [192.0.2.1]", Hello("[192.0.2.1]", True)),
        ("EHLO [IPv6:2001:db8::1]", Hello("[IPv6:2001:db8::1]", True)),
        ("EHLO bücher.example", Hello("bücher.example", True)),
        (f"EHLO {DOMAIN_255}", Hello(DOMAIN_255, True)),
    ],
)
def test_hello(line: str, hello: Hello) -> None:
    command, replies = said(line, greeting=b"")
    assert command == hello
    name = hello.domain.encode("ascii", "replace").decode()
    assert replies[0] == f"250{'-' if hello.extended else ' '}relay.example greets {name}"


def test_ehlo_offers_extensions_and_helo_none() -> None:
    assert talk(HELLO, size_limit=1234).lines == [
        "250-relay.example greets client.example",
        "250-PIPELINING",
        "250-SIZE 1234",
        "250-8BITMIME",
        "250-SMTPUTF8",
        "250-ENHANCEDSTATUSCODES",
        "250-DSN",
        "250-CHUNKING",
        "250 LIMITS RCPTMAX=1000",
    ]
    assert talk(b"HELO client.example\r\n").lines == ["250 relay.example greets client.example"]


@pytest.mark.parametrize("verb", ["EHLO", "HELO"])
@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        " a b",
        " <a.example>",
        " a@b",
        " a,b",
        " (a)",
        " a/b",
        " a\\b",
        " " + DOMAIN_255 + "x",
    ],
)
def test_bad_hello(verb: str, argument: str) -> None:
    reply = f"501 5.5.4 {verb} needs a domain or an address literal"
    assert said(verb + argument, greeting=b"") == (None, [reply])


PATHS = {
    # text between FROM: or TO: and the parameters: the path without brackets
    "<a@b.example>": "a@b.example",
    "<A.B+tag@Shop.Example>": "A.B+tag@Shop.Example",
    " <a@b.example>": "a@b.example",
    "   <a@b.example>": "a@b.example",
    "a@b.example": "a@b.example",
    "  a@b.example": "a@b.example",
    '"a b"@b.example': '"a b"@b.example',
    "a@[192.0.2.1]": "a@[192.0.2.1]",
    "<try..this@b.example>": "try..this@b.example",
    "<this.@b.example>": "this.@b.example",
    "<.this@b.example>": ".this@b.example",
    '<"a:@c"@b.example>': '"a:@c"@b.example',
    "<a@b>": "a@b",
    "<a@b.example.>": "a@b.example.",
    "<!#$%&'*+-/=?^_`{|}~@b.example>": "!#$%&'*+-/=?^_`{|}~@b.example",
    '<"a b"@b.example>': '"a b"@b.example',
    '<"a>b"@b.example>': '"a>b"@b.example',
    '<"a@c"@b.example>': '"a@c"@b.example',
    '<""@b.example>': '""@b.example',
    r'<"a\"\\"@b.example>': r'"a\"\\"@b.example',
    '<"a..b"@b.example>': '"a..b"@b.example',
    "<a@[192.0.2.1]>": "a@[192.0.2.1]",
    "<a@[IPv6:2001:db8::1]>": "a@[IPv6:2001:db8::1]",
    "<under_score@b_c.example>": "under_score@b_c.example",
    "<a@1.2.3.4>": "a@1.2.3.4",
    f"<{LOCAL_64}@b.example>": f"{LOCAL_64}@b.example",
    f"<{PATH_256}>": PATH_256,
}


@pytest.mark.parametrize("path", PATHS)
def test_paths(path: str) -> None:
    assert said(f"MAIL FROM:{path}")[0] == Mail(PATHS[path])
    before = b"MAIL FROM:<>\r\n"
    assert said(f"RCPT TO:{path}", before=before)[0] == Rcpt(PATHS[path])


@pytest.mark.parametrize(
    "path",
    [
        "",
        " ",
        "<a@b.example",
        "a@b.example>",
        "<a@b.example>x",
        "<a@b.example>,<c@d.example>",
        "<<a@b.example>>",
        "<a b@c.example>",
        "< a@b.example>",
        "<a@b.example >",
        "<@b.example>",
        "<a@>",
        "<a@b@c.example>",
        "<a@.example>",
        "<a@b..example>",
        "<a@-b.example>",
        "<a@b-.example>",
        "<a@b.example->",
        "<a@b c>",
        "<a@[]>",
        "<a@[192.0.2.1>",
        "<a@192.0.2.1]>",
        '<"a@b.example>',
        '<a"b"@c.example>',
        '<"a"b@c.example>',
        '<"a\\"@c.example>',
        "<a(x)@b.example>",
        "<a,b@c.example>",
        "<a;b@c.example>",
        "<@r.example:>",
        "<r.example:a@b.example>",
        "<@r.example,s.example:a@b.example>",
        "Jeanne <a@b.example>",
        "a@b.example,c@d.example",
        "a b@c.example",
        "a@b..example",
    ],
)
def test_bad_paths(path: str) -> None:
    refusal = "bad address syntax; write <local-part@domain>"
    assert said(f"MAIL FROM:{path}") == (None, [f"501 5.1.7 {refusal}"])
    before = b"MAIL FROM:<>\r\n"
    assert said(f"RCPT TO:{path}", before=before) == (None, [f"501 5.1.3 {refusal}"])


@pytest.mark.parametrize(
    "path",
    [
        "<@r.example:a@b.example>",
        "@r.example:a@b.example",
        "<@r.example,@s.example:a@b.example>",
        "<@[192.0.2.1]:a@b.example>",
        '<@r.example:"a"@b.example>',
        '<"@r.example:a"@b.example>',  # Postfix delivers it to a@b.example
        r'<"\@r.example:a"@b.example>',
        '<"@:a"@b.example>',
        '" @r.example:a"@b.example',
    ],
)
def test_source_routes_are_refused(path: str) -> None:
    refusal = "source routes are not accepted; write <local-part@domain>"
    assert said(f"MAIL FROM:{path}") == (None, [f"553 5.1.7 {refusal}"])
    before = b"MAIL FROM:<>\r\n"
    assert said(f"RCPT TO:{path}", before=before) == (None, [f"553 5.1.3 {refusal}"])


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (f"<{LOCAL_64}l@b.example>", "local part is longer than 64 octets"),
        (f'<"{LOCAL_64[:-1]}"@b.example>', "local part is longer than 64 octets"),
        (f"<l@{DOMAIN_255}.d>", "domain is longer than 255 octets"),
        (f"<{PATH_256}x>", "path is longer than 256 octets"),
        (f"<l@{DOMAIN_255}>", "path is longer than 256 octets"),
    ],
)
def test_paths_that_are_too_long_are_refused(path: str, wrong: str) -> None:
    assert said(f"MAIL FROM:{path}") == (None, [f"553 5.1.7 {wrong}"])
    before = b"MAIL FROM:<>\r\n"
    assert said(f"RCPT TO:{path}", before=before) == (None, [f"553 5.1.3 {wrong}"])


def test_lengths_are_counted_in_octets() -> None:
    mail = f"MAIL FROM:<{'é' * 32}@b.example> SMTPUTF8"
    assert said(mail)[0] == Mail(f"{'é' * 32}@b.example", smtputf8=True)
    mail = f"MAIL FROM:<{'é' * 33}@b.example> SMTPUTF8"
    assert said(mail)[1] == ["553 5.1.7 local part is longer than 64 octets"]
    assert said(f"EHLO {'é' * 128}", greeting=b"")[0] is None


def test_null_and_postmaster_paths() -> None:
    assert said("MAIL FROM:<>")[0] == Mail("")
    before = b"MAIL FROM:<>\r\n"
    assert said("RCPT TO:<postmaster>", before=before)[0] == Rcpt("postmaster")
    assert said("RCPT TO:<PostMaster>", before=before)[0] == Rcpt("PostMaster")
    assert said("RCPT TO: postmaster", before=before)[0] == Rcpt("postmaster")
    for path, reply in (
        ("<>", "501 5.1.3 a recipient cannot be the null path <>"),
        ("<root>", "501 5.1.3 address has no domain; write <local-part@domain>"),
    ):
        assert said(f"RCPT TO:{path}", before=before) == (None, [reply])
    reply = "501 5.1.7 address has no domain; write <local-part@domain>"
    assert said("MAIL FROM:<postmaster>") == (None, [reply])


@pytest.mark.parametrize(
    "line", ["MAIL", "MAIL ", "MAIL <a@b.example>", "MAIL FROM <a@b.example>", "MAIL TO:<a@b.c>"]
)
def test_mail_without_from_is_refused(line: str) -> None:
    assert said(line) == (None, ["501 5.5.4 syntax: MAIL FROM:<address>"])


@pytest.mark.parametrize(
    "line", ["RCPT", "RCPT ", "RCPT <a@b.example>", "RCPT TO <a@b.example>", "RCPT FROM:<a@b.c>"]
)
def test_rcpt_without_to_is_refused(line: str) -> None:
    reply = "501 5.5.4 syntax: RCPT TO:<address>"
    assert said(line, before=b"MAIL FROM:<>\r\n") == (None, [reply])


@pytest.mark.parametrize(
    ("parameters", "mail"),
    [
        ("SIZE=0", Mail("a@b.example", 0)),
        ("SIZE=1000", Mail("a@b.example", 1000)),
        ("size=00012", Mail("a@b.example", 12)),
        ("BODY=7BIT", Mail("a@b.example", body="7BIT")),
        ("Body=8bitMime", Mail("a@b.example", body="8BITMIME")),
        ("SMTPUTF8", Mail("a@b.example", smtputf8=True)),
        ("SMTPUTF8  BODY=8BITMIME SIZE=7 ", Mail("a@b.example", 7, "8BITMIME", True)),
    ],
)
def test_mail_parameters(parameters: str, mail: Mail) -> None:
    assert said(f"MAIL FROM:<a@b.example> {parameters}")[0] == mail
    assert said(f"mail from:<> {parameters}")[0] == Mail("", mail.size, mail.body, mail.smtputf8)


@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        ("SIZE", "501 5.5.4 MAIL parameter SIZE has a wrong value"),
        ("SIZE=", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
        ("SIZE=-1", "501 5.5.4 MAIL parameter SIZE has a wrong value"),
        ("SIZE=1k", "501 5.5.4 MAIL parameter SIZE has a wrong value"),
        ("SIZE=" + "9" * 21, "501 5.5.4 SIZE has at most 20 digits"),
        ("SIZE=1001", "552 5.3.4 message size exceeds the limit of 1000 bytes"),
        ("SIZE=" + "9" * 20, "552 5.3.4 message size exceeds the limit of 1000 bytes"),
        ("SIZE=1 SIZE=1", "501 5.5.4 MAIL parameter SIZE is given twice"),
        ("SIZE=1 size=2", "501 5.5.4 MAIL parameter SIZE is given twice"),
        ("BODY", "501 5.5.4 MAIL parameter BODY has a wrong value"),
        ("BODY=BINARYMIME", "501 5.5.4 MAIL parameter BODY has a wrong value"),
        ("BODY=7BIT BODY=7BIT", "501 5.5.4 MAIL parameter BODY is given twice"),
        ("SMTPUTF8=1", "501 5.5.4 MAIL parameter SMTPUTF8 has a wrong value"),
        ("SMTPUTF8 SMTPUTF8", "501 5.5.4 MAIL parameter SMTPUTF8 is given twice"),
        ("RET=ALL", "501 5.5.4 RET must be FULL or HDRS"),
        ("RET", "501 5.5.4 RET must be FULL or HDRS"),
        ("ENVID=a+zz", "501 5.5.4 ENVID must be xtext, at most 100 characters"),
        (f"ENVID={'x' * 101}", "501 5.5.4 ENVID must be xtext, at most 100 characters"),
        ("PRDR", "555 5.5.4 MAIL parameter PRDR not recognised"),
        (
            "REQUIRETLS",
            "550 5.7.30 REQUIRETLS cannot be promised here: the route of the message is not known",
        ),
        ("AUTH=<>", "555 5.5.4 MAIL parameter AUTH not recognised"),
        ("x", "555 5.5.4 MAIL parameter X not recognised"),
        ("=1", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
        ("SIZE=1=2", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
        ("SIZE = 1", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
        ("-X", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
        ("X" * 64, f"555 5.5.4 MAIL parameter {'X' * 64} not recognised"),
        ("X" * 65, "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
        ("X=é", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
    ],
)
def test_bad_mail_parameters(parameters: str, reply: str) -> None:
    assert said(f"MAIL FROM:<a@b.example> {parameters}") == (None, [reply])


NOTIFY_SYNTAX = "501 5.5.4 NOTIFY must be NEVER, or a list of SUCCESS, FAILURE and DELAY"
ORCPT_SYNTAX = "501 5.5.4 ORCPT must be a type of address, a semicolon and xtext"


@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        ("NOTIFY=NEVER,FAILURE", NOTIFY_SYNTAX),
        ("NOTIFY=SUCCESS,SUCCESS", NOTIFY_SYNTAX),
        ("NOTIFY=", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
        ("NOTIFY", NOTIFY_SYNTAX),
        ("ORCPT=a@b.example", ORCPT_SYNTAX),
        ("ORCPT", ORCPT_SYNTAX),
        ("ORCPT=rfc822;", ORCPT_SYNTAX),
        ("ORCPT=rfc_822;a@b.example", ORCPT_SYNTAX),
        (f"ORCPT=rfc822;{'x' * 500}", ORCPT_SYNTAX),
        ("ORCPT=rfc822;a+2@b.example", ORCPT_SYNTAX),
        (
            "ORCPT=utf-8;é@b.example",
            "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value",
        ),
        ("NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4 RCPT parameter NOTIFY is given twice"),
        ("RET=FULL", "555 5.5.4 RCPT parameter RET not recognised"),
        ("SIZE=1", "555 5.5.4 RCPT parameter SIZE not recognised"),
        ("x=", "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"),
    ],
)
def test_bad_rcpt_parameters(parameters: str, reply: str) -> None:
    before = b"MAIL FROM:<>\r\n"
    assert said(f"RCPT TO:<a@b.example> {parameters}", before=before) == (None, [reply])


def test_dsn_parameters_are_kept_unchanged() -> None:
    mail = "MAIL FROM:<a@b.example> ret=hdrs ENVID=QQ314+2Bx SIZE=7"
    assert said(mail)[0] == Mail("a@b.example", 7, ret="hdrs", envid="QQ314+2Bx")
    rcpt = "RCPT TO:<a@b.example> NOTIFY=success,Delay,FAILURE ORCPT=rfc822;A+2Bx@B.example"
    expected = Rcpt("a@b.example", "success,Delay,FAILURE", "rfc822;A+2Bx@B.example")
    assert said(rcpt, before=b"MAIL FROM:<>\r\n")[0] == expected


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ("utf-8;jérôme@bücher.example", r"utf-8;j\x{E9}r\x{F4}me@b\x{FC}cher.example"),
        (r"UTF-8;j\x{E9}+2Bx@b.example", r"UTF-8;j\x{E9}+2Bx@b.example"),
        ("utf-8;😀@b.example", r"utf-8;\x{1F600}@b.example"),
    ],
)
def test_an_original_recipient_in_utf_8(given: str, passed_on: str) -> None:
    """It may be raw UTF-8 after SMTPUTF8; ASCII is always accepted."""
    rcpt = f"RCPT TO:<a@b.example> NOTIFY=NEVER ORCPT={given}"
    found, _ = said(rcpt, before=b"MAIL FROM:<> SMTPUTF8\r\n")
    assert found == Rcpt("a@b.example", "NEVER", passed_on)


@pytest.mark.parametrize("parameter", ["ORCPT=rfc822;é@b.example", "NOTIFY=é"])
def test_other_parameters_must_be_ascii(parameter: str) -> None:
    reply = "501 5.5.4 bad parameter syntax; write KEYWORD or KEYWORD=value"
    rcpt = f"RCPT TO:<a@b.example> {parameter}"
    assert said(rcpt, before=b"MAIL FROM:<> SMTPUTF8\r\n") == (None, [reply])


def test_the_auth_parameter_of_mail_is_not_believed() -> None:
    argument = "FROM:<a@b.example> AUTH=boss@b.example"
    mail = parse_mail(argument, extended=True, size_limit=9, offered={"AUTH"})
    assert mail == Mail("a@b.example")


def test_parameters_are_refused_after_helo() -> None:
    reply = "555 5.5.4 parameters need EHLO first"
    greeting = b"HELO client.example\r\n"
    for parameter in ("SIZE=1", "BODY=8BITMIME", "SMTPUTF8", "X"):
        assert said(f"MAIL FROM:<a@b.example> {parameter}", greeting=greeting) == (None, [reply])
    before = b"MAIL FROM:<a@b.example>\r\n"
    assert said('RCPT TO:<"a b"@b.example>', before=before, greeting=greeting)[0] is not None
    said_ = said("RCPT TO:<a@b.example> NOTIFY=NEVER", before=before, greeting=greeting)
    assert said_ == (None, [reply])
    assert said("MAIL FROM:<a@b.example> ", greeting=greeting)[0] == Mail("a@b.example")


def test_addresses_that_are_not_ascii_need_smtputf8() -> None:
    reply = "553 5.6.7 non-ASCII address needs the SMTPUTF8 parameter of MAIL"
    for path in ("é@b.example", "a@bücher.example", '"é"@b.example'):
        assert said(f"MAIL FROM:<{path}>") == (None, [reply])
        assert said(f"MAIL FROM:<{path}> BODY=8BITMIME") == (None, [reply])
        assert said(f"MAIL FROM:<{path}> SMTPUTF8")[0] == Mail(path, smtputf8=True)
        assert said(f"RCPT TO:<{path}>", before=b"MAIL FROM:<>\r\n") == (None, [reply])
        assert said(f"RCPT TO:<{path}>", before=b"MAIL FROM:<> SMTPUTF8\r\n")[0] == Rcpt(path)


def test_smtputf8_applies_to_one_transaction() -> None:
    before = b"MAIL FROM:<> SMTPUTF8\r\nRSET\r\nMAIL FROM:<>\r\n"
    assert said("RCPT TO:<é@b.example>", before=before)[0] is None


@pytest.mark.parametrize("octet", sorted({*range(32), 127} - {*b"\t\r\n"}))
def test_control_characters_are_refused_in_every_place(octet: int) -> None:
    """Except a tab, which each command's grammar handles, and CR and LF, which end the session."""
    reply = "501 5.5.2 a command cannot contain control characters"
    for line in ("NOOP {}", "MAIL FROM:<a{}@b.example>", 'MAIL FROM:<"{}"@b.example>', "{}", "N{}"):
        assert said(line.format(chr(octet))) == (None, [reply])


def test_a_tab_is_not_a_space() -> None:
    assert said("MAIL\tFROM:<a@b.example>")[1][0].startswith("500 5.5.1")
    assert said("MAIL FROM:<a@b.example>\tSIZE=1")[1][0].startswith("501 5.1.7")
    assert said('MAIL FROM:<"\t"@b.example>')[1][0].startswith("501 5.1.7")


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_invalid_utf_8_is_refused(bad: bytes) -> None:
    reply = "501 5.5.2 a command must be ASCII or UTF-8"
    for line in (b"MAIL FROM:<" + bad + b"@b.example> SMTPUTF8", b"NOOP " + bad, bad):
        assert said(line.decode("utf-8", "surrogateescape")) == (None, [reply])


@pytest.mark.parametrize("line", ["NOOP", "noop", "NOOP anything <>\t at all"])
def test_noop(line: str) -> None:
    assert said(line) == (None, ["250 2.0.0 OK"])


def test_vrfy_help_and_unimplemented_commands() -> None:
    reply = "252 2.5.2 cannot verify; send mail and it will be tried"
    assert said("VRFY jeanne") == (None, [reply])
    assert said("VRFY") == (None, ["501 5.5.4 syntax: VRFY address"])
    assert said("HELP DATA")[1] == [
        "214-2.0.0 EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT",
        "214 2.0.0 see RFC 5321",
    ]
    for verb in ("EXPN", "STARTTLS", "AUTH", "ETRN", "TURN"):
        assert said(f"{verb} x") == (None, [f"502 5.5.1 {verb} is not implemented here"])


@pytest.mark.parametrize(
    "line",
    ["", " ", " NOOP", "FOO", "MAILFROM:<a@b.example>", "DATAX", "é", "R\u017fET", "QU\u0131T"],
)  # letters whose upper case is ASCII
def test_unknown_commands(line: str) -> None:  # fmt: skip
    reply = "500 5.5.1 command not recognised; HELP lists them"
    assert said(line) == (None, [reply])


@pytest.mark.parametrize("verb", ["RSET", "QUIT", "DATA"])
def test_commands_that_take_no_argument(verb: str) -> None:
    before = b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n"
    talked = settled(HELLO + before + verb.encode() + b" now\r\n")
    assert talked.lines[-1] == f"501 5.5.4 {verb} takes no argument"
    assert settled(HELLO + before + verb.encode() + b"  \r\n").errors == 0


TAKEN_OR_REFUSED = {"214", "221", "250", "252", "500", "501", "502", "503", "552", "553", "555"}


@quick
@given(st.text(max_size=40))
@example("REQUIRETLS")
def test_any_command_is_accepted_or_refused(text: str) -> None:
    line = text.encode("utf-8", "replace").replace(b"\r", b"").replace(b"\n", b"")
    for opening in (b"", b"EHLO ", b"MAIL FROM:", b"MAIL FROM:<a@b.example> ", b"MAIL FROM:<"):
        talked = talk(HELLO + opening + line + b"\r\n")
        code = talked.codes[-1]
        assert code[:3] in TAKEN_OR_REFUSED or code == "550 5.7.30"  # REQUIRETLS, RFC 8689


@given(
    st.sampled_from(sorted(PATHS)), st.sampled_from(['"', ">", "<", " ", "\\", "@", "\x00", "é"])
)
def test_an_accepted_path_can_be_put_in_brackets_again(path: str, extra: str) -> None:
    """Sent to the upstream between < and >, it must be the same path there."""
    for position in range(len(path)):
        spoilt = path[:position] + extra + path[position:]
        for command in talk(HELLO + f"MAIL FROM:{spoilt} SMTPUTF8\r\n".encode()).commands[1:]:
            assert isinstance(command, Mail)
            again = talk(HELLO + f"MAIL FROM:<{command.reverse_path}> SMTPUTF8\r\n".encode())
            assert again.commands[1] == command


SOMETHING_LIKE_PATHS = st.builds(
    lambda words, ends: ends[0] + "".join(words) + ends[1],
    st.lists(st.sampled_from([*'ab9@.-_+A "%<>é', "x.test", "l" * 30, "d.d." * 30]), max_size=12),
    st.sampled_from([("<", ">"), ("<a", "@b.test>"), ("<a@", ">"), ("", ""), (" <a@b", "c.test>")]),
)


@pytest.mark.parametrize("verb", ["from:", "TO:"])
@quick
@given(path=SOMETHING_LIKE_PATHS, behind=st.sampled_from(["", " ", " x"]))
@example(path=f"<{PATH_256}>", behind="")
@example(path=f"<{PATH_256}d>", behind="")
@example(path=f"<{LOCAL_64}l@d.test>", behind="")
def test_the_fast_parser_agrees_with_the_full_one(verb: str, path: str, behind: str) -> None:
    read, plain = {"from:": (_mail, SIMPLE_MAIL), "TO:": (_rcpt, SIMPLE_RCPT)}[verb]
    glance = plain.fullmatch(verb + path + behind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smtpproxy.mail.address._SIMPLE_PATH", re.compile(r"(?!)"))
        stepwise = read(verb + path + behind)
    if glance:
        assert stepwise == {"from:": Mail, "TO:": Rcpt}[verb](glance[1])
    assert read(verb + path + behind) == stepwise


def _mail(argument: str) -> object:
    try:
        return parse_mail(argument, extended=True, size_limit=1000, offered=())
    except CommandError as error:
        return error.reply


def _rcpt(argument: str) -> object:
    try:
        return parse_rcpt(argument, extended=True, smtputf8=True)
    except CommandError as error:
        return error.reply
