"""When a stream gets a warning or a pause because of feedback from recipients and their providers.

A rate is a share of the messages sent within the window: feedback counts for when its message was
sent, not for when it arrived, so that late complaints are not held against later mail.
docs/adr/0024-breaker.md says why.
"""

from collections.abc import Container, Mapping
from enum import StrEnum
from itertools import product
from typing import Literal

from msgspec import Struct

MILLION = 1_000_000
STREAM, BRAND = "stream:", "brand:"
"""How the subject of a pause begins, before the name of the stream or brand."""
MARKETING, RESTORE = "marketing", "restore"
"""Subject and cause of the pause of all marketing after the store was restored from a backup."""


class Feedback(StrEnum):
    """The kinds of feedback about a message, each with the message's valid token."""

    COMPLAINT = "complaint"
    DEAD_ADDRESS = "dead_address"
    UNSUBSCRIBE = "unsubscribe"
    BLOCK = "block"  # the receiving system treated it as spam, or its policy forbids it


Level = Literal["warn", "pause"]


class Bound(Struct, frozen=True):
    """The shares of messages, in parts per million, that cause a warning or a pause; None:
    never."""

    warn: int | None = None
    pause: int | None = None


class BreakerRules(Struct, frozen=True):
    """The bounds, and the minimum numbers for them: one report about ten messages proves
    nothing."""

    bounds: Mapping[Feedback, Bound]
    minimum_messages: int = 500
    minimum_reports: int = 3


class Tally(Struct, frozen=True):
    """Messages sent within the window, one for each recipient, and the feedback about them."""

    messages: int = 0
    heard: Mapping[Feedback, int] = {}

    def __add__(self, other: "Tally") -> "Tally":
        heard = {kind: self.heard.get(kind, 0) + other.heard.get(kind, 0) for kind in Feedback}
        return Tally(self.messages + other.messages, heard)


def heard_by(before: Tally, now: Tally) -> Tally:
    """Return the messages of `now`, with only the feedback that `before` had too."""
    heard = {kind: min(n, before.heard.get(kind, 0)) for kind, n in now.heard.items()}
    return Tally(now.messages, heard)


class Finding(Struct, frozen=True):
    """A bound that has been reached."""

    cause: Feedback
    level: Level
    reports: int
    messages: int
    bound: int  # parts per million


def enough(tally: Tally, rules: BreakerRules) -> bool:
    """Whether this tally, or a part of it, can reach a bound at all."""
    return tally.messages >= rules.minimum_messages and any(
        tally.heard.get(cause, 0) >= rules.minimum_reports for cause in rules.bounds
    )


def findings(tally: Tally, rules: BreakerRules) -> tuple[Finding, ...]:
    """Return the bounds reached, the most serious for each kind of feedback, pauses first."""
    if not enough(tally, rules):
        return ()
    found = []
    for cause, bound in rules.bounds.items():
        reports = tally.heard.get(cause, 0)
        if reports < rules.minimum_reports:
            continue
        bounds: tuple[tuple[Level, int | None], ...] = ("pause", bound.pause), ("warn", bound.warn)
        for level, share in bounds:
            if share is not None and reports * MILLION >= share * tally.messages:
                found.append(Finding(cause, level, reports, tally.messages, share))
                break
    return tuple(sorted(found, key=lambda one: one.level))


def judged(
    tallies: Mapping[str, Tally],
    brands: Mapping[str, str],
    rules: BreakerRules,
    paused: Container[str] = (),
) -> list[tuple[str, Finding]]:
    """Return the bounds reached, by subject: for each stream, then for each brand.

    `brands` gives each stream's brand. Subjects that are paused are not judged. A stream beyond the
    bounds does not count for its brand, whose other streams may be fine.
    """
    running = {
        name: tally
        for name, tally in tallies.items()
        if STREAM + name not in paused and BRAND + brands[name] not in paused
    }
    own = [(name, one) for name, tally in running.items() for one in findings(tally, rules)]
    found = [(STREAM + name, one) for name, one in own]
    for brand, cause in product(dict.fromkeys(brands[name] for name in running), rules.bounds):
        alone = {name for name, one in own if one.cause is cause}
        members = [t for n, t in running.items() if brands[n] == brand and n not in alone]
        together = findings(sum(members, Tally()), rules)
        found += [(BRAND + brand, one) for one in together if one.cause is cause]
    return found
