"""How the parameters of a rulebook are written: one class for each kind of value.

`read` takes the TOML value, calls `fault` with each thing that is wrong with it (and what is
expected), and returns what it could read. `written` is the reverse, for people.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, Protocol

from msgspec import Struct

from smtpproxy.mail.address import AddressError
from smtpproxy.mail.mailboxes import entered
from smtpproxy.policy.periods import Period, Unit, minutes_fault, parse_period
from smtpproxy.toml import shown, suggestion

Fault = Callable[[str], None]

UNLIMITED = "unlimited"
ALWAYS = "always"

_MAX_COUNT = {
    Unit.HOURS: 1_000,
    Unit.DAYS: 36_500,
    Unit.BUSINESS_DAYS: 1_000,
    Unit.MONTHS: 1_200,
    Unit.YEARS: 100,
}


class Kind(Protocol):
    def read(self, value: object, fault: Fault) -> Any: ...

    def written(self, value: Any) -> str: ...


class PeriodKind(Struct, frozen=True):
    """A period in one of `units`; `without` is how None is written, if it is allowed."""

    units: tuple[Unit, ...]
    without: str | None = UNLIMITED

    def read(self, value: object, fault: Fault) -> Period | None:
        if value == self.without:
            return None
        text = value if isinstance(value, str) else ""
        if wrong := minutes_fault(text):
            fault(wrong)
            return None
        found = parse_period(text)
        if found is None or found.unit not in self.units:
            fault(f"must be {self._right()}, not {shown(value)}")
            return None
        return self.counted(found.count, found.unit, fault)

    def counted(self, count: object, unit: Unit, fault: Fault) -> Period | None:
        """Return a period from a count and a unit, as in `customer_years = 3`."""
        if type(count) is not int or not 1 <= count <= _MAX_COUNT[unit]:  # True is an int too
            fault(f"must be a whole number from 1 to {_MAX_COUNT[unit]}, not {shown(count)}")
            return None
        return Period(count, unit)

    def written(self, value: Period | None) -> str:
        return (self.without or UNLIMITED) if value is None else str(value)

    def _right(self) -> str:
        examples = [shown(str(Period(2, unit))) for unit in self.units]
        examples += [] if self.without is None else [shown(self.without)]
        return f"a period such as {_any_of(examples)}"


class FlagKind(Struct, frozen=True):
    def read(self, value: object, fault: Fault) -> bool:
        if not isinstance(value, bool):
            fault(f"must be true or false, without quotes, not {shown(value)}")
        return value is True

    def written(self, value: bool) -> str:
        return "yes" if value else "no"


class CountKind(Struct, frozen=True):
    """A number from 1, or None for any."""

    def read(self, value: object, fault: Fault) -> int | None:
        if value == UNLIMITED:
            return None
        if type(value) is not int or value < 1:
            fault(f'must be a whole number from 1, or "{UNLIMITED}", not {shown(value)}')
            return None
        return value

    def written(self, value: int | None) -> str:
        return UNLIMITED if value is None else str(value)


class DayKind(Struct, frozen=True):
    """A day from which something applies, as its first moment in UTC; None is always."""

    def read(self, value: object, fault: Fault) -> datetime | None:
        if value == ALWAYS:
            return None
        if not isinstance(value, date) or isinstance(value, datetime):
            fault(f'must be a date without quotes, like 2026-02-05, or "{ALWAYS}"')
            return None
        return datetime.combine(value, time(), UTC)

    def written(self, value: datetime | None) -> str:
        return ALWAYS if value is None else f"{value:%Y-%m-%d}"


class WordsKind(Struct, frozen=True):
    """A set of texts; `check` returns what is wrong with one of them."""

    check: Callable[[str], str | None] = lambda item: None

    def read(self, value: object, fault: Fault) -> frozenset[str]:
        items = _texts(value, fault)
        for item in items:
            wrong = self.check(item)
            if wrong is not None:
                fault(wrong)
        return frozenset(items)

    def written(self, value: Iterable[str]) -> str:
        return ", ".join(sorted(value)) or "none"


class MembersKind(Struct, frozen=True):
    """A subset of a closed set of words. `of` makes a member from its word."""

    choices: tuple[str, ...]
    of: Callable[[str], Any] = str

    def read(self, value: object, fault: Fault) -> frozenset[Any]:
        return frozenset(map(self.of, members(value, self.choices, fault)))

    def written(self, value: Iterable[str]) -> str:
        return ", ".join(word for word in self.choices if word in value) or "none"


class OrderKind(Struct, frozen=True):
    """Words from a closed set, in a significant order."""

    choices: tuple[str, ...]
    of: Callable[[str], Any]

    def read(self, value: object, fault: Fault) -> tuple[Any, ...]:
        return tuple(map(self.of, members(value, self.choices, fault)))

    def written(self, value: Sequence[str]) -> str:
        return ", ".join(value) or "none"


class TextsKind(Struct, frozen=True):
    """A table of texts, each under a word from a closed set."""

    keys: tuple[str, ...]

    def read(self, value: object, fault: Fault) -> dict[str, str]:
        if not isinstance(value, dict):
            fault("must be a table of texts")
            return {}
        for key, text in value.items():
            if key not in self.keys:
                fault(f"{shown(key)} is not one of its keys{suggestion(key, self.keys)}")
            elif not isinstance(text, str) or not text.strip():
                fault(f"{key}: must be text")
        return value

    def written(self, value: dict[str, str]) -> str:
        return f"{len(value)} rules"


def members(value: object, choices: tuple[str, ...], fault: Fault) -> list[str]:
    """Return the words of a list that are among `choices`, each once."""
    found: list[str] = []
    for item in _texts(value, fault):
        if item in found:
            fault(f"{shown(item)} is listed twice")
        elif item not in choices:
            fault(f"{shown(item)} is not allowed here{suggestion(item, choices)}")
        else:
            found.append(item)
    return found


def local_part(item: str) -> str | None:
    return _as_compared(item, f"{item}@example.com", "local part")


def domain(item: str) -> str | None:
    return _as_compared(item, f"contact@{item}", "domain")


def _as_compared(item: str, address: str, part: str) -> str | None:
    """Return what is wrong with an entry not written as addresses are compared."""
    try:
        right = entered(address)
    except AddressError as error:
        return f"{shown(item)} is not a {part}: {error}"
    if right == address:
        return None
    local, _, host = right.rpartition("@")
    return f"{shown(item)} must be written {shown(local if part == 'local part' else host)}"


def _texts(value: object, fault: Fault) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        fault('must be a list of texts: ["…", "…"]')
        return []
    return value


def _any_of(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last
