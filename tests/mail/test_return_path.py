"""Return paths: what they say, and what is none of ours."""

import pytest

from smtpproxy.mail.return_path import ReturnPaths, candidates
from smtpproxy.mail.unsubscribe_token import TokenError, stream_tag

ID, JEANNE = "01J9ZZZZZZ0123456789ABCDEF", "jeanne@example.org"
PATHS = ReturnPaths({1: b"k" * 64}, "bounces.example.com")
OTHERS = ReturnPaths({1: b"o" * 64}, "bounces.example.com")
ADDRESS = PATHS.make(ID, "offers", JEANNE)
LOCAL, _, DOMAIN = ADDRESS.partition("@")


def test_it_says_the_decision_the_stream_and_the_recipient() -> None:
    read = PATHS.read(LOCAL)
    assert (read.id, read.stream) == (ID, stream_tag("offers"))
    assert PATHS.concerns(read, JEANNE)
    assert not PATHS.concerns(read, "paul@example.org")


def test_it_fits_a_local_part_and_case_says_nothing() -> None:
    longest = PATHS.make("7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "s" * 64, "x" * 64 + "@" + "y" * 180)
    assert {len(each.partition("@")[0]) for each in (ADDRESS, longest)} == {64}
    assert DOMAIN == "bounces.example.com"
    assert PATHS.read(LOCAL.upper()) == PATHS.read(LOCAL)
    assert "jeanne" not in ADDRESS


def test_two_messages_to_one_person_show_nothing_in_common() -> None:
    other = PATHS.read(PATHS.make("01J9ZZZZZZ0123456789ABCDEG", "offers", JEANNE).partition("@")[0])
    assert other.person != PATHS.read(LOCAL).person


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "jeanne",
        LOCAL[:-1],
        LOCAL + "a",
        "c" + LOCAL[1:],
        LOCAL[:20] + ("a" if LOCAL[20] != "a" else "c") + LOCAL[21:],
        LOCAL[:-4] + ("aaaa" if LOCAL[-4:] != "aaaa" else "cccc"),
        OTHERS.make(ID, "offers", JEANNE).partition("@")[0],
        "b" + "a" * 63,
        "b" + "ı" * 63,
    ],
)
def test_what_we_did_not_make_is_no_return_path(forged: str) -> None:
    with pytest.raises(TokenError):
        PATHS.read(forged)


def test_every_octet_counts() -> None:
    for at in range(1, 63):  # the last character has bits that say nothing
        for letter in "a7":
            if LOCAL[at] != letter:
                with pytest.raises(TokenError):
                    PATHS.read(LOCAL[:at] + letter + LOCAL[at + 1 :])


def test_a_new_key_makes_them_and_the_old_ones_are_read() -> None:
    both = ReturnPaths({1: b"k" * 64, 2: b"n" * 64}, "bounces.example.com")
    new = both.make(ID, "offers", JEANNE).partition("@")[0]
    assert both.concerns(both.read(LOCAL), JEANNE)
    assert both.concerns(both.read(new), JEANNE)
    assert both.knows(new)
    assert not PATHS.knows(new)
    with pytest.raises(TokenError):
        PATHS.read(new)


def test_they_are_found_in_what_mail_systems_write() -> None:
    text = f"Return-Path: <{ADDRESS.upper()}>\nX: prvs=1234={ADDRESS}, {LOCAL}x {'b' * 65}"
    assert list(candidates(text)) == [LOCAL, LOCAL]
