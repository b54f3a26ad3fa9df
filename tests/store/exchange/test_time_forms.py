"""The format of times is inferred from all cells of a column."""

from datetime import UTC

import pytest

from smtpproxy.store.exchange.look import TimeForms
from smtpproxy.store.exchange.times import Notation


def forms(*cells: str) -> TimeForms:
    found = TimeForms()
    for cell in cells:
        found.add(cell)
    return found


@pytest.mark.parametrize(
    "cell",
    [
        *("31/12/2024", "31.12.2024", "31-12-24", "31/12/2024 10:05", "31/12/2024 10:05:07"),
        *("31/12/2024 10:05 PM", "31/12/2024 10:05:07 am", "2024/12/31", "2024.12.31 10:05"),
        *("2024-12-31", "2024-12-31 10:05:07", "2024-12-31T10:05:07Z", "2024-12-31T10:05+01:00"),
        *("45657", "45657.5", "1735639507", "1735639507000", "Tue, 31 Dec 2024 10:05:07 +0100"),
    ],
)
def test_the_inferred_format_reads_the_cells(cell: str) -> None:
    (pattern,) = forms(cell).written(day_first=True)
    assert Notation(pattern, UTC).read(cell).year == 2024


@pytest.mark.parametrize(
    ("cells", "day", "month", "unclear"),
    [
        (["03/04/2024"], "", "", "03/04/2024"),
        (["03/03/2024"], "", "", ""),
        (["03/04/2024", "31/12/2024"], "31/12/2024", "", "03/04/2024"),
        (["12/31/2024"], "", "12/31/2024", ""),
        (["31/12/2024", "12/31/2024"], "31/12/2024", "12/31/2024", ""),
        (["03.04.2024"], "03.04.2024", "", ""),  # with full stops, the day always comes first
    ],
)
def test_the_order_of_day_and_month_is_proven_or_unclear(
    cells: list[str], day: str, month: str, unclear: str
) -> None:
    found = forms(*cells)
    assert (found.day_first, found.month_first, found.unclear) == (day, month, unclear)


@pytest.mark.parametrize(
    "cell", ["", "n.c.", "75001", "0601020304", "1" * 10_000, "12/2024", "1.5"]
)
def test_a_cell_that_is_not_a_time_gives_no_format(cell: str) -> None:
    found = forms(cell)
    assert not found.patterns
    assert not found.numbers


@pytest.mark.parametrize(
    ("cell", "zoneless"),
    [
        ("2024-12-31 10:05", True),
        ("31/12/2024 10:05", True),
        ("2024-12-31", False),
        ("2024-12-31T10:05Z", False),
    ],
)
def test_a_time_without_a_zone_is_noticed(cell: str, zoneless: bool) -> None:
    assert bool(forms(cell).zoneless) is zoneless


@pytest.mark.parametrize(
    ("cells", "may_be"),
    [
        (["2024-04-03", "13/05/2024"], True),
        (["2024-04-03T10:00:00", "05/13/2024"], True),
        (["2024-04-03", "2024-04-13", "13/05/2024"], False),  # the 13th cannot be a month
        (["2024-04-03", "13/05/2024", "03/05/2024"], False),  # Excel would have swapped this text
        (["2024-04-03", "2024-04-05"], False),
        (["13/05/2024", "03/05/2024"], False),
    ],
)
def test_days_that_a_spreadsheet_swapped_with_months_are_noticed(
    cells: list[str], may_be: bool
) -> None:
    assert forms(*cells).may_be_exchanged is may_be
