"""Relays on one PostgreSQL, each in its own folder, with the same key."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.kit.messages import marketing
from tests.kit.postgres import PostgresCluster
from tests.kit.postgres_pair import PostgresPair
from tests.kit.relay import RelayProcess
from tests.kit.store import fill_database

_TOKEN = "smtpproxy_of_the_tests"
API: Mapping[str, Any] = {
    "web": {},
    "token": [
        {"name": "crm", "sha256": sha256(_TOKEN.encode()).hexdigest(), "may": ["suppress"]},
    ],
}
"""Settings that a relay needs for `suppress`."""


class Relays:
    """Started by `start` in folders with the given names; ended by `kill`."""

    def __init__(self, folder: Path, upstream: str, server: PostgresCluster | PostgresPair) -> None:
        self.server = server
        self.name = server.create()
        self.all: list[RelayProcess] = []
        self._folder = folder
        self._upstream = upstream

    def prepare(
        self, name: str, config: Mapping[str, Any] | None = None, *, url: str = "", **store: Any
    ) -> RelayProcess:
        """Create a relay in a folder without starting it; the first creates tables and key."""
        root = self._folder / name
        root.mkdir()
        direct = self.server.url(self.name)
        settings = {"url": url or direct, "timeout": "1s", **store}
        relay = RelayProcess(root, self._upstream, {**(config or {}), "store": settings})
        if self.all:
            for name in ("suppression.key", "unsubscribe.key"):
                self.copy_key(name, self.all[0], relay)
        else:
            relay.config["store"]["url"] = direct
            relay.write_config()
            relay.must("migrate")
            fill_database(direct, root / "state", datetime.now(UTC))
            relay.config["store"]["url"] = url or direct
            relay.write_config()
        self.all.append(relay)
        return relay

    def start(
        self, name: str, config: Mapping[str, Any] | None = None, **more: Any
    ) -> RelayProcess:
        relay = self.prepare(name, config, **more)
        relay.start()
        return relay

    @staticmethod
    def copy_key(name: str, source: RelayProcess, to: RelayProcess) -> None:
        """Copy a key file, if there is one."""
        key, copy = (relay.root / "state" / name for relay in (source, to))
        if key.exists():
            copy.write_bytes(key.read_bytes())
            copy.chmod(0o600)

    def sql(self, *statements: str) -> str:
        return self.server.sql(self.name, *statements)

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Lock a table against reading and writing."""
        with self.server.session(self.name) as say:
            say(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 1;")
            yield

    def kill(self) -> None:
        for relay in self.all:
            relay.kill()


def answer(relay: RelayProcess, recipient: str) -> int:
    """Send a message; return the code of the decisive reply."""
    code, _ = relay.send(marketing(to=recipient), recipient)
    return code


def suppress(relay: RelayProcess, person: str, timeout: float = 30.0) -> bool:
    """Suppress a person over the API of a relay with `API`; return whether it was acknowledged."""
    asked = json.dumps({"suppressions": [{"address": person, "origin": "manual"}]})
    request = urllib.request.Request(
        f"{relay.url}/v1/suppressions", asked.encode(), {"Authorization": f"Bearer {_TOKEN}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return False
