"""The order of commands: every command in every state."""

import pytest

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import Data, Hello, Mail, Rcpt
from smtpproxy.wire.session import Command, State
from tests.wire.feeding import HELLO, Answer, Server, accept, settled, talk

MAIL = b"MAIL FROM:<a@shop.example>\r\n"
RCPT = b"RCPT TO:<b@people.example>\r\n"
MESSAGE = b"DATA\r\nx\r\n.\r\n"

STATES = {
    "start": b"",
    "greeted": HELLO,
    "greeted by HELO": b"HELO client.example\r\n",
    "after MAIL": HELLO + MAIL,
    "after RCPT": HELLO + MAIL + RCPT,
    "after a message": HELLO + MAIL + RCPT + MESSAGE,
    "after RSET": HELLO + MAIL + RCPT + b"RSET\r\n",
    "after a second EHLO": HELLO + MAIL + RCPT + HELLO,
}
FIRST = "503 5.5.1"
OK = "250 2.0.0"
COLUMNS = ("EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "VRFY", "HELP", "QUIT", "FOO")
ARGUMENTS = {
    "EHLO": " client.example",
    "HELO": " client.example",
    "MAIL": " FROM:<a@shop.example>",
    "RCPT": " TO:<b@people.example>",
    "VRFY": " b",
}
ALWAYS = {
    "EHLO": "250 LIMITS",
    "HELO": "250 relay.example",
    "RSET": OK,
    "NOOP": OK,
    "VRFY": "252 2.5.2",
    "HELP": "214 2.0.0",
    "QUIT": "221 2.0.0",
    "FOO": "500 5.5.1",
}
GREETED = {"MAIL": OK, "RCPT": FIRST, "DATA": FIRST}
TABLE = {
    "start": {"MAIL": FIRST, "RCPT": FIRST, "DATA": FIRST},
    "greeted": GREETED,
    "greeted by HELO": GREETED,
    "after MAIL": {"MAIL": FIRST, "RCPT": OK, "DATA": "554 5.5.1"},
    "after RCPT": {"MAIL": FIRST, "RCPT": OK, "DATA": "354 go"},
    "after a message": GREETED,
    "after RSET": GREETED,
    "after a second EHLO": GREETED,
}
"""For each state, replies to the commands whose place matters; others are in ALWAYS."""


@pytest.mark.parametrize("verb", COLUMNS)
@pytest.mark.parametrize("state", STATES)
def test_every_command_in_every_state(state: str, verb: str) -> None:
    line = (verb + ARGUMENTS.get(verb, "")).encode() + b"\r\n"
    talked = settled(STATES[state] + line)
    assert talked.codes[-1] == ALWAYS.get(verb) or talked.codes[-1] == TABLE[state].get(verb)
    refused = talked.codes[-1][0] in "45"
    assert talked.errors == (refused and talked.codes[-1] != "554 5.5.1")


@pytest.mark.parametrize(
    ("before", "command", "text"),
    [
        (b"", MAIL, "503 5.5.1 send EHLO first"),
        (HELLO, RCPT, "503 5.5.1 send MAIL first"),
        (HELLO, b"DATA\r\n", "503 5.5.1 send MAIL and RCPT first"),
        (HELLO + MAIL, MAIL, "503 5.5.1 a transaction is open; send RSET first"),
        (HELLO + MAIL, b"DATA\r\n", "554 5.5.1 no valid recipients"),
    ],
)
def test_a_refusal_says_what_should_come_first(before: bytes, command: bytes, text: str) -> None:
    assert settled(before + command).lines[-1] == text


def refusing(*kinds: type) -> Answer:
    def answer(command: Command) -> Reply:
        if isinstance(command, kinds):
            return Reply.of(450, "4.7.0", "not now")
        return accept(command)

    return answer


@pytest.mark.parametrize(
    ("kind", "data", "state"),
    [
        (Mail, HELLO + MAIL, State.READY),
        (Data, HELLO + MAIL + RCPT + b"DATA\r\n", State.MAIL),
    ],
)
def test_a_refused_command_does_not_change_the_state(kind: type, data: bytes, state: State) -> None:
    server = Server(refusing(kind))
    assert server.feed(data).endswith(b"450 4.7.0 not now\r\n")
    assert server.engine.state is state


def test_refused_recipients_do_not_allow_data() -> None:
    def answer(command: Command) -> Reply:
        if getattr(command, "forward_path", "").startswith("no"):
            return Reply.of(550, "5.7.1", "refused")
        return accept(command)

    no = b"RCPT TO:<no@people.example>\r\n"
    assert settled(HELLO + MAIL + no + no + b"DATA\r\n", answer).codes[-1] == "550 5.7.1"
    assert settled(HELLO + MAIL + no + RCPT + b"DATA\r\n", answer).codes[-1] == "354 go"


def by_name(command: Command) -> Reply:
    """Refuse `no…` for good and `later…` for now, naming each."""
    name = getattr(command, "forward_path", "").partition("@")[0]
    if name.startswith(("no", "later")):
        return Reply.of(450 if name.startswith("later") else 550, None, name)
    return accept(command)


@pytest.mark.parametrize(
    ("names", "reply"),
    [
        (["no1", "no2"], "550 no1"),
        (["no1", "later1", "later2"], "450 later1"),
        (["later1", "no1"], "450 later1"),
        (["no1", "unreadable", "later1"], "450 later1"),
        (["unreadable", "no1"], "501 5.5.4 syntax: RCPT TO:<address>"),
    ],
)
@pytest.mark.parametrize("command", [b"DATA\r\n", b"BDAT 3 LAST\r\nx\r\n"])
def test_the_reply_to_data_repeats_the_reason(names: list[str], reply: str, command: bytes) -> None:
    """Swift Mailer pipelines RCPT and DATA and shows only the last reply."""
    recipients = b"".join(
        f"RCPT TO:<{name}@people.example>\r\n".encode() if name != "unreadable" else b"RCPT x\r\n"
        for name in names
    )
    assert settled(HELLO + MAIL + recipients + command, by_name).lines[-1] == reply


@pytest.mark.parametrize("names", [["no"], ["yes", "no"], ["unreadable"]])
def test_mail_abandons_a_transaction_with_a_refused_recipient(names: list[str]) -> None:
    """Libraries with persistent connections leave it without RSET.

    Accepted recipients are forgotten even if the new MAIL is refused."""
    recipients = b"".join(
        f"RCPT TO:<{name}@people.example>\r\n".encode() if name != "unreadable" else b"RCPT x\r\n"
        for name in names
    )
    again = settled(HELLO + MAIL + recipients + MAIL + b"DATA\r\n", by_name)
    assert again.codes[-2:] == [OK, "554 5.5.1"]

    def once(command: Command) -> Reply:
        if isinstance(command, Mail) and command.reverse_path == "no@shop.example":
            return Reply.of(550, None, "not from there")
        return by_name(command)

    refused = settled(HELLO + MAIL + recipients + b"MAIL FROM:<no@shop.example>\r\n" + RCPT, once)
    assert refused.lines[-2:] == ["550 not from there", "503 5.5.1 send MAIL first"]

    for fault, code in ((b"x", "501 5.5.4"), (b"FROM:<a@shop.example> SIZE=9999999", "552 5.3.4")):
        unread = settled(HELLO + MAIL + recipients + b"MAIL " + fault + b"\r\n" + RCPT, by_name)
        assert unread.codes[-2:] == [code, FIRST]


def test_data_pipelined_behind_refused_recipients_is_not_an_error() -> None:
    """The pipelining is legitimate, so it must not count as a client's error."""

    def answer(command: Command) -> Reply:
        if isinstance(command, Rcpt):
            return Reply.of(550, "5.7.1", "refused")
        return accept(command)

    assert settled(HELLO + MAIL + RCPT + b"DATA\r\n", answer).errors == 0


def test_recipients_end_with_their_transaction() -> None:
    for between in (b"RSET\r\n", HELLO, MESSAGE):
        data = HELLO + MAIL + RCPT + between + MAIL + b"DATA\r\n"
        assert settled(data).codes[-1] == "554 5.5.1", between


def test_rset_before_ehlo_does_not_count_as_a_greeting() -> None:
    assert settled(b"RSET\r\n" + MAIL).codes == [OK, FIRST]


def test_helo_withdraws_the_extensions() -> None:
    talked = settled(HELLO + b"HELO client.example\r\nMAIL FROM:<a@shop.example> SIZE=1\r\n")
    assert talked.codes[-1] == "555 5.5.4"
    assert [command.extended for command in talked.commands if isinstance(command, Hello)] == [
        True,
        False,
    ]


def test_nothing_is_accepted_after_quit() -> None:
    talked = settled(HELLO + b"QUIT\r\n" + MAIL + b"NOOP\r\n")
    assert talked.codes[-1] == "221 2.0.0"
    assert len(talked.commands) == 2


def test_every_reply_has_an_enhanced_code_of_its_class() -> None:
    """Except greetings, 354 and replies that are not ours (RFC 2034)."""
    for state in STATES.values():
        for verb in COLUMNS:
            for arguments in ("", ARGUMENTS.get(verb, ""), " \x00", " \xe9 x", " <>"):
                talked = talk(state + f"{verb}{arguments}\r\n".encode("latin-1"))
                for line in talked.lines[len(talk(state).lines) :]:
                    if (verb in ("EHLO", "HELO") and line[0] == "2") or line[:3] == "354":
                        continue
                    enhanced = line[4:].split(" ")[0]
                    assert enhanced[0] == line[0], line
                    assert enhanced.count(".") == 2, line
