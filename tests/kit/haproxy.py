"""A private HAProxy with a given configuration."""

import tempfile
from pathlib import Path

from tests.kit.parts import program
from tests.kit.ports import listens, wait_for
from tests.kit.processes import Running


class Haproxy:
    """Started by `with`; `config` is a whole file, which must listen on `port`."""

    def __init__(self, config: str, port: int) -> None:
        self.port = port
        self._folder = tempfile.TemporaryDirectory(prefix="smtpproxy-haproxy-")
        self.root = Path(self._folder.name)
        (self.root / "haproxy.cfg").write_text(config)
        self._running: Running | None = None

    @property
    def pid(self) -> int:
        """Raises RuntimeError before the start."""
        if self._running is None:
            raise RuntimeError("HAProxy was not started")
        return self._running.pid

    def __enter__(self) -> "Haproxy":
        running = Running(
            [program("haproxy"), "-db", "-f", str(self.root / "haproxy.cfg")],
            output=self.root / "output",
        )
        self._running = running

        def up() -> bool:
            assert running.alive, f"haproxy ended:\n{running.output}"
            return listens(self.port)

        wait_for(up, "HAProxy to listen")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._running is not None:
            self._running.kill()
        self._folder.cleanup()
