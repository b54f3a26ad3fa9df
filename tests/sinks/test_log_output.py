"""The log never waits for its reader, and a line that cannot be written does no harm."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from smtpproxy.sinks.log import LogOutput


@contextmanager
def output_to(number: int) -> Iterator[LogOutput]:
    """The log of a process with this file as standard error."""
    with os.fdopen(number, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        yield LogOutput()


def filled(output: LogOutput, line: str) -> int:
    """Write until a line is lost; return how many were written."""
    for count in range(100_000):
        output.write(line)
        if output.gap:
            return count
    raise AssertionError("it is never full")


@pytest.mark.parametrize("length", [100, 5_000])
def test_a_pipe_that_nobody_reads_loses_lines(length: int) -> None:
    reader, writer = os.pipe()
    others = os.dup(writer)  # such as the shell's
    line = "x" * length + "\n"
    with output_to(writer) as output:
        kept = filled(output, line)
        output.write(line)
        assert output.gap == {"lines_lost": 2}
        assert not fcntl.fcntl(others, fcntl.F_GETFL) & os.O_NONBLOCK
        os.set_blocking(reader, False)
        read = os.read(reader, 1_000_000)
        output.write(line)
        assert output.gap == {}
        read += os.read(reader, 1_000_000)
        assert read.decode() == line * (kept + 1)
    os.close(others)
    os.close(reader)


def test_a_pipe_without_a_reader_does_no_harm() -> None:
    reader, writer = os.pipe()
    with output_to(writer) as output:
        output.write("before\n")
        os.close(reader)
        output.write("after\n")
        assert output.gap == {"lines_lost": 1}
        LogOutput().write("it can be opened like that, too\n")


def test_a_socket_that_nobody_reads_loses_lines() -> None:
    ours, theirs = socket.socketpair()
    with ours, output_to(theirs.detach()) as output:
        kept = filled(output, "line\n")
        assert ours.recv(5) == b"line\n"
        assert kept > 1


def test_a_partly_written_line_is_completed_or_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, takes, sent = LogOutput(), [3, 2, 1, 99], b""

    def send(data: bytes) -> int:
        nonlocal sent
        taken = data[: takes.pop(0)]
        sent += taken
        return len(taken)

    monkeypatch.setattr(output, "_send", send)
    for line, gap in (
        ("first\n", {}),
        ("second\n", {"lines_lost": 1}),  # more of the first line
        ("third\n", {}),  # the end of the first line; the second is pending now
        ("fourth\n", {}),
    ):
        output.write(line)
        assert output.gap == gap
    assert sent == b"first\nthird\nfourth\n"


def test_a_full_disk_does_no_harm() -> None:
    with output_to(os.open("/dev/full", os.O_WRONLY)) as output:
        output.write("line\n")
        output.write("line\n")
        assert output.gap == {"lines_lost": 2}


def test_a_closed_standard_error_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    LogOutput().write("été\n")
    assert capsys.readouterr().err == "été\n"
