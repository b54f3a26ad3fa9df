"""How readiness is determined."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.settings import TcpAddress, UnixAddress, UpstreamSettings
from smtpproxy.tls import TlsFiles, server_context
from smtpproxy.web.health import Health, Readiness, ReadinessProbe, State, greet, take
from tests.kit.certificates import Authority

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def works() -> None:
    return


async def fails() -> None:
    raise OSError("gone")


async def hangs() -> None:
    await asyncio.Event().wait()


def listening() -> State:
    return "ok"


@pytest.mark.parametrize(("alive", "ok"), [(0, False), (1, False), (2, True), (3, True)])
def test_health_needs_every_worker(alive: int, ok: bool) -> None:
    assert Health(workers=2, alive=alive).ok is ok


async def test_all_parts_work() -> None:
    ready = ReadinessProbe(listeners=listening, store=works, upstream=works)
    assert await ready() == Readiness("ok", "ok", "ok")
    assert (await ready()).ok


async def test_a_part_that_raises_is_failing() -> None:
    ready = ReadinessProbe(listeners=listening, store=fails, upstream=works)
    assert await ready() == Readiness("ok", "failing", "ok")
    assert not (await ready()).ok


async def test_a_journal_that_cannot_be_written_is_failing(tmp_path: Path) -> None:
    def ready(folder: Path) -> ReadinessProbe:
        return ReadinessProbe(
            listeners=listening, store=works, upstream=works, audit=lambda: take(folder)
        )

    assert (await ready(tmp_path)()).ok
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
    gone = await ready(tmp_path / "gone")()
    assert gone == Readiness("ok", "ok", "ok", "failing")
    assert not gone.ok


async def test_a_part_that_hangs_is_failing_in_time() -> None:
    ready = ReadinessProbe(listeners=listening, store=works, upstream=hangs, timeout=0.05)
    assert await asyncio.wait_for(ready(), 5) == Readiness("ok", "ok", "failing")


async def test_listeners_are_probed_every_time() -> None:
    states: list[State] = ["ok", "draining"]
    ready = ReadinessProbe(listeners=lambda: states.pop(0), store=works, upstream=works)
    assert (await ready()).listeners == "ok"
    assert (await ready()).listeners == "draining"


async def test_many_callers_share_one_probe() -> None:
    calls = 0

    async def upstream() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)

    ready = ReadinessProbe(listeners=listening, store=works, upstream=upstream)
    await asyncio.gather(*(ready() for _ in range(50)))
    assert calls == 1


async def test_a_caller_that_leaves_does_not_end_the_probe_for_others() -> None:
    go = asyncio.Event()

    async def upstream() -> None:
        await go.wait()

    ready = ReadinessProbe(listeners=listening, store=works, upstream=upstream)
    leaves, stays = asyncio.create_task(ready()), asyncio.create_task(ready())
    await asyncio.sleep(0)
    leaves.cancel()
    go.set()
    assert (await stays).ok


async def test_a_part_is_probed_again_and_recovers() -> None:
    broken = True

    async def upstream() -> None:
        if broken:
            raise ConnectionRefusedError

    ready = ReadinessProbe(listeners=listening, store=works, upstream=upstream, every=0)
    assert not (await ready()).ok
    broken = False
    assert (await ready()).ok


@asynccontextmanager
async def smtp_server(
    handler: Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[UpstreamSettings]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield UpstreamSettings(TcpAddress("127.0.0.1", server.sockets[0].getsockname()[1]))


def answering(greeting: bytes, heard: list[bytes]) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        heard.append(await reader.readline())
        writer.write(b"221 bye\r\n")
        writer.close()

    return handler


async def test_a_probe_of_smtp_ends_with_quit() -> None:
    heard: list[bytes] = []
    async with smtp_server(answering(b"220 mta.example ESMTP\r\n", heard)) as upstream:
        await greet(upstream)
    assert heard == [b"QUIT\r\n"]


async def test_a_probe_uses_implicit_tls_where_the_relay_does(tmp_path: Path) -> None:
    heard: list[bytes] = []
    authority = Authority(tmp_path)
    pair = authority.issue("mta.example")
    context, _ = server_context(TlsFiles(pair.certificate, pair.key))
    async with smtp_server(answering(b"220 mta.example ESMTP\r\n", heard), context) as upstream:
        upstream = replace(upstream, tls="implicit", ca_file=authority.path)
        await greet(replace(upstream, tls_name="mta.example"))
        with pytest.raises(OSError, match="certificate"):
            await greet(replace(upstream, tls_name="other.example"))
    assert heard == [b"QUIT\r\n"]


@pytest.mark.parametrize("greeting", [b"421 too busy\r\n", b"554 no\r\n", b""])
async def test_an_upstream_that_refuses_us_is_failing(greeting: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    async with smtp_server(handler) as upstream:
        with pytest.raises(OSError, match="220"):
            await greet(upstream)


async def test_a_closed_port_is_failing() -> None:
    async with smtp_server(answering(b"", [])) as upstream:
        pass
    with pytest.raises(OSError, match=r"refused|failed"):
        await greet(upstream)


async def test_a_probe_over_a_unix_socket(tmp_path: Path) -> None:
    heard: list[bytes] = []
    path = tmp_path / "mta.sock"
    server = await asyncio.start_unix_server(answering(b"220 mta\r\n", heard), path)
    async with server:
        await greet(UpstreamSettings(UnixAddress(path)))
    assert heard == [b"QUIT\r\n"]
