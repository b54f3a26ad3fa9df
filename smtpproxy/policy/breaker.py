"""When a stream is warned of or paused for what its recipients and their providers say back.

A rate is of the messages that were sent within the window: what is heard counts for the time
when its message was sent, not for the time when it was heard, so that late complaints are not
held against later mail. docs/adr/0024-breaker.md says why.
"""

from collections.abc import Container, Mapping
from enum import StrEnum
from itertools import product
from typing import Literal

from msgspec import Struct

MILLION = 1_000_000
STREAM, BRAND = "stream:", "brand:"
"""What the subject of a pause begins with: the name of the stream, or of the brand, follows."""
MARKETING, RESTORE = "marketing", "restore"
"""Subject and cause of the pause of all marketing after the store was restored from a backup."""


class Heard(StrEnum):
    """What may be heard of a message, by somebody who has its token."""

    COMPLAINT = "complaint"
    DEAD_ADDRESS = "dead_address"
    UNSUBSCRIBE = "unsubscribe"
    BLOCK = "block"  # the receiving system took it for spam, or its policy forbids it


Level = Literal["warn", "pause"]


class Bound(Struct, frozen=True):
    """Shares of messages, in parts per million, from which on it is so; None: never."""

    warn: int | None = None
    pause: int | None = None


class BreakerRules(Struct, frozen=True):
    """The bounds, and from how many on they count: one report of ten messages tells nothing."""

    bounds: Mapping[Heard, Bound]
    minimum_messages: int = 500
    minimum_reports: int = 3


class Tally(Struct, frozen=True):
    """Messages that were sent within the window, one for each recipient, and what was heard."""

    messages: int = 0
    heard: Mapping[Heard, int] = {}

    def __add__(self, other: "Tally") -> "Tally":
        heard = {kind: self.heard.get(kind, 0) + other.heard.get(kind, 0) for kind in Heard}
        return Tally(self.messages + other.messages, heard)


def heard_by(before: Tally, now: Tally) -> Tally:
    """Return what is sent now, with what was heard of it before."""
    heard = {kind: min(n, before.heard.get(kind, 0)) for kind, n in now.heard.items()}
    return Tally(now.messages, heard)


class Finding(Struct, frozen=True):
    """A bound that is reached."""

    cause: Heard
    level: Level
    reports: int
    messages: int
    bound: int  # parts per million


def enough(tally: Tally, rules: BreakerRules) -> bool:
    """Whether anything may follow from this, or from a part of it."""
    return tally.messages >= rules.minimum_messages and any(
        tally.heard.get(cause, 0) >= rules.minimum_reports for cause in rules.bounds
    )


def findings(tally: Tally, rules: BreakerRules) -> tuple[Finding, ...]:
    """Return what is reached: of each kind of feedback the gravest, those that pause first."""
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
    """Return what is reached, by subject: of each stream, then of each brand.

    `brands` says whose each stream is. What is paused is not judged. For its brand a stream counts
    where it is not beyond the bounds by itself: the others may be well without it.
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
