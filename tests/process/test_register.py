"""What a relay reports to the other relays, and about its keys to monitoring."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.config import parse
from smtpproxy.process import register
from smtpproxy.process.register import RelayReporter
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured, StoreUnavailable
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml


class Failing:
    """A store that fails at `tell`, or when asked for its keys."""

    def __init__(self, told: Exception | None, keys: Exception) -> None:
        self._told = told
        self._keys = keys

    async def tell(self, *_: object, **__: object) -> None:
        if self._told is not None:
            raise self._told

    async def keys(self) -> None:
        raise self._keys

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        (StoreInaccessible("commits do not wait for a standby"), 0),
        (StoreMisconfigured("the store was copied"), 0),
        (StoreUnavailable("the database failed"), 0),
        (None, 1),
    ],
)
async def test_a_failing_store_is_not_reported_as_a_missing_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Exception | None, missing: int
) -> None:
    settings = parse(to_toml(relay_config(tmp_path, "127.0.0.1:25")), "x.toml")
    (tmp_path / "state").mkdir()
    failing = Failing(told, StoreMisconfigured("suppression.key lacks a key"))
    monkeypatch.setattr(register, "open_store", lambda *_: failing)
    counted: asyncio.Future[Mapping[Any, float]] = asyncio.get_running_loop().create_future()
    teller = RelayReporter(settings, lambda numbers: counted.done() or counted.set_result(numbers))
    running = asyncio.create_task(teller.run())
    numbers = await asyncio.wait_for(counted, 10)
    running.cancel()
    await asyncio.wait((running,))
    assert numbers[("key",)] == missing
