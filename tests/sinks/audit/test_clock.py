"""Whatever the clock does and however long messages wait, `audit verify` finds no forgery."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.sinks.audit.anchors import AnchorRow
from smtpproxy.sinks.audit.chain import Kind
from smtpproxy.sinks.audit.verify import verify
from tests.kit import jumping_loop
from tests.kit.journal import START, Clock, anchors, decided, journal

NOTES = {Kind.CLOCK, Kind.UNPROVEN}
WORKERS = 2
STORIES = {
    "the first message waited for the upstream": "late 0",
    "messages waited together, with an anchor between": "now 0 | late 0 | wait 2 | late 0 | late 1",
    "set back soon after an anchor": "now 0 | now 1 | wait 65 | now 0 | jump -90 | wait 2 | now 1",
    "set back after little time ahead, with few messages": (
        "now 0 | now 1 | wait 65 | jump 86400 | wait 5 | now 1 | jump -86400 | wait 70 | now 0"
    ),
    "ahead for the first line of a file alone": (
        "now 0 | jump 90 | rotate 0 | wait 0.1 | jump -90 | now 0 | wait 65 | now 0"
    ),
}


class Ticking(Clock):
    """A clock that follows the loop's and can be set by hand."""

    def __init__(self, passed: Callable[[], float]) -> None:
        self.passed, self.ahead = passed, timedelta()
        super().__init__()

    @property
    def time(self) -> Any:
        return START + timedelta(seconds=self.passed()) + self.ahead

    @time.setter
    def time(self, value: Any) -> None:
        pass


def at_once(
    loop: asyncio.AbstractEventLoop, _: Any, work: Callable[..., Any], *given: Any
) -> asyncio.Future[Any]:
    """Do a thread's work without one."""
    done = loop.create_future()
    done.set_result(work(*given))
    return done


async def tell(folder: Path, story: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "run_in_executor", partial(at_once, loop))
    clock = Ticking(loop.time)
    logs = [journal(folder, clock, worker) for worker in range(WORKERS)]
    await asyncio.sleep(1000)
    for part in story.split(" | "):
        what, number = part.split()
        match what:
            case "now":
                await logs[int(number)].commit(decided(clock))
            case "late":
                at = clock.now() - timedelta(seconds=200)
                await logs[int(number)].commit(decided(clock, at=at))
            case "rotate":
                logs[int(number)].rotate()
            case "jump":
                clock.ahead += timedelta(seconds=float(number))
            case "wait":
                await asyncio.sleep(float(number))
        await asyncio.sleep(0.01)
    for log in logs:
        log.close()
    return clock


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_honest_records_do_not_look_forged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story: str
) -> None:
    clock = jumping_loop.run(tell(tmp_path, story, monkeypatch))
    found = verify(tmp_path, now=clock.now()).findings
    assert [str(one) for one in found if one.kind not in NOTES] == []


def test_changes_are_anchored_in_the_file_of_a_clock_that_was_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = tmp_path / "changes-2036-12.ndjson"
    changes.write_text('{"n":1}\n')

    async def grow() -> int:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "run_in_executor", partial(at_once, loop))
        clock = Ticking(loop.time)
        log = journal(tmp_path, clock)
        await log.commit(decided(clock))
        await asyncio.sleep(200)  # the chain continues from what is anchored now
        changes.write_text('{"n":1}\n{"n":2}\n')
        await asyncio.sleep(70)
        row = anchors(tmp_path)[-1].row
        log.close()
        assert isinstance(row, AnchorRow)
        assert row.changes is not None
        return row.changes.n

    assert jumping_loop.run(grow()) == 2
