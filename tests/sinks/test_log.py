"""What libraries report goes to the relay's log, at most once a second if it is the same."""

import logging
import time

import pytest
import structlog

from smtpproxy.sinks.log import _FromLibraries


def test_a_clock_that_is_set_back_silences_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, began = _FromLibraries(), time.monotonic()
    with structlog.testing.capture_logs() as lines:
        for seconds, wall_clock in ((0.0, 9_000.0), (0.5, 9_000.5), (2.0, 100.0)):
            monkeypatch.setattr(time, "monotonic", lambda now=began + seconds: now)
            said = {"name": "asyncio", "msg": "no file", "levelno": logging.ERROR}
            handler.emit(logging.makeLogRecord({**said, "created": wall_clock}))
    assert [line["unsaid"] for line in lines] == [0, 1]
