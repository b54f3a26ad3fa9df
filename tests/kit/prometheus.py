"""A real Prometheus with the shipped configuration, scraping a relay every second."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.kit.parts import program
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.processes import Running
from tests.kit.relay import RelayProcess

CONFIG = Path(__file__).parents[2] / "config" / "prometheus"


class Prometheus:
    """`config/prometheus` with one target (`host:port`), as a context manager.

    Only the target and the intervals differ, so that tests need not wait long.
    """

    def __init__(self, root: Path, target: str) -> None:
        self.target = target
        self.url = f"http://{LOOPBACK}:{free_port()}"
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        config = (CONFIG / "prometheus.yml").read_text()
        config = config.replace("127.0.0.1:8025", target)
        config = re.sub(r"_interval: 15s", "_interval: 1s", config)
        (root / "prometheus.yml").write_text(config)
        (root / "alerts.yml").write_text((CONFIG / "alerts.yml").read_text())
        self._running: Running | None = None

    def __enter__(self) -> "Prometheus":
        self._running = Running(
            [
                program("prometheus"),
                f"--config.file={self._root / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._root / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            output=self._root / "prometheus.log",
        )
        wait_for(self._ready, "Prometheus to be ready")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._running is not None:
            self._running.kill()

    def _ready(self) -> bool:
        assert self._running is not None
        assert self._running.alive, f"Prometheus ended:\n{self._running.output[-3000:]}"
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def api(self, path: str, **parameters: str) -> Any:
        """Return `data` of an API answer; raises AssertionError with the API's error."""
        url = f"{self.url}/api/v1/{path}"
        body = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{url}?{body}" if body else url, timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query now."""
        return list(self.api("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Return the value of a query with one series; None without any."""
        result = self.query(expression)
        assert len(result) <= 1, f"{expression} gives {len(result)} series"
        return float(result[0]["value"][1]) if result else None


class Watched(Struct, frozen=True):
    """A relay in use, and the Prometheus that scrapes it."""

    relay: RelayProcess
    prometheus: Prometheus
