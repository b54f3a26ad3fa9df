"""Guessing the meaning of a table without a mapping, column by column."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from smtpproxy.policy.model import Source
from smtpproxy.store.exchange.consent_columns import ConsentTable
from smtpproxy.store.exchange.consent_guess import ConsentGuess, Flag
from smtpproxy.store.exchange.look import ColumnLook, TableLook, plain_words, words
from smtpproxy.store.exchange.mapping import zone
from smtpproxy.store.exchange.proposal import (
    LEFT_OPEN,
    NONE,
    Answers,
    Known,
    Proposal,
    Question,
    begins,
    fitting,
    has_part,
    is_state,
    longest,
)
from smtpproxy.store.exchange.rows import column_key
from smtpproxy.terminal import counted

_TIMES = ("given_at", "signed_up_at", "withdrawn_at", "collected_at", "last_activity_at",
          "purchase_at")  # fmt: skip
_TEXTS = ("language", "brand", "consent_ip", "consent_wording", "consent_form", "purchase_product")


def propose(look: TableLook, known: Known, answers: Answers) -> Proposal:
    """Return the best guess, and the remaining questions."""
    return _Guess(look, known, answers).proposal()


class _Guess:
    def __init__(self, look: TableLook, known: Known, answers: Answers) -> None:
        self._look = look
        self._known = known
        self._answers = answers
        self._questions: list[Question] = []
        self._notes: list[str] = []
        self._columns: dict[str, str] = {}  # column to field
        self._values: dict[str, dict[str, str]] = {}
        self._dates: dict[str, list[ColumnLook]] = {name: [] for name in _TIMES}
        self._flags: list[Flag] = []

    def proposal(self) -> Proposal:
        self._take_answers()
        self._find_address()
        for column in self._look.columns:
            if column.name not in self._columns and self._answer(column) is None:
                self._guess(column)
        self._place_dates()
        consents = ConsentGuess(
            self._look, self._known, self._answers, self._flags, self._dates, self._questions
        ).tables()
        time_format = self._time_format(consents)
        self._ask_constants()
        self._note_unmailable()
        self._note_refusing()
        if self._look.twice:
            names = ", ".join(map(repr, self._look.twice))
            self._notes.append(
                f"{names}: several columns have this name, so none is read; rename those you need"
            )
        columns = {name: field for name, field in self._columns.items() if field != NONE}
        return Proposal(
            columns, consents, self._values, time_format, tuple(self._questions),
            tuple(self._notes),
        )  # fmt: skip

    def _answer(self, column: ColumnLook) -> str | None:
        return self._answers.columns.get(column_key(column.name))

    def _take_answers(self) -> None:
        for column in self._look.columns:
            if field := self._answer(column):
                self._columns[column.name] = field
                if field == "audience":
                    self._map_audience(column)

    def _has(self, name: str) -> bool:
        return name in self._columns.values() or name in self._answers.constants

    def _find_address(self) -> None:
        if self._has("address"):
            return
        found = [one for one in self._look.columns if one.holds_addresses and not self._answer(one)]
        names = tuple(one.name for one in found or self._look.columns)
        text = "Which column has the addresses to mail people at?"
        if not found:
            text = f"No column holds addresses, only {', '.join(names)[:300]}. {text}"
        named = [one for one in found if fitting(one.name, ["address"])]
        found = named if len(named) == 1 else found
        if len(found) > 1 and (exact := [
            one for one in named if plain_words(one.name) in words("names")["address"]
        ]):  # fmt: skip
            found = exact[:1]
        if len(found) == 1:
            self._columns[found[0].name] = "address"
            return
        answers = self._answers

        def answered(name: str) -> Answers:
            return replace(answers, columns={**answers.columns, column_key(name): "address"})

        self._questions.append(Question(text, "--column 'COLUMN=address'", answered, names))

    def _guess(self, column: ColumnLook) -> None:
        """Guess the meaning of a column, from its cells and then from its name."""
        purpose = self._answers.consents.get(column_key(column.name))
        if column.holds_times or (purpose is None and column.holds_numbers_for_times):
            name = longest(fitting(column.name, _TIMES))
            if is_about_refusals(column.name):
                name = "withdrawn_at"
            elif purpose not in (None, NONE):
                name = "given_at"
            if name is not None:
                self._dates[name].append(column)
            elif column.holds_times and purpose is None and _is_negative(column.name):
                self._notes.append(
                    f"{column.name!r} is not read; if its dates are those of refusals: "
                    f"--withdrawn-at {column.name!r}"
                )
            if name is not None or column.holds_times:
                return
        if not column.filled or column.holds_addresses:
            return
        fits = fitting(column.name, (*_TEXTS, "audience", "opt_in", "opt_out"))
        name = longest(fits)
        is_purpose = plain_words(column.name) in map(plain_words, self._known.purposes)
        is_named = name in ("opt_in", "opt_out") or is_about_refusals(column.name)
        is_flag = column.values is not None and (is_named or is_purpose)
        if purpose != NONE and (is_flag or purpose is not None):
            self._flags.append(Flag(column, is_about_refusals(column.name)))
        elif (
            purpose is None
            and column.values is not None
            and (is_state(column.name) or any(map(_refuses, column.values)))
        ):
            self._flags.append(Flag(column, is_refusal=True, is_state=is_state(column.name)))
        elif purpose is None and column.values is None and is_about_refusals(column.name):
            self._ask_if_dated(column)
        elif name == "audience" and self._map_audience(column):
            self._put(column, name)
        elif name in _TEXTS:
            self._put(column, str(name))
        elif purpose is None and column.values is not None and _is_negative(column.name):
            self._notes.append(
                f"{column.name!r} is not read; if a yes in it is a refusal, rename it to 'Opt-out'"
            )

    def _note_unmailable(self) -> None:
        """Say that a refusal is not all that follows from an address that bounces."""
        dates = ((column, [column.name]) for column in self._dates["withdrawn_at"])
        flags = ((one.column, [one.column.name, *(one.column.values or ())]) for one in self._flags)
        found = {
            column.name: None
            for column, texts in (*dates, *flags)
            if any(has_part(text, "unmailable") for text in texts)
        }
        if found:
            self._notes.append(
                f"{', '.join(map(repr, found))}: a bounce or a complaint stops only marketing here;"
                " import the file with suppress import too, to stop all mail to these addresses"
            )

    def _note_refusing(self) -> None:
        """Name the columns of texts that are not read, although some say what may be a refusal."""
        read = {*self._columns, *(flag.column.name for flag in self._flags)}
        read |= {column.name for dated in self._dates.values() for column in dated}
        for one in self._look.columns:
            if (
                one.refusing
                and one.values is None
                and one.name not in read
                and column_key(one.name) not in self._answers.consents
            ):
                cells = counted(one.refusing, "cell says", "cells say")
                self._notes.append(
                    f"{one.name!r} is not read, but {cells} what may be a refusal (the first in "
                    f"line {one.refusing_line}): give these people a yes in a column 'Opt-out'"
                )

    def _ask_if_dated(self, column: ColumnLook) -> None:
        """Ask about cells that may be dates of refusals in an unknown notation."""
        answers, key = self._answers, column_key(column.name)
        if column_key(answers.withdrawn_at or "") == key:
            return

        def answered(text: str) -> Answers:
            if text == "yes":
                return replace(answers, withdrawn_at=column.name)
            return replace(answers, consents={**answers.consents, key: NONE})

        self._questions.append(
            Question(
                f"{column.name!r} seems to say who refused, with cells like {column.examples[0]!r},"
                " too many to ask about each: are they the dates of refusals?",
                f"--withdrawn-at {column.name!r}, or --consent '{column.name}=none'",
                answered,
                ("no",) if answers.withdrawn_at else ("yes", "no"),
            )
        )

    def _put(self, column: ColumnLook, name: str) -> None:
        if not self._has(name) or name in self._answers.constants:
            self._columns.setdefault(column.name, name)
        else:
            self._notes.append(f"{column.name!r} may also be {name}; it is not read")

    def _map_audience(self, column: ColumnLook) -> bool:
        """Map the cells to consumers and professionals; return False if none is either."""
        cells = words("cells")
        found = {}
        for text in column.values or ():
            for audience in ("consumer", "professional"):
                if plain_words(text) in cells[audience] or text.casefold() == audience:
                    found[text] = audience
        if not found:
            return False
        others = [text for text in column.values or () if text not in found]
        self._values["audience"] = {**found, **dict.fromkeys(others, "unknown")}
        if others:
            self._notes.append(f"{column.name!r}: {', '.join(others)[:100]} → audience unknown")
        return True

    def _place_dates(self) -> None:
        """Map the columns of times to fields; the time of a sign-up is that of the collection."""
        dates = self._dates
        if not self._has("purchase_product") and dates["purchase_at"]:
            name = dates["purchase_at"][0].name
            self._notes.append(
                f"{name!r} has purchases, but no column says of what; to make them count: "
                f"--column {name + '=purchase_at'!r} --set purchase_product=NAME"
            )
            dates["purchase_at"] = []
        elif not dates["purchase_at"] and not self._has("purchase_at"):
            self._columns = {
                one: field for one, field in self._columns.items() if field != "purchase_product"
            }
        for name, columns in (
            ("collected_at", [*dates["collected_at"], *dates["signed_up_at"]]),
            ("last_activity_at", dates["last_activity_at"]),
            ("purchase_at", dates["purchase_at"]),
        ):
            for column in columns:
                self._put(column, name)

    def _time_format(self, consents: Sequence[ConsentTable]) -> str | None:
        """Return the notations of the times; ask if a date is ambiguous."""
        names = {name for name, field in self._columns.items() if field.endswith("_at")}
        names |= {n for one in consents for n in (one.given_at, one.withdrawn_at) if n}
        read = [one for one in self._look.columns if one.name in names]
        answers = self._answers
        for one in read:
            if one.unread_times:
                cells = counted(one.unread_times, "cell is not a date", "cells are not dates")
                self._notes.append(f"{one.name!r}: {cells}")
        zoneless = next((one.times.zoneless for one in read if one.times.zoneless), "")
        if zoneless and answers.time_zone is None:
            self._questions.append(
                Question(
                    f"In which time zone are times like {zoneless!r}? (Europe/Paris, UTC, …)",
                    "--time-zone NAME",
                    lambda text: replace(answers, time_zone=text),
                    check=zone,
                )
            )
        if answers.time_format:
            return answers.time_format
        day = next((one.times.day_first for one in read if one.times.day_first), "")
        month = next((one.times.month_first for one in read if one.times.month_first), "")
        unclear = next((one.times.unclear for one in read if one.times.unclear), "")
        forms = self._forms(read, day_first=not month)
        exchanged = next((one for one in read if one.times.may_be_exchanged), None)
        if exchanged is not None and not (day and month):
            self._ask_exchanged(exchanged, read, forms)
        elif (day and month) or (unclear and not day and not month):
            text = f"Is {unclear!r} day or month first?"
            if day and month:
                text = f"Some dates are day first ({day!r}), some month first ({month!r}): which?"
            both = tuple("|".join(self._forms(read, day_first=first)) for first in (True, False))
            self._questions.append(
                Question(
                    text,
                    f"--time-format {both[0]!r} or {both[1]!r}",
                    lambda text: replace(answers, time_format=text),
                    both,
                )
            )
        elif unclear:
            shown = day or month
            order = "day" if day else "month"
            self._notes.append(f"dates are {order} first: {shown!r} can be nothing else")
        return None if forms in ([], ["iso"]) else "|".join(forms)

    def _ask_exchanged(
        self, column: ColumnLook, read: Sequence[ColumnLook], forms: Sequence[str]
    ) -> None:
        """Ask whether a spreadsheet swapped day and month where both were possible."""
        answers, times = self._answers, column.times
        dated = [one.times for one in read if one.times.patterns["iso"]]
        others = sorted(form for one in dated for form in one.exchanged)
        choices = ["|".join(forms)]
        if all(others) and all(one.may_be_exchanged for one in dated):
            choices.append("|".join([*dict.fromkeys(others), *(f for f in forms if f != "iso")]))
        right = " or ".join(map(repr, choices))
        self._questions.append(
            Question(
                f"{column.name!r}: dates like {times.early!r} have no day after the 12th, and texts"
                f" like {times.late_text!r} have no other day: a spreadsheet may have swapped"
                " day and month of the dates. If not, choose the first; if so, "
                + ("the second" if len(choices) > 1 else "export the file again, as CSV"),
                f"--time-format {right}",
                lambda text: replace(answers, time_format=text),
                tuple(choices),
            )
        )

    @staticmethod
    def _forms(read: Iterable[ColumnLook], *, day_first: bool) -> list[str]:
        found = [form for one in read for form in one.times.written(day_first=day_first)]
        return sorted(dict.fromkeys(found), key=lambda form: form != "iso")

    def _ask_constants(self) -> None:
        known = self._known
        agreed = self._dates["given_at"] or any(not flag.is_refusal for flag in self._flags)
        if len(known.brands) > 1:
            self._ask("brand", "Which brand did these people deal with?", known.brands)
        sources = tuple(str(one) for one in Source)
        self._ask("source", "How were the addresses obtained? direct: from the people", sources)
        if not agreed:
            return
        self._ask("consent_method", "How did they agree?", known.methods)
        self._ask("consent_wording", "What wording did they agree to?")
        self._ask("consent_form", "Where did they agree (a page, a till, a stand)?", default="")

    def _ask(
        self, name: str, text: str, choices: tuple[str, ...] = (), default: str | None = None
    ) -> None:
        if self._has(name):
            return
        answers = self._answers
        shown = name.replace("consent_wording", "evidence.wording")
        shown = shown.replace("consent_form", "evidence.form")
        self._questions.append(
            Question(
                text,
                f"--set {shown}=…",
                lambda text: answers.with_constant(name, text or LEFT_OPEN),
                choices,
                default,
                may_stay_open=True,
            )
        )


def is_about_refusals(header: str) -> bool:
    """Whether a yes in a column is a refusal: one such word in its name is enough."""
    fits = fitting(header, ("withdrawn_at", "opt_in", "opt_out", "given_at"))
    if {"withdrawn_at", "opt_out"} & fits.keys() or has_part(header, "out"):
        return True
    if has_part(header, "unmailable") and "soft" not in plain_words(header).split():
        return True
    is_about_mail = {"opt_in", "given_at"} & fits.keys() or begins(header, "mail")
    return bool(is_about_mail) and _is_negative(header)


def _refuses(cell: str) -> bool:
    """Whether a cell refuses mail whatever its column is called, as in `Status: unsubscribed`."""
    parts = has_part(cell, "out") or has_part(cell, "unmailable")
    return parts or bool(fitting(cell, ["opt_out"]))


def _is_negative(header: str) -> bool:
    return bool(fitting(header, ["not"])) or begins(header, "refusal")
