"""One text to many people has few fingerprints; personal letters have one each.

Run as a program, it prints the figures of docs/bulk.md.
"""

from collections import Counter
from collections.abc import Iterable

import pytest

from smtpproxy.mail.mime import Body, TextPart
from smtpproxy.mail.visible_text import VisibleText, visible_text
from smtpproxy.policy.content_checks import fingerprint
from tests.policy.letters import CAMPAIGNS, TEMPLATES, Letter, campaign, transactional

PEOPLE = 1_000
MOST = 100  # the default of `bulk_recipients` where it matters


def shown(letter: Letter) -> VisibleText:
    return visible_text(Body((TextPart(not letter.html, letter.body),), whole=True))


def over(letters: Iterable[Letter], *, numbers: bool = False) -> int:
    """The number of letters, one after another, whose text has gone to too many people."""
    sent: Counter[bytes] = Counter()
    found = 0
    for letter in letters:
        names = [letter.name] if letter.name else []
        text = fingerprint(shown(letter), [letter.address], names, numbers=numbers)
        if text is not None:
            sent[text] += 1
            found += sent[text] > MOST
    return found


FALSE = {"password reset", "same invoice", "welcome"}
"""Letters indistinguishable from bulk: only a link in them is personal."""


@pytest.mark.parametrize("kind", TEMPLATES)
def test_personal_letters_are_not_bulk(kind: str) -> None:
    found = over(transactional(kind, PEOPLE))
    assert (found > 0) == (kind in FALSE)


MISSED = {"points of one's own", "goods of one's own"}


@pytest.mark.parametrize("kind", CAMPAIGNS)
def test_campaigns_are_bulk(kind: str) -> None:
    assert over(campaign(kind, PEOPLE)) == (0 if kind in MISSED else PEOPLE - 2 * MOST)


def text(body: str, address: str = "anna@b.example", name: str = "") -> bytes | None:
    letter = Letter("", address, name, False, body)
    return fingerprint(shown(letter), [address], [name])


NEWS = "the news of our shop for you today"
SAME = [
    (f"Dear Anna, here is {NEWS}", f"Dear Bob, here is {NEWS}"),
    (f"Here is {NEWS}, dear friend ANNA", f"Here is {NEWS}, dear friend Bob"),
    (f"Here is {NEWS} at anna@b.example", f"Here is {NEWS} at bob@c.example"),
    (f"Here is {NEWS} https://x.example/a?t=1", f"Here is {NEWS} https://x.example/a?t=2"),
    (f"Here is {NEWS} mailto:no+1@x.example", f"Here is {NEWS} mailto:no+2@X.example?subject=2"),
    # however late in the text
    (f"{'shoes and ' * 7_000}boots for Anna", f"{'shoes and ' * 7_000}boots for Bob"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_personal_details_are_masked(one: str, other: str) -> None:
    assert text(one, "anna@b.example", "Anna") == text(other, "bob@c.example", "Bob")
    assert text(one) is not None


def test_other_texts_and_links_have_other_fingerprints() -> None:
    first = text("Here is the news of our shop https://x.example/sale/1 for you")
    assert first != text("Here is the news of our shop https://x.example/boots/1 for you")
    assert first != text("Here is the news of our shop https://y.example/sale/1 for you")
    assert first != text("Here is the news of their shop https://x.example/sale/1 for you")
    assert first != text("Here is the news of our shop mailto:no@x.example for you")
    assert text(f"{'shoes and ' * 7_000}boots") != text(f"{'shoes and ' * 7_000}hats")
    assert text("Too short to tell") is None


if __name__ == "__main__":
    for kind in (*TEMPLATES, *CAMPAIGNS):
        write = transactional if kind in TEMPLATES else campaign
        letters = list(write(kind, PEOPLE))
        row = (over(letters), over(letters, numbers=True))
        print(f"| {kind} | {row[0]} | {row[1]} |")
