"""The numbers of a scrubbed list."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from smtpproxy.policy.model import Action
from smtpproxy.scrub.verdicts import Judged


@dataclass(slots=True)
class Counts:
    """What was found so far. Every line is allowed, refused, deferred or unreadable."""

    unreadable: int = 0
    duplicates: int = 0  # of those that could be read
    bases: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    deferrals: Counter[str] = field(default_factory=Counter)

    def add(self, judged: Judged) -> None:
        verdict = judged.verdict
        if verdict.action is Action.ALLOW:
            self.bases[str(verdict.basis)] += 1
        elif verdict.action is Action.REFUSE:
            self.refusals[str(verdict.reason)] += 1
        else:
            self.deferrals[str(verdict.reason)] += 1
        self.duplicates += judged.duplicate

    @property
    def allowed(self) -> int:
        return self.bases.total()

    @property
    def refused(self) -> int:
        return self.refusals.total()

    @property
    def deferred(self) -> int:
        return self.deferrals.total()

    @property
    def total(self) -> int:
        return self.allowed + self.refused + self.deferred + self.unreadable

    @property
    def longest(self) -> int:
        """The most lines that have one basis or reason: what charts are drawn against."""
        found = (self.bases, self.refusals, self.deferrals)
        return max((lines for each in found for lines in each.values()), default=1)

    @property
    def all_may_be_mailed(self) -> bool:
        return self.allowed == self.total

    @property
    def reasons(self) -> list[tuple[str, str, int]]:
        """Return (verdict, reason, lines) of all that is not allowed, the commonest first."""
        rows = [
            (str(action), reason, lines)
            for action, found in ((Action.REFUSE, self.refusals), (Action.DEFER, self.deferrals))
            for reason, lines in found.items()
        ]
        return sorted(rows, key=lambda row: (-row[2], row[1]))


def commonest_first(found: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(found.items(), key=lambda row: (-row[1], row[0])))


def share(part: int, whole: int) -> float:
    """Return hundredths for people: never 0 or 100 where it is not so."""
    if not whole or not part:
        return 0
    if part == whole:
        return 100
    return min(max(100 * part / whole, 0.1), 99.9)
