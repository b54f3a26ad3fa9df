"""Detecting how the times of a column are written, from all of its cells together."""

import re
from collections import Counter
from dataclasses import dataclass, field

_PARTED = re.compile(
    r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)(?: \d{1,2}:\d\d(:\d\d)?( ?[AaPp][Mm])?)?"
)
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:([T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?) ?(Z|[+-]\d\d:?\d\d)?)?")
_YEAR_FIRST = re.compile(r"\d{4}([/.])\d{1,2}\1\d{1,2}(?: \d{1,2}:\d\d(:\d\d)?)?")
_RFC_2822 = re.compile(r"(?:[A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(?::\d\d)? \S+")
_EXCEL = re.compile(r"[2-5]\d{4}(?:[.,]\d+)?")  # days from 1954 to 2064
_EPOCH = re.compile(r"1\d{9}(?:\.\d+)?|1\d{12}")  # from 2001 to 2033
_LONGEST = 40
_LAST_MONTH = 12


@dataclass(slots=True)
class TimeForms:
    """The notations of a column's cells, with examples.

    In a pattern, `%1` and `%2` are day and month, in an unknown order.
    """

    patterns: Counter[str] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)  # Excel or epoch, or not times at all
    day_first: str = ""  # a cell that can only be day first
    month_first: str = ""
    unclear: str = ""  # a cell that can be either
    zoneless: str = ""  # a cell with a time of day but no zone
    early: str = ""  # a date with the year first, and a day that may be a month
    exchanged: set[str] = field(default_factory=set)  # patterns of those with day and month swapped
    late_text: str = ""  # a date as people write it, of a day after the 12th
    _unlike: bool = False  # a cell that a spreadsheet which swaps them would have changed

    def add(self, text: str) -> None:
        if len(text) > _LONGEST or not text[:1].isalnum():
            return
        if found := _PARTED.fullmatch(text):
            self._add_parted(text, *found.groups())
        elif found := _ISO.fullmatch(text):
            self.patterns["iso"] += 1
            self._add_iso(text, found[1] or "", zoned=bool(found[2]))
            if found[1] and not found[2]:
                self.zoneless = self.zoneless or text
        elif found := _YEAR_FIRST.fullmatch(text):
            sign, has_time = found[1], ":" in text
            self.patterns[f"%Y{sign}%m{sign}%d{_hours(has_time, found[2], None)}"] += 1
            self.zoneless = self.zoneless or (text if has_time else "")
        elif _EXCEL.fullmatch(text):
            self.numbers["excel"] += 1
        elif _EPOCH.fullmatch(text):
            self.numbers["epoch"] += 1
        elif _RFC_2822.fullmatch(text):
            self.patterns["rfc2822"] += 1

    def _add_iso(self, text: str, time: str, *, zoned: bool) -> None:
        if int(text[8:10]) > _LAST_MONTH:
            self._unlike = True
            return
        self.early = self.early or text
        hours = {0: "", len("T10:00:00"): f"{time[:1]}%H:%M:%S"}.get(len(time))
        self.exchanged.add("" if zoned or hours is None else f"%Y-%d-%m{hours}")

    @property
    def may_be_exchanged(self) -> bool:
        """Whether a spreadsheet may have read days as months, and left other days as text.

        Then no date has a day after the 12th, and all texts have one.
        """
        return bool(self.early and self.late_text) and not self._unlike

    def _add_parted(
        self, text: str, first: str, sign: str, second: str, year: str,
        seconds: str | None, noon: str | None,
    ) -> None:  # fmt: skip
        has_time = ":" in text
        years = "%Y" if len(year) > len("26") else "%y"
        self.patterns[f"%1{sign}%2{sign}{years}{_hours(has_time, seconds, noon)}"] += 1
        if has_time:
            self.zoneless = self.zoneless or text
        if max(int(first), int(second)) > _LAST_MONTH:
            self.late_text = self.late_text or text
        else:
            self._unlike = True
        if int(first) > _LAST_MONTH or sign == ".":
            self.day_first = self.day_first or text
        elif int(second) > _LAST_MONTH:
            self.month_first = self.month_first or text
        elif first != second:
            self.unclear = self.unclear or text

    def written(self, *, day_first: bool) -> list[str]:
        """Return the notations of a mapping, the commonest first."""
        day, month = ("%d", "%m") if day_first else ("%m", "%d")
        found = [pattern for pattern, _ in (self.patterns or self.numbers).most_common()]
        return [pattern.replace("%1", day).replace("%2", month) for pattern in found]


def _hours(has_time: bool, seconds: str | None, noon: str | None) -> str:
    if not has_time:
        return ""
    hours = " %I:%M" if noon else " %H:%M"
    return hours + (":%S" if seconds else "") + (noon.replace(noon.strip(), "%p") if noon else "")
