"""Memory with thousands of idle connections, and with many concurrent large messages."""

import asyncio
import resource
from dataclasses import dataclass

from benchmarks import data
from benchmarks.procfs import PeakMemory, pss_bytes
from benchmarks.subjects import Subject

IDLE = 5_000
MESSAGES = 20
MESSAGE_SIZE = 25_000_000
PIECE = 65_536


@dataclass(frozen=True, slots=True)
class Memory:
    """Proportional set size in bytes, over all processes of a relay."""

    at_rest: int
    idle: int
    idle_connections: int
    large: int  # the peak while all large messages are in transit
    large_messages: int  # answered 250


def allow_many_files() -> None:
    """Raise the soft limit of open files, also for relays started later."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(subject: Subject, *, idle: int = IDLE, messages: int = MESSAGES) -> Memory:
    """Measure a relay that nothing else is using."""
    at_rest = pss_bytes(subject.pids())
    connected, with_idle = asyncio.run(_idle(subject, idle))
    with PeakMemory(subject.pids) as memory:
        answered = asyncio.run(_large(subject, messages))
    return Memory(at_rest, with_idle, connected, memory.peak, answered)


async def _idle(subject: Subject, count: int) -> tuple[int, int]:
    """Open connections up to EHLO, hold them, measure, and close them."""
    host, _, port = subject.address.rpartition(":")
    writers: list[asyncio.StreamWriter] = []

    async def connect(number: int) -> None:
        # From many addresses, like real clients.
        source = f"127.0.1.{number % 250 + 1}"
        reader, writer = await asyncio.open_connection(
            host, int(port), local_addr=(source, 0), limit=1024
        )
        if (await reader.readline()).startswith(b"220"):
            writer.write(b"EHLO client.example\r\n")
            while (await reader.readline())[3:4] == b"-":
                pass
            writers.append(writer)

    for start in range(0, count, 100):
        await asyncio.wait_for(
            asyncio.gather(*(connect(n) for n in range(start, min(start + 100, count)))), 30
        )
    await asyncio.sleep(1.0)
    measured = pss_bytes(subject.pids())
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(1.0)
    return len(writers), measured


async def _large(subject: Subject, count: int) -> int:
    """Send large messages, each holding back its last byte until all have sent the rest."""
    host, _, port = subject.address.rpartition(":")
    content = data.message(MESSAGE_SIZE)
    arrived = asyncio.Barrier(count)

    async def send(number: int) -> bool:
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        await _reply(reader)
        for command in (
            "EHLO client.example",
            f"MAIL FROM:<{data.SENDER}>",
            f"RCPT TO:<{number + 1}{data.RECIPIENT}>",
            "DATA",
        ):
            writer.write(f"{command}\r\n".encode())
            code = await _reply(reader)
        try:
            if code != "354":
                return False
            for start in range(0, len(content), PIECE):
                writer.write(content[start : start + PIECE])
                await writer.drain()
        finally:
            await arrived.wait()
        writer.write(b".\r\n")
        code = await _reply(reader)
        writer.close()
        return code == "250"

    answers = await asyncio.wait_for(
        asyncio.gather(*(send(number) for number in range(count)), return_exceptions=True), 180
    )
    return answers.count(True)


async def _reply(reader: asyncio.StreamReader) -> str:
    while (line := await reader.readline())[3:4] == b"-":
        pass
    return line[:3].decode()
