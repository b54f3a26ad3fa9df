"""Guessing from a table's columns who agreed to what: yes and no, refusals, and their dates."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.policy.model import EVERY_PURPOSE
from smtpproxy.store.exchange.consent_columns import ConsentTable
from smtpproxy.store.exchange.look import ColumnLook, TableLook, plain_words, words
from smtpproxy.store.exchange.proposal import (
    NONE,
    Answers,
    Known,
    Question,
    fitting,
    unexplained,
)
from smtpproxy.store.exchange.rows import column_key
from smtpproxy.store.exchange.times import read_time
from smtpproxy.terminal import counted


class Flag(NamedTuple):
    """A column of yes and no."""

    column: ColumnLook
    is_refusal: bool  # yes means a refusal
    is_state: bool = False  # its cells are words or codes of states, never yes and no


class ConsentGuess(Struct, frozen=True, eq=False):
    """Guesses the `[[consent]]` of a mapping, and asks what it cannot know."""

    look: TableLook
    known: Known
    answers: Answers
    flags: Sequence[Flag]
    dates: Mapping[str, Sequence[ColumnLook]]  # columns of times, by what they may mean
    questions: list[Question]  # new ones are appended

    def tables(self) -> tuple[ConsentTable, ...]:
        """Return the consents, and ask for what the table does not say about each."""
        refused = self._refusal_dates()
        agreed = [flag.column for flag in self.flags if not flag.is_refusal]
        found = self._flagged(agreed, refused) if agreed else self._dated_alone(refused)
        for column, is_refusal, is_state in self.flags:
            if is_refusal and not (is_state and self._ask_states(column)):
                _, false, nothing = self._meanings(column, refusals=True, is_state=is_state)
                found += [
                    ConsentTable(
                        purpose, "withdrawal", (), false, nothing, column.name, None,
                        _refused_at(refused, purpose),
                    )
                    for purpose in self._purposes_of(column, of_all=True)
                ]  # fmt: skip
        placed = {(table.purpose, table.withdrawn_at) for table in found}
        found += [
            ConsentTable(purpose, withdrawn_at=name)
            for purpose, names in refused.items()
            for name in names
            if (purpose, name) not in placed
        ]
        return tuple(found)

    def _refusal_dates(self) -> dict[str, list[str]]:
        """Return the columns with dates of refusals, by purpose."""
        columns = list(self.dates["withdrawn_at"])
        name = self.answers.withdrawn_at
        if name and (named := self.look.column(name)) and named not in columns:
            columns.append(named)
        found: dict[str, list[str]] = {}
        for column in columns:
            for purpose in self._purposes_of(column, of_all=True):
                found.setdefault(purpose, []).append(column.name)
        return found

    def _flagged(
        self, agreed: Sequence[ColumnLook], refused: Mapping[str, list[str]]
    ) -> list[ConsentTable]:
        """Return the consents of columns of yes and no."""
        found: dict[str, ConsentTable] = {}
        for column in self._closest(agreed):
            purposes = self._purposes_of(column)
            if twice := [found[purpose] for purpose in purposes if purpose in found]:
                self._ask_which(twice[0], column)
                continue
            given = self._given_at(column)
            true, false, nothing = self._meanings(column, refusals=False)
            no = self._no() if false else "withdrawal"
            for purpose in purposes:
                found[purpose] = ConsentTable(
                    purpose, no, true, false, nothing, column.name, given,
                    _refused_at(refused, purpose),
                )  # fmt: skip
        return list(found.values())

    def _closest(self, agreed: Sequence[ColumnLook]) -> Sequence[ColumnLook]:
        """Return the columns that can be about a purpose, preferring those named after it."""
        if len(self.known.purposes) > 1 or not any(map(self._named_purposes, agreed)):
            return agreed
        answered = self.answers.consents
        return [
            one for one in agreed if self._named_purposes(one) or column_key(one.name) in answered
        ]

    def _ask_which(self, first: ConsentTable, second: ColumnLook) -> None:
        answers, names = self.answers, (first.column or "", second.name)

        def answered(kept: str) -> Answers:
            other = names[0] if kept == names[1] else names[1]
            chosen = {column_key(kept): first.purpose, column_key(other): NONE}
            return replace(answers, consents={**answers.consents, **chosen})

        self.questions.append(
            Question(
                f"Which of {names[0]!r} and {names[1]!r} says who agreed to {first.purpose}?",
                f"--consent '{names[0]}=none', or --consent '{names[1]}=none'",
                answered,
                names,
            )
        )

    def _dated_alone(self, refused: Mapping[str, list[str]]) -> list[ConsentTable]:
        """Return the consents of columns in which the date of an agreement is all there is."""
        columns: dict[str, list[str]] = {}
        for column in self.dates["given_at"]:
            for purpose in self._purposes_of(column):
                columns.setdefault(purpose, []).append(column.name)
        named = self._named(self.answers.given_at)
        if named and not columns:
            for purpose in self._purposes_of(self.look.column(named) or ColumnLook(named)):
                columns[purpose] = [named]
        found = []
        for purpose, names in columns.items():
            if len(names) > 1 and named is None:
                self._ask_date(tuple(names))
            withdrawn = _refused_at(refused, purpose)
            found.append(ConsentTable(purpose, given_at=named or names[0], withdrawn_at=withdrawn))
        return found

    def _named(self, name: str | None) -> str | None:
        """Return the header's spelling of a column that the user named."""
        column = self.look.column(name) if name else None
        return column.name if column else None

    def _given_at(self, column: ColumnLook) -> str | None:
        """Return the column with a consent's date, or None if that is a constant or unknown."""
        if named := self._named(self.answers.given_at):
            return named
        if "consent_given_at" in self.answers.constants:
            return None
        found = self.dates["given_at"] or self.dates["signed_up_at"]
        if len(found) > 1:
            own = set(plain_words(column.name).split())
            shared = {one.name: len(own & set(plain_words(one.name).split())) for one in found}
            best = [one for one in found if shared[one.name] == max(shared.values())]
            found = best if len(best) == 1 else found
        if len(found) == 1:
            return found[0].name
        refused = {one.name for one in self.dates["withdrawn_at"]}
        times = tuple(one.name for one in self.look.columns
                      if one.holds_times and one.name not in refused)  # fmt: skip
        self._ask_date(times)
        return None

    def _ask_date(self, columns: tuple[str, ...]) -> None:
        if any(one.option.startswith("--given-at") for one in self.questions):
            return
        self.questions.append(
            Question(
                "Which column says when they agreed, or on which day did they all agree? Without "
                "its date a consent proves nothing.",
                "--given-at COLUMN, or one day for all: --set consent_given_at=2024-12-31",
                self._dated,
                columns,
                check=self._check_date,
            )
        )

    def _check_date(self, text: str) -> None:
        if self.look.column(text) is None:
            read_time(text)

    def _dated(self, text: str) -> Answers:
        """Answer with a column, or with one day for all."""
        if self.look.column(text) is not None:
            return replace(self.answers, given_at=text)
        return self.answers.with_constant("consent_given_at", text)

    def _purposes_of(self, column: ColumnLook, *, of_all: bool = False) -> Sequence[str]:
        """Return a column's purposes; a refusal (`of_all`) that names none is from all."""
        answer = self.answers.consents.get(column_key(column.name))
        if answer:
            return [] if answer == NONE else [answer]
        purposes = self.known.purposes
        named = self._named_purposes(column)
        if of_all:
            return named or [EVERY_PURPOSE]
        if not unexplained(column.name, purposes) and (named or len(purposes) == 1):
            return named or purposes
        answers = self.answers
        key = column_key(column.name)
        self.questions.append(
            Question(
                f"What did people agree to if {column.name!r} says yes?",
                f"--consent '{column.name}=PURPOSE'",
                lambda text: replace(answers, consents={**answers.consents, key: text}),
                (*purposes, NONE),
            )
        )
        return ()

    def _named_purposes(self, column: ColumnLook) -> list[str]:
        header = set(plain_words(column.name).split())
        named = [one for one in self.known.purposes if set(plain_words(one).split()) <= header]
        if fitting(column.name, ["others"]):  # partners' mail is about purposes for partners
            named = [one for one in named if fitting(one, ["others"])]
        return named

    def _meanings(
        self, column: ColumnLook, *, refusals: bool, is_state: bool = False
    ) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return which cells of a flag mean a consent, a no, and nothing."""
        mean: dict[str, list[str]] = {"true": [], "false": [], "nothing": [], "unknown": []}
        for text, kind in self._kinds(column, refusals=refusals, is_state=is_state).items():
            mean[kind].append(text)
        for text in mean["unknown"]:
            self._ask_meaning(column, text, refusals=refusals)
        yes, no, none = (tuple(mean[kind]) for kind in ("true", "false", "nothing"))
        # In a column of refusals, yes is a refusal, and anything else is not an agreement.
        return ((), yes, (*no, *none)) if refusals else (yes, no, none)

    def _kinds(self, column: ColumnLook, *, refusals: bool, is_state: bool) -> dict[str, str]:
        """Return what each cell of a flag means, in lower case: true, false, nothing, unknown."""
        cells = words("cells")
        bare = {
            text: plain_words(text) or text
            for text in sorted({value.casefold() for value in column.values or ()})
        }
        flags = {*cells["yes"], *cells["no"]}
        letters = {one for one in bare.values() if len(one) == 1 and one.isalnum()}
        if is_state:
            flags.clear()
        elif not letters <= flags:
            flags -= letters  # they are codes: S need not be sí
        kinds = (
            ("true", flags & cells["yes"] | cells["out" if refusals else "in"]),
            ("false", flags & cells["no"] | cells["in" if refusals else "out"]),
            ("true" if refusals else "nothing", cells["pending"]),
        )
        found = {
            text: next((kind for kind, known in kinds if one in known), "unknown")
            for text, one in bare.items()
        }
        answers = self.answers
        for kind in ("nothing", "false", "true"):
            said = {text.strip().casefold() for text in getattr(answers, kind)}
            found |= dict.fromkeys(said & found.keys(), kind)
        return found

    def _ask_states(self, column: ColumnLook) -> bool:
        """Ask about a column of states of which no cell is known; return whether it had to."""
        kinds = self._kinds(column, refusals=True, is_state=True)
        if {*kinds.values()} != {"unknown"}:
            return False
        answers, key = self.answers, column_key(column.name)

        def named(text: str) -> list[str]:
            return [one.strip().casefold() for one in text.split(",")]

        def check(text: str) -> None:
            if unknown := [one for one in named(text) if one not in kinds]:
                raise ValueError(f"{unknown[0]!r} is not one of {', '.join(kinds)[:300]}")

        def answered(text: str) -> Answers:
            if text == NONE:
                return replace(answers, consents={**answers.consents, key: NONE})
            others = tuple(one for one in kinds if one not in named(text))
            return replace(
                answers,
                true=(*answers.true, *named(text)),
                nothing=(*answers.nothing, *others),
            )

        shown = ", ".join(kinds)[:200]
        self.questions.append(
            Question(
                f"Which cells of {column.name!r} mean that somebody must not be mailed, or has not"
                f" confirmed yet: {shown}? Give them with commas between.",
                "--true CELL for each of them and --nothing CELL for each other one, or --consent "
                f"'{column.name}={NONE}'",
                answered,
                (NONE,),
                check=check,
            )
        )
        return True

    def _ask_meaning(self, column: ColumnLook, text: str, *, refusals: bool) -> None:
        answers = self.answers
        count = sum(n for value, n in (column.values or {}).items() if value.casefold() == text)
        of = "a refusal" if refusals else "a consent"

        def answered(kind: str) -> Answers:
            names = {"yes": "true", "no": "false", "nothing": "nothing"}
            before: tuple[str, ...] = getattr(answers, names[kind])
            changed: dict[str, object] = {names[kind]: (*before, text)}
            return replace(answers, **changed)

        rows = counted(count, "row")
        self.questions.append(
            Question(
                f"{column.name!r} says {text!r} in {rows}: does that mean yes ({of}), no, or "
                "nothing?",
                f"--true {text!r}, --false {text!r} or --nothing {text!r}",
                answered,
                ("yes", "no", "nothing"),
            )
        )

    def _no(self) -> Literal["withdrawal", "nothing"]:
        answers = self.answers
        if answers.no is None and not any(one.option == "--no" for one in self.questions):
            self.questions.append(
                Question(
                    "What does a no mean? A withdrawal of what they agreed to before, or nothing?",
                    "--no",
                    lambda text: replace(
                        answers, no="nothing" if text == "nothing" else "withdrawal"
                    ),
                    ("withdrawal", "nothing"),
                    "withdrawal",
                )
            )
        return answers.no or "withdrawal"


def _refused_at(refused: Mapping[str, list[str]], purpose: str) -> str | None:
    """Return the column with the dates of refusals of a purpose, if there is just one."""
    names = [name for one in {purpose, EVERY_PURPOSE} for name in refused.get(one, ())]
    return names[0] if len(names) == 1 else None
