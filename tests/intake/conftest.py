"""Listeners that stop with their test."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.intake.listening import Intake
from tests.kit.upstream import FakeUpstream

Listen = Callable[..., Intake]


@pytest.fixture
def listen(
    tmp_path: Path, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Listen]:
    """Start listeners in front of `upstream`: `listen({"server": {…}}, command_timeout="1s")`.

    In the end no session may have met an internal failure or kept a connection or content.
    """
    monkeypatch.setattr("smtpproxy.intake.session._LINGER", 0.2)  # else each such end takes 2 s
    with ExitStack() as stack:
        started: list[Intake] = []

        def start(config: Mapping[str, Any] | None = None, **listener: Any) -> Intake:
            root = tmp_path / f"intake{len(started)}"
            root.mkdir()
            intake = Intake(root, upstream.address, config, listener)
            started.append(stack.enter_context(intake))
            return intake

        yield start
    for intake in started:
        assert intake.unexpected == []
        assert intake.pool.busy == 0
        assert intake.door.spool.in_memory == 0
