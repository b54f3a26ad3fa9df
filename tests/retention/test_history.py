"""The record of purge runs survives crashes and feeds the metrics."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy import purge_runs
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.store.operations import Removed

T0 = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def test_there_is_no_history_at_first(tmp_path: Path) -> None:
    assert purge_runs.newest_run(tmp_path) is None
    assert purge_runs.run_metrics(tmp_path) == Snapshot()


def test_totals_add_up(tmp_path: Path) -> None:
    purge_runs.note_run(tmp_path, T0, T0, {})
    purge_runs.note_run(tmp_path, T0 + DAY, T0 + DAY, {"contacts": Removed(3, T0, T0)})
    run = purge_runs.note_run(
        tmp_path, T0 + 2 * DAY, T0 + 2 * DAY, {"contacts": Removed(4), "audit": Removed(9)}
    )
    assert purge_runs.newest_run(tmp_path) == run
    assert run.total == {
        "contacts": 7,
        "suppressions": 0,
        "lifted_suppressions": 0,
        "mailings": 0,
        "reports": 0,
        "audit": 9,
    }
    shown = purge_runs.run_metrics(tmp_path)
    assert shown.counters["purged_total"][("contacts",)] == 7
    ended = (T0 + 2 * DAY).timestamp()
    assert shown.gauges["purge_last_success_timestamp_seconds"] == {(): ended}
    path = tmp_path / purge_runs.FILE_NAME
    assert (len(path.read_text().splitlines()), path.stat().st_mode & 0o777) == (3, 0o600)


def test_a_truncated_line_does_not_count(tmp_path: Path) -> None:
    first = purge_runs.note_run(tmp_path, T0, T0, {"contacts": Removed(3)})
    with (tmp_path / purge_runs.FILE_NAME).open("a") as file:
        file.write('{"began":"2026')
    assert purge_runs.newest_run(tmp_path) == first
    second = purge_runs.note_run(tmp_path, T0 + DAY, T0 + DAY, {"contacts": Removed(1)})
    assert purge_runs.newest_run(tmp_path) == second
    assert second.total["contacts"] == 4


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (timedelta(days=35), None),
        (timedelta(hours=-23), None),
        (timedelta(days=36), "it is 2026-04-06, 36 days after the last purge"),
        (timedelta(days=1_830), "it is 2031-03-05, 1,830 days after the last purge"),
        (timedelta(days=-2), "it is 2026-02-27, 2 days before the last purge"),
    ],
)
def test_a_clock_far_from_the_last_run_is_doubted(
    tmp_path: Path, after: timedelta, said: str | None
) -> None:
    purge_runs.check_clock(tmp_path, T0)  # nothing to compare with
    purge_runs.note_run(tmp_path, T0, T0, {})
    if said is None:
        purge_runs.check_clock(tmp_path, T0 + after)
        return
    with pytest.raises(purge_runs.ClockDoubtful) as raised:
        purge_runs.check_clock(tmp_path, T0 + after)
    assert f"{said} (2026-03-01)" in str(raised.value)
