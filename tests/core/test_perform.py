"""How steps are carried out: cancelled, failing, in parallel, or without a part."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.core import effects
from smtpproxy.core.effects import STORE_VERSION, Steps
from smtpproxy.core.perform import Performer, Run, drive
from smtpproxy.store.records import StoreUnavailable
from tests.policy.cases import NOW

TEXT = effects.CountText(b"key", ("a@b.example",), NOW, 60.0, 50, exact=True)


def performer(**parts: Any) -> Performer:
    nothing = SimpleNamespace(commit=None)
    return Performer(nothing, nothing, **parts)  # type: ignore[arg-type]


async def never() -> None:
    await asyncio.sleep(3600)


async def test_cancelling_steps_cancels_what_they_wait_for() -> None:
    closed: list[str] = []
    work = asyncio.ensure_future(never())

    def steps() -> Steps[None]:
        try:
            yield STORE_VERSION
        finally:
            closed.append("steps")

    run = Run(steps(), {effects.StoreVersion: lambda _: work}, {})
    run.cancel()
    await asyncio.sleep(0)
    assert closed == ["steps"]
    assert work.cancelled()


async def test_steps_end_when_what_they_wait_for_is_cancelled() -> None:
    """They cannot handle a cancelled wait as a failure."""
    seen: list[BaseException] = []
    work = asyncio.ensure_future(never())

    def steps() -> Steps[None]:
        try:
            yield STORE_VERSION
        except BaseException as error:
            seen.append(error)
            raise

    run = Run(steps(), {effects.StoreVersion: lambda _: work}, {})
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [type(error) for error in seen] == [GeneratorExit]


async def test_one_failure_in_parallel_steps_fails_them_after_all_have_ended() -> None:
    ended: list[int] = []
    under_way, most = 0, 0

    async def version(_: object) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    def one(number: int) -> Steps[None]:
        yield STORE_VERSION
        ended.append(number)
        if number == 0:
            raise StoreUnavailable("the first")

    carrying_out = performer()
    handlers: dict[type, Callable[[Any], Any]] = {
        **carrying_out.handlers,
        effects.StoreVersion: version,
    }
    carrying_out.handlers = handlers

    def steps() -> Steps[None]:
        yield effects.RunConcurrently(lambda: map(one, range(6)), at_once=2)

    with pytest.raises(StoreUnavailable, match="the first"):
        await drive(steps(), handlers)
    assert (ended, most) == ([0, 1, 2, 3, 4, 5], 2)


@pytest.mark.parametrize("exact", [False, True])
async def test_a_text_is_counted_exactly_only_where_that_matters(exact: bool) -> None:
    async def count(*_: object) -> int:
        return 7

    async def estimate(*_: object) -> int:
        return 5

    counter = SimpleNamespace(count=count, estimate=estimate)

    def steps() -> Steps[int]:
        found: int = yield replace(TEXT, exact=exact)
        return found

    handlers = performer(bulk_counter=counter).handlers
    assert await drive(steps(), handlers) == (7 if exact else 5)


async def test_a_part_the_process_lacks_is_a_temporary_failure() -> None:
    def steps() -> Steps[int]:
        found: int = yield TEXT
        return found

    with pytest.raises(StoreUnavailable, match="lacks a part"):
        await drive(steps(), performer().handlers)
