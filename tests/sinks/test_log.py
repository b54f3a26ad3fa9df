"""Messages of libraries go to the relay's log, repeated ones at most once a second."""

import logging
import time

import pytest
import structlog

from smtpproxy.sinks.log import _FromLibraries


def test_setting_the_clock_back_does_not_silence_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    handler, began = _FromLibraries(), time.monotonic()
    with structlog.testing.capture_logs() as lines:
        for seconds, wall_clock, text in (
            (0.0, 9_000.0, "no file"),
            (0.5, 9_000.5, "no file"),
            (2.0, 100.0, "no file"),
            (2.1, 100.1, "no file"),
            (2.2, 100.2, "another"),
        ):
            monkeypatch.setattr(time, "monotonic", lambda now=began + seconds: now)
            said = {"name": "asyncio", "msg": text, "levelno": logging.ERROR}
            handler.emit(logging.makeLogRecord({**said, "created": wall_clock}))
    assert [(line["message"], line["unsaid"]) for line in lines] == [
        ("no file", 0),
        ("no file", 1),
        ("another", 0),
    ]


def test_an_exception_reported_by_a_library_comes_with_its_traceback() -> None:
    fault = ValueError("broken")
    with structlog.testing.capture_logs() as lines:
        for given in (None, (ValueError, fault, None)):
            said = {"name": "asyncio", "msg": "failed", "levelno": logging.ERROR}
            _FromLibraries().emit(logging.makeLogRecord({**said, "exc_info": given}))
    assert [line.get("exc_info") for line in lines] == [None, fault]
