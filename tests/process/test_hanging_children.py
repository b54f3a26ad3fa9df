"""A child beside the mail that hangs is killed, and another takes its place."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import Struct

from smtpproxy.app import prepare
from smtpproxy.config import parse
from smtpproxy.process import generation as module
from smtpproxy.process.children import Channel, Message, Role
from smtpproxy.process.generation import SHARED, Child, Generation
from smtpproxy.process.listening import Sockets
from smtpproxy.process.nursery import Nursery
from smtpproxy.settings import Settings
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + "QUFB" * 8 + "\n")
    secret.chmod(0o600)
    more = {
        "server": {"workers": 1},
        "feedback": {"domain": "bounces.relay.example"},
        "webhook": [{"name": "crm", "url": "https://127.0.0.1:1/", "secret_file": str(secret)}],
    }
    return parse(to_toml(relay_config(tmp_path, "127.0.0.1:1", more)), "relay.toml")


class Started(Struct):
    """One child of a relay."""

    generation: Generation
    child: Child
    beaten: asyncio.Event
    ended: list[tuple[str, bool]] = []

    async def beat(self) -> None:
        self.beaten.clear()
        await self.beaten.wait()


@asynccontextmanager
async def started(settings: Settings, role: Role) -> AsyncIterator[Started]:
    await asyncio.to_thread(prepare, settings)
    nursery, sockets = Nursery(settings), Sockets(settings)
    ended: list[tuple[str, bool]] = []
    beaten = asyncio.Event()

    def heard(child: Child, _channel: Channel, _message: Message) -> None:
        if child.role == role:
            beaten.set()

    generation = Generation(
        settings,
        sockets.listening,
        0.0,
        nursery=nursery,
        heard=heard,
        ended=lambda child, told: ended.append((child.role, told)),
    )
    nursery.open(lambda _code: None)
    try:
        generation.start((role,))
        async with asyncio.timeout(40):
            await beaten.wait()
            (child,) = generation._keepers
            yield Started(generation, child, beaten, ended)
        await generation.end((*SHARED, role))
    finally:
        nursery.close()
        sockets.close()


@pytest.mark.parametrize(
    ("role", "is_replaced"),
    [("web", True), ("feedback", True), ("webhooks", True), ("worker", False)],
)
async def test_a_child_that_hangs_is_replaced_unless_it_has_mail_in_hand(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, role: Role, is_replaced: bool
) -> None:
    monkeypatch.setattr(module, "_HANGS_AFTER", 2.5)
    async with started(settings, role) as relay:
        hung = relay.child.process
        assert hung is not None
        os.kill(hung.pid, signal.SIGSTOP)
        if is_replaced:
            await hung.wait()
            await relay.beat()
            assert relay.child.process is not hung
        else:
            await asyncio.sleep(5)
            os.kill(hung.pid, signal.SIGCONT)
        assert relay.ended == [(role, False)] * is_replaced


async def test_a_relay_that_was_stopped_as_a_whole_does_not_take_its_children_for_hanging(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HANGS_AFTER", 2.5)
    async with started(settings, "web") as relay:
        assert relay.child.process is not None
        os.kill(relay.child.process.pid, signal.SIGSTOP)
        time.sleep(4)  # noqa: ASYNC251 - a paused container: nor does this process run
        os.kill(relay.child.process.pid, signal.SIGCONT)
        await relay.beat()
        await relay.beat()
        assert relay.ended == []
