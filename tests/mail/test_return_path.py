"""Return paths: what they encode, and recognising foreign ones."""

import pytest

from smtpproxy.mail.return_path import ReturnPaths, candidates
from smtpproxy.mail.unsubscribe_token import TokenError, stream_tag

ID, JEANNE = "01J9ZZZZZZ0123456789ABCDEF", "jeanne@example.org"
PATHS = ReturnPaths({1: b"k" * 64}, "bounces.example.com")
OTHERS = ReturnPaths({1: b"o" * 64}, "bounces.example.com")
ADDRESS = PATHS.make(ID, "offers", JEANNE)
LOCAL, _, DOMAIN = ADDRESS.partition("@")


def test_a_return_path_encodes_decision_stream_and_recipient() -> None:
    read = PATHS.read(LOCAL)
    assert (read.id, read.stream) == (ID, stream_tag("offers"))
    assert PATHS.concerns(read, JEANNE)
    assert not PATHS.concerns(read, "paul@example.org")


def test_a_return_path_fits_a_local_part_and_ignores_case() -> None:
    longest = PATHS.make("7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "s" * 64, "x" * 64 + "@" + "y" * 180)
    assert {len(each.partition("@")[0]) for each in (ADDRESS, longest)} == {64}
    assert DOMAIN == "bounces.example.com"
    assert PATHS.read(LOCAL.upper()) == PATHS.read(LOCAL)
    assert "jeanne" not in ADDRESS


def test_return_paths_of_two_messages_to_one_person_share_nothing() -> None:
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
def test_foreign_return_paths_are_not_recognised(forged: str) -> None:
    with pytest.raises(TokenError):
        PATHS.read(forged)


def test_changing_any_octet_invalidates_a_return_path() -> None:
    for at in range(1, 63):  # the last character has unused bits
        for letter in "a7":
            if LOCAL[at] != letter:
                with pytest.raises(TokenError):
                    PATHS.read(LOCAL[:at] + letter + LOCAL[at + 1 :])


def test_return_paths_are_made_with_the_new_key_and_read_with_old_ones() -> None:
    both = ReturnPaths({1: b"k" * 64, 2: b"n" * 64}, "bounces.example.com")
    new = both.make(ID, "offers", JEANNE).partition("@")[0]
    assert both.concerns(both.read(LOCAL), JEANNE)
    assert both.concerns(both.read(new), JEANNE)
    assert both.knows(new)
    assert not PATHS.knows(new)
    with pytest.raises(TokenError):
        PATHS.read(new)


def test_return_paths_are_found_in_text_of_mail_systems() -> None:
    text = f"Return-Path: <{ADDRESS.upper()}>\nX: prvs=1234={ADDRESS}, {LOCAL}x {'b' * 65}"
    assert list(candidates(text)) == [LOCAL, LOCAL]
