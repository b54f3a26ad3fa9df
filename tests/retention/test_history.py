"""The record of the runs outlives crashes, and is what metrics show."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from smtpproxy import retention
from smtpproxy.retention import Kind
from smtpproxy.sinks.snapshots import Snapshot

T0 = datetime(2026, 3, 1, 3, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def test_nothing_yet(tmp_path: Path) -> None:
    assert retention.newest_run(tmp_path) is None
    assert retention.run_metrics(tmp_path) == Snapshot()


def test_totals_add_up(tmp_path: Path) -> None:
    retention.note_run(tmp_path, T0, T0, {})
    retention.note_run(tmp_path, T0 + DAY, T0 + DAY, {"contacts": Kind(3, T0, T0)})
    run = retention.note_run(
        tmp_path, T0 + 2 * DAY, T0 + 2 * DAY, {"contacts": Kind(4), "audit": Kind(9)}
    )
    assert retention.newest_run(tmp_path) == run
    assert run.total == {
        "contacts": 7,
        "suppressions": 0,
        "lifted_suppressions": 0,
        "mailings": 0,
        "reports": 0,
        "audit": 9,
    }
    shown = retention.run_metrics(tmp_path)
    assert shown.counters["purged_total"][("contacts",)] == 7
    ended = (T0 + 2 * DAY).timestamp()
    assert shown.gauges["purge_last_success_timestamp_seconds"] == {(): ended}
    path = tmp_path / retention.FILE_NAME
    assert (len(path.read_text().splitlines()), path.stat().st_mode & 0o777) == (3, 0o600)


def test_a_line_that_was_cut_short_never_counted(tmp_path: Path) -> None:
    first = retention.note_run(tmp_path, T0, T0, {"contacts": Kind(3)})
    with (tmp_path / retention.FILE_NAME).open("a") as file:
        file.write('{"began":"2026')
    assert retention.newest_run(tmp_path) == first
    second = retention.note_run(tmp_path, T0 + DAY, T0 + DAY, {"contacts": Kind(1)})
    assert retention.newest_run(tmp_path) == second
    assert second.total["contacts"] == 4
