"""One grammar for times: `m` means minutes everywhere; months are spelt out or `mo`."""

import pytest

from smtpproxy.policy.periods import Period, Unit, parse_period
from smtpproxy.policy.rulebooks import RulebookError, parse_rulebook
from smtpproxy.settings.amounts import duration, period, rate, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("5min", 300), ("5 min", 300), ("90s", 90), ("1.5h", 5400), ("250ms", 0.25)],
)
def test_durations_in_seconds(text: str, seconds: float) -> None:
    assert duration(text) == seconds
    assert rate(f"10/{text}").period == seconds


@pytest.mark.parametrize("text", ["1mo", "1 month", "1y", "1M"])
def test_a_unit_without_fixed_length_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError, match="units: ms, s, m, min, h, d"):
        duration(text)


@pytest.mark.parametrize("text", ["36501d", 1e308, 10**20, f"{'9' * 400}.5d", "9" * 5000])
def test_a_duration_is_at_most_a_hundred_years(text: object) -> None:
    with pytest.raises(ValueError, match=r"is too long: at most 36500d|is not a time such as"):
        duration(text)


@pytest.mark.parametrize("text", [0, "0B", "1.5B", "1.0005KB"])
def test_a_size_is_a_whole_number_of_octets(text: object) -> None:
    with pytest.raises(ValueError, match="whole number of bytes above 0"):
        size(text)


@pytest.mark.parametrize("text", [f"{'9' * 400}.5GiB", "9" * 5000])
def test_an_absurd_size_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as"):
        size(text)


@pytest.mark.parametrize(
    ("text", "count", "unit"),
    [
        ("13 months", 13, Unit.MONTHS),
        ("13months", 13, Unit.MONTHS),
        ("1 month", 1, Unit.MONTHS),
        ("13mo", 13, Unit.MONTHS),
        ("3y", 3, Unit.YEARS),
        ("3 years", 3, Unit.YEARS),
        ("30d", 30, Unit.DAYS),
        ("48 hours", 48, Unit.HOURS),
    ],
)
def test_periods_are_calendar_periods(text: str, count: int, unit: Unit) -> None:
    assert period(text) == parse_period(text) == Period(count, unit)


@pytest.mark.parametrize("text", ["13m", "13 m", "1m"])
def test_m_means_minutes_and_not_months(text: str) -> None:
    assert parse_period(text) is None
    with pytest.raises(RulebookError, match=r"customer_period: .* is minutes: months are written"):
        parse_rulebook(f'name = "own"\ncustomer_period = "{text}"\n')
    with pytest.raises(ValueError, match=r'is minutes: months are written "1[0-9]? months"'):
        period(text)


@pytest.mark.parametrize(
    "text", ["", "months", "-1 month", "1.5y", "1 fortnight", "10 business days"]
)
def test_a_malformed_period_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match='is not a period such as "3 years"'):
        period(text)
