"""The control socket of a relay when two relays share a state_dir."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest

from smtpproxy.process import control
from smtpproxy.process.control import Control, NotRunning, Request, Status, ask
from smtpproxy.process.listening import answers


async def _unasked(request: Request) -> control.Answer:
    raise AssertionError(request)


def _opened_in_thread(folder: Path, is_open: threading.Event, over: threading.Event) -> None:
    async def run() -> None:
        second = Control(folder, _unasked)
        second.open()
        is_open.set()
        await asyncio.to_thread(over.wait, 10)
        await second.close()

    asyncio.run(run())


def test_the_first_of_two_relays_started_together_is_controlled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_open, over = threading.Event(), threading.Event()
    args = (tmp_path, is_open, over)
    thread = threading.Thread(target=_opened_in_thread, args=args)
    found: list[bool] = []

    def answers_late(path: Path | str) -> bool:
        result = answers(path)
        found.append(result)
        if len(found) == 1:
            thread.start()
            is_open.wait(0.3)  # without a lock, the second would take its place meanwhile
        return result

    async def run() -> None:
        first = Control(tmp_path, _unasked)
        first.open()
        assert await asyncio.to_thread(is_open.wait, 10)
        assert found == [False, True]
        over.set()
        await asyncio.to_thread(thread.join)
        assert answers(tmp_path / control.NAME)
        await first.close()
        assert not (tmp_path / control.NAME).exists()

    monkeypatch.setattr(control, "answers", answers_late)
    asyncio.run(run())


@pytest.mark.parametrize("answer", [b"", b"\0\0", b"\0\0\0\x10", b"\0\0\0\x10half"])
def test_a_relay_that_ends_while_answering_is_reported(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / control.NAME))
        listening.listen()

        def end() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(NotRunning, match="ended before it answered"):
            ask(tmp_path, Status())
        thread.join()


async def test_an_aborted_command_does_not_block_another(tmp_path: Path) -> None:
    async def answered(request: Request) -> control.Answer:
        return control.Response(told={"mode": "enforce"}), []

    relay = Control(tmp_path, answered)
    relay.open()
    for part in (b"", b"\0\0", b"\0\0\0\x10half", b"\0\0\0\1?", b"x" * 70_000):
        with socket.socket(socket.AF_UNIX) as broken:
            broken.connect(str(tmp_path / control.NAME))
            broken.sendall(part)
    response, _ = await asyncio.to_thread(ask, tmp_path, Status())
    assert response.told == {"mode": "enforce"}
    await relay.close()
