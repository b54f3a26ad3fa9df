"""A running relay with tests/kit/store.py's people, shared by the tests of one file."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from smtpproxy.config import load
from smtpproxy.store import open_store
from smtpproxy.store.sql.store import Store
from tests.kit import store
from tests.kit.processes import run
from tests.kit.relay import COMMAND, RelayProcess
from tests.kit.upstream import FakeUpstream


class Bench:
    """The relay, and its commands run in this process."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay

    def run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        code: int | None = None,
        config_path: Path | None = None,
    ) -> tuple[str, str]:
        """Run a command, which must end with `code` if given; return stdout and stderr."""
        config = ("--config", str(config_path or self.relay.config_path))
        if stdin and arguments[0] == "scrub":  # this command reads the descriptor itself
            alone = run(*COMMAND, *arguments, *config, stdin=stdin)
            assert code is None or alone.returncode == code, (alone.returncode, alone.stderr)
            return alone.stdout, alone.stderr
        result = CliRunner().invoke(main, [*arguments, *config], input=stdin)
        assert code is None or result.exit_code == code, (result.exit_code, result.output)
        return result.stdout, result.stderr

    def json(self, *arguments: str, stdin: bytes = b"", code: int | None = None) -> Any:
        return json.loads(self.run(*arguments, "--json", stdin=stdin, code=code)[0])

    def store(self, work: Callable[[Store], Awaitable[Any]]) -> None:
        """Do something to the relay's store."""
        settings = load(self.relay.config_path)

        async def act() -> None:
            opened = open_store(settings.store, settings.server.state_dir)
            try:
                await work(opened)
            finally:
                await opened.close()

        asyncio.run(act())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root: Path = tmp_path_factory.mktemp("bench")
    with FakeUpstream() as upstream:
        relay = RelayProcess(root, upstream.address)
        bench = Bench(relay)
        bench.store(lambda people: store.fill(people, people, datetime.now(UTC)))
        with relay:
            yield bench
