"""Whether the text of a message shows its readers how to unsubscribe.

Words for it do not suffice, nor does a link elsewhere: the words are to be in the link, or beside
it. A link that the program left without a target (`#`, a placeholder, nothing at all) takes its
words with it, so that the next link does not count for it.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, IntEnum
from itertools import islice
from operator import itemgetter
from urllib.parse import unquote, urlsplit

import idna

from smtpproxy.mail.unsubscribe import (
    LONGEST_PLACEHOLDER,
    link_fault,
    placeholder,
    placeholder_within,
)
from smtpproxy.mail.visible_html import Way
from smtpproxy.mail.visible_text import VisibleText, folded
from smtpproxy.policy.bulk_text import mentions_unsubscribing, unsubscribe_mentions
from smtpproxy.policy.model import MessageFeatures, Stream
from smtpproxy.policy.rules.message import adds_unsubscribe

_NEAR = 200  # characters between the words and their link
_BAR = re.compile("[|·•]")  # between links
_SEPARATOR = re.compile("[|·•.;:!?-]")
# "Click here", of which the next line or cell says what for: "to unsubscribe".
_POINTS = re.compile(
    r"\b(?:click|here|visit|mail to|cliqu|ici|ecri|envoy|klick|hier|besuch|schreib|clic|aqui|qui"
    r"|klik|tutaj)"
)
_POINTING = 30  # characters before the link
_GOES_ON = re.compile(
    r"[\s>)\]*]{0,3}(?:to|if|pour|si|afin de|um|wenn|falls|para|per|om|als|aby|jesli)\b"
    r"[^|·•.;:!?]{0,40}"
)
_MOST_MENTIONS = 1_000
_MOST_NEIGHBOURS = 10  # links before the words, and after them
_MOST_MAILBOXES = 100  # of a text: a wrong one may take 0.5 ms
_MOST_IN_LETTERS = 20  # of List-Unsubscribe, which has two: each takes 0.1 ms
_OTHER_SCHEME = re.compile(r"(?!javascript:)[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # tel:


class _Leads(Enum):
    """Where a link leads."""

    OUT = "out"  # to List-Unsubscribe's host or mailbox, or anywhere if the relay adds it
    NOWHERE = "nowhere"
    ELSEWHERE = "elsewhere"


def shows_way_out(
    stream: Stream, features: MessageFeatures, visible: VisibleText, people: Sequence[str]
) -> bool:
    """Whether the text has words for unsubscribing, and with them a link to where List-Unsubscribe
    leads, or the address of its mailbox: mail programs make that a link.

    If the message has none of its own, or the relay replaces it, any usable link will do; a
    placeholder or an impossible host is not usable. Nor is the reader's own address in the text:
    "This was sent to …".
    """
    targets = _Targets(stream, features, people)
    ways = [way for way in visible.ways if way.alt is not None]  # those that one can click on
    for alt, way in islice(((way.alt, way) for way in ways if way.alt), _MOST_MENTIONS):
        if mentions_unsubscribing(folded(alt)) and targets.leads(way) is _Leads.OUT:
            return True
    starts = [way.start for way in ways]
    for start, end in islice(unsubscribe_mentions(visible.text), _MOST_MENTIONS):
        for way in _likeliest(visible.text, ways, starts, start, end):
            leads = targets.leads(way)
            if leads is _Leads.NOWHERE or (leads is _Leads.OUT and _left(visible.text, start, way)):
                break
            if leads is _Leads.OUT:
                return True
    return False


class _Place(IntEnum):
    """Where a link is, seen from the words; the likeliest place to be theirs comes first."""

    AROUND = 0  # the words are in it
    AFTER = 1  # in their line
    BEFORE = 2  # in their line
    FURTHER_ON = 3  # after them, past a bar or in a later line
    SET_APART = 4  # before them in their line, but past a bar, a stop or a dash
    LINE_BEFORE = 5  # in an earlier line, whose sentence the words go on with


def _likeliest(
    text: str, ways: Sequence[Way], starts: Sequence[int], start: int, end: int
) -> list[Way]:
    """The links that may belong to the words from `start` to `end`: by place, then by distance."""
    after = bisect_left(starts, end)
    found = []
    for way in ways[max(0, after - _MOST_NEIGHBOURS) : after + _MOST_NEIGHBOURS]:
        apart = max(way.start - end, start - way.end, 0)
        place = _place(text, way, start, end) if apart <= _NEAR else None
        if place is not None:
            found.append((place, apart, way))
    return [way for _, _, way in sorted(found, key=itemgetter(0, 1))]


def _place(text: str, way: Way, start: int, end: int) -> _Place | None:
    if way.start < end and start < way.end:
        return _Place.AROUND
    line_begin, line_end = way.line
    same_line = line_begin <= start and end <= line_end
    if way.start >= end:
        is_next = same_line and not _BAR.search(text, end, way.start)
        return _Place.AFTER if is_next else _Place.FURTHER_ON
    if same_line:
        return _Place.SET_APART if _SEPARATOR.search(text, way.end, start) else _Place.BEFORE
    return _Place.LINE_BEFORE if _goes_on(text, way, start) else None


def _goes_on(text: str, way: Way, words: int) -> bool:
    """Whether the words say what the link is for: "Click here", and in the next line "to …"."""
    pointing = _POINTS.search(text, max(0, way.start - _POINTING), way.end)
    return pointing is not None and _GOES_ON.fullmatch(text, way.end, words) is not None


def _left(text: str, words: int, way: Way) -> bool:
    """Whether a placeholder contains or follows the words, ahead of this link if that follows them
    too: their own link was to take its place."""
    if way.end <= words:
        return placeholder_within(text, way.end, words + LONGEST_PLACEHOLDER, words)
    return placeholder_within(text, max(0, words - LONGEST_PLACEHOLDER), way.start, words)


class _Targets:
    """Where the links of one message lead."""

    def __init__(self, stream: Stream, features: MessageFeatures, people: Sequence[str]) -> None:
        self._hosts, self._boxes = set[str](), set[str]()
        if not adds_unsubscribe(stream, features):
            hosts = [_host(uri) for uri in features.unsubscribe_https]
            boxes = [_mailbox(uri) for uri in features.unsubscribe_mailto]
            self._hosts, self._boxes = _with_letters(hosts) - {""}, _with_letters(boxes)
        self._named = bool(self._hosts or self._boxes)
        self._reader = people[0] if len(people) == 1 else ""
        self._known: dict[tuple[str, bool], _Leads] = {}
        self._mailboxes = 0

    def leads(self, way: Way) -> _Leads:
        key = way.target, way.is_address
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._looked_up(way)
        return found

    def _looked_up(self, way: Way) -> _Leads:
        link = f"mailto:{way.target}" if way.is_address else way.target.replace("\\", "/")
        if link[:7].lower() == "mailto:":
            return self._mail(link, way)
        if link_fault(link) is not None:
            return _Leads.NOWHERE
        host = _host(link)
        if host:
            return _Leads.ELSEWHERE if self._named and host not in self._hosts else _Leads.OUT
        return _Leads.ELSEWHERE if _OTHER_SCHEME.match(link) else _Leads.NOWHERE

    def _mail(self, link: str, way: Way) -> _Leads:
        if placeholder(link) is not None:
            return _Leads.NOWHERE
        box = _mailbox(link)
        if (box not in self._boxes) if self._named else (way.is_address and box == self._reader):
            return _Leads.ELSEWHERE
        self._mailboxes += 1
        if self._mailboxes > _MOST_MAILBOXES or link_fault(link) is not None:
            return _Leads.ELSEWHERE
        return _Leads.OUT


def _host(uri: str) -> str:
    try:
        return (urlsplit(uri).hostname or "").lower().rstrip(".")
    except ValueError:
        return ""


def _with_letters(names: Sequence[str]) -> set[str]:
    """Hosts or mailboxes, also as a text may write them: straße.example for xn--strae-oqa.example.

    As browsers read them: the codec of Python takes ß for ss.
    """
    found = set(names)
    for name in names[:_MOST_IN_LETTERS]:
        before, at, host = name.rpartition("@")
        with suppress(UnicodeError):
            found.add(before + at + idna.decode(host))
    return found


def _mailbox(uri: str) -> str:
    return unquote(uri.partition(":")[2].partition("?")[0]).strip().lower()
