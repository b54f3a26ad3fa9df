"""The `[[consent]]` tables of a mapping: the columns with agreements and dates, by purpose."""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as MappingOf
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Struct
from msgspec.structs import asdict, replace

from smtpproxy.policy.model import EVERY_PURPOSE
from smtpproxy.store.exchange.lines import UndatedConsent
from smtpproxy.store.exchange.rows import cell_text, check_no_error, column_key
from smtpproxy.store.exchange.times import NO_EARLIER, Notation
from smtpproxy.toml_tables import Key

EVIDENCE = frozenset({"wording", "ip", "version", "form", "document_hash"})
_TRUE = frozenset({"true", "yes", "y", "1", "oui", "o", "vrai"})
_FALSE = frozenset({"false", "no", "n", "0", "non", "faux"})


class Flags(Struct, frozen=True):
    """Which cells mean yes, which no and which nothing, ignoring case."""

    true: frozenset[str] = _TRUE
    false: frozenset[str] = _FALSE
    nothing: frozenset[str] = frozenset()

    def read(self, text: str) -> bool | None:
        """Return what a cell says, or None if it says nothing. Raises ValueError."""
        folded = text.casefold()
        if folded in self.true:
            return True
        if folded in self.false:
            return False
        if not folded or folded in self.nothing:
            return None
        raise ValueError(
            f"{text[:40]!r} is neither true nor false; say what it means with true = […] or "
            "false = […] in a mapping"
        )


FLAGS = Flags()
"""What cells mean unless a mapping says otherwise."""


def flags_of(
    true: Iterable[str] | None,
    false: Iterable[str] | None,
    nothing: Iterable[str] = (),
    other: Flags | None = None,
) -> Flags:
    """Return the flags that a mapping names, with `other` for those it leaves out.

    Raises ValueError if a cell would mean two things, or an empty one yes.
    """
    other = other or FLAGS
    yes, no = _folded(true), _folded(false)
    none = _folded(nothing) or frozenset()
    named = [*(yes or ()), *(no or ()), *none]
    if twice := sorted({text for text in named if named.count(text) > 1}):
        raise ValueError(f"{twice[0]!r} would mean two things; leave it in one list")
    if yes and "" in yes:
        raise ValueError("true: an empty cell cannot mean yes; leave it out")
    return Flags(
        other.true - (no or frozenset()) - none if yes is None else yes,
        other.false - (yes or frozenset()) - none if no is None else no,
        none,
    )


def _folded(texts: Iterable[str] | None) -> frozenset[str] | None:
    return None if texts is None else frozenset(text.strip().casefold() for text in texts)


class ConsentTable(Struct, frozen=True):
    """A `[[consent]]` as written. The second group are columns, the third constants."""

    purpose: str
    no: Literal["withdrawal", "nothing"] | None = None
    yes: Annotated[tuple[str, ...] | None, Key("true")] = None
    false: tuple[str, ...] | None = None
    nothing: tuple[str, ...] = ()

    column: str | None = None  # says yes or no; without it, a date means yes
    given_at: str | None = None
    withdrawn_at: str | None = None

    method: str | None = None
    wording: str | None = None
    version: str | None = None
    form: str | None = None
    document_hash: str | None = None
    brand: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, as written."""
        return tuple(filter(None, (self.column, self.given_at, self.withdrawn_at)))

    def as_written(self) -> dict[str, object]:
        """Return its values by the keys of the file."""
        values = asdict(self)
        values["true"] = values.pop("yes")
        return {name: value for name, value in values.items() if value is not None}

    def with_constants(self, constants: MappingOf[str, str]) -> "ConsentTable":
        """Replace its constants with those of a command (`consent_method` …)."""
        named = {name: f"consent_{name}" for name in _CONSTANTS - {"brand"}} | {"brand": "brand"}
        given: dict[str, Any] = {n: constants[key] for n, key in named.items() if key in constants}
        return replace(self, **given)

    def check(self, *, is_dated: bool) -> None:
        """Raises ValueError, which names the key. `is_dated`: a constant has the date."""
        if self.purpose == EVERY_PURPOSE and (self.given_at or (self.column and self.yes != ())):
            raise ValueError(
                f'purpose: "{EVERY_PURPOSE}" is for refusals of everything, and nobody can agree to'
                " everything: name one purpose, or leave out given_at, and write true = []"
            )
        if not self.columns:
            raise ValueError("column: missing; name the column that says yes or no, or given_at")
        is_flag = self.column is not None
        if not is_flag and (self.yes or self.false or self.nothing or self.no):
            raise ValueError("column: missing; true, false, nothing and no describe its cells")
        if is_flag and self.no is None:
            raise ValueError(
                'no: missing; say what a no means: "withdrawal" (of an earlier yes), or "nothing"'
            )
        if is_flag and self.yes != () and not self.given_at and not is_dated:
            raise ValueError(
                "given_at: missing; name the column that says when they agreed: a consent without "
                "a date proves nothing (or true = [], if a cell can only be a no)"
            )


_CONSTANTS = {"method", "brand", *EVIDENCE} & {*ConsentTable.__struct_fields__}


def may_be_a_date(text: str) -> bool:
    """Whether an unreadable cell was meant as a time: "no" and 00/00/0000 were not."""
    return any(digit in text for digit in "123456789")


def dated_no(at: datetime, agreed: Sequence[datetime], as_of: datetime) -> datetime:
    """Return the time of a no: that of the file at least, if an agreement is newer than its date.

    Such a date belongs to an earlier refusal, after which they agreed; but now the file says no.
    """
    last = max(agreed, default=at)
    return at if at >= last else max(last, as_of)


def consents_of(
    readers: Sequence["ConsentReader"],
    cells: Sequence[str],
    common: MappingOf[str, Any],
    evidence: MappingOf[str, Any],
    as_of: datetime,
) -> list[dict[str, Any]]:
    """Return a row's consents in NDJSON form. Raises ValueError."""
    found = [(one, act) for one in readers for act in one.consents(cells, common, evidence, as_of)]
    for reader, no in found:
        if "given_at" not in no and reader.refuses(cells):
            same = [act for _, act in found if no["purpose"] in (act["purpose"], EVERY_PURPOSE)]
            agreed = [act["given_at"] for act in same if "given_at" in act]
            no["withdrawn_at"] = dated_no(no["withdrawn_at"], agreed, as_of)
    return [act for _, act in found]


def refusals_of(
    readers: Sequence["ConsentReader"], cells: Sequence[str], as_of: datetime
) -> list[dict[str, Any]]:
    """Return a row's refusals in NDJSON form, whatever else is wrong with the row."""
    found = [one for reader in readers if (one := reader.refusal(cells, as_of))]
    if not any(reader.agrees(cells) for reader in readers):
        return found
    return [n for n in found if n["purpose"] != EVERY_PURPOSE or n["withdrawn_at"] >= NO_EARLIER]


def purpose_in_words(purpose: str) -> str:
    return "every purpose" if purpose == EVERY_PURPOSE else purpose


class ConsentReader:
    """Reads a row's consent to one purpose."""

    def __init__(
        self,
        table: ConsentTable,
        flags: Flags,
        notation: Notation,
        columns: Sequence[str],
    ) -> None:
        """`columns` are the header's. Raises ValueError if one of the table's is missing."""
        self._table = table
        self._flags = flags_of(table.yes, table.false, table.nothing, flags)
        self._notation = notation
        keys = [column_key(column) for column in columns]
        places = {name: keys.index(column_key(name)) for name in table.columns}
        self._columns = {name: (place, columns[place]) for name, place in places.items()}

    def consents(
        self,
        cells: Sequence[str],
        common: MappingOf[str, Any],
        evidence: MappingOf[str, Any],
        as_of: datetime,
    ) -> Iterator[dict[str, Any]]:
        """Yield the consents in NDJSON form. `common` applies to the whole row.

        A no without a date gets the date of the file, `as_of`. Raises ValueError.
        """  # fmt: skip
        table = self._table
        withdrawn = self._time(table.withdrawn_at, cells, last_moment=True)
        brand = {"brand": table.brand} if table.brand else {}
        if self._is_agreement(cells):
            given = self._time(table.given_at, cells) or common.get("given_at")
            if given is None:
                raise UndatedConsent(self._undated())
            own = {name: v for name in _CONSTANTS if (v := getattr(table, name)) is not None}
            proof = {**evidence, **{name: own.pop(name) for name in EVIDENCE & own.keys()}}
            if withdrawn is not None and NO_EARLIER <= withdrawn < given:
                # A yes after a withdrawal means they came back; with dates alone, one is wrong.
                if table.column is None:
                    raise ValueError(
                        f"{self._named(table.withdrawn_at)} is before {self._named(table.given_at)}"
                    )
                yield {"purpose": table.purpose, "withdrawn_at": withdrawn, **brand}
                withdrawn = None
            yield {
                **common,
                **own,
                "purpose": table.purpose,
                "given_at": given,
                "withdrawn_at": withdrawn,
                "evidence": proof or None,
            }
        elif (refused := self._refused_at(withdrawn, cells, as_of)) is not None:
            yield {"purpose": table.purpose, "withdrawn_at": refused, **brand}

    def refusal(self, cells: Sequence[str], as_of: datetime) -> dict[str, Any] | None:
        """Return the row's refusal in NDJSON form, whatever else is wrong with the row."""
        column = self._table.withdrawn_at
        try:
            dated = self._time(column, cells, last_moment=True)
        except ValueError:
            dated = as_of if column and may_be_a_date(self._cell(column, cells)) else None
        try:
            at = self._refused_at(dated, cells, as_of)
        except ValueError:
            at = dated
        if at is None or (at < NO_EARLIER and self.agrees(cells)):
            return None
        brand = {"brand": self._table.brand} if self._table.brand else {}
        return {"purpose": self._table.purpose, "withdrawn_at": at, **brand}

    def agrees(self, cells: Sequence[str]) -> bool:
        """Whether the row is a yes, whatever else is wrong with it."""
        try:
            given = self._time(self._table.given_at, cells) or NO_EARLIER
            return given >= NO_EARLIER and self._is_agreement(cells)
        except ValueError:
            return False

    def _is_agreement(self, cells: Sequence[str]) -> bool:
        """Whether the row is a yes: in the column for it, or without one, by having a date."""
        if self._table.column is None:
            return bool(self._table.given_at and self._cell(self._table.given_at, cells))
        return self._flag(self._table.column, cells) is True

    def _refused_at(
        self, dated: datetime | None, cells: Sequence[str], as_of: datetime
    ) -> datetime | None:
        """Return the time of the row's refusal; `dated` is that in its column."""
        if not self.refuses(cells):
            return dated
        try:
            given = self._time(self._table.given_at, cells)
        except ValueError:
            given = None
        return dated_no(dated or as_of, [given] if given else [], as_of)

    def refuses(self, cells: Sequence[str]) -> bool:
        """Whether the row says no, and that withdraws an earlier yes. Raises ValueError."""
        if self._table.column is None or self._table.no != "withdrawal":
            return False
        return self._flag(self._table.column, cells) is False

    def _flag(self, column: str, cells: Sequence[str]) -> bool | None:
        try:
            return self._flags.read(self._cell(column, cells))
        except ValueError as error:
            raise ValueError(f"{self._named(column)}: {error}") from None

    def _time(
        self, column: str | None, cells: Sequence[str], *, last_moment: bool = False
    ) -> datetime | None:
        text = self._cell(column, cells) if column else ""
        if not text:
            return None
        try:
            check_no_error(text)
            return self._notation.read(text, last_moment=last_moment)
        except ValueError as error:
            raise ValueError(f"{self._named(column)}: {error}") from None

    def _cell(self, column: str, cells: Sequence[str]) -> str:
        return cell_text(cells[self._columns[column][0]])

    def _named(self, column: str | None) -> str:
        name = self._columns[column][1] if column else "consent_given_at"
        return f'"{name}" (consent to {purpose_in_words(self._table.purpose)})'

    def _undated(self) -> str:
        given_at = self._table.given_at
        empty = f'"{self._columns[given_at][1]}" is empty' if given_at else "there is no date"
        return f"{self._named(self._table.column)} says yes, but {empty}: a consent needs its date"
