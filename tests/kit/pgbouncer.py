"""A private PgBouncer in front of a test PostgreSQL."""

import csv
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from tests.kit.parts import program
from tests.kit.ports import LOOPBACK, free_port, listens, wait_for
from tests.kit.postgres import USER, PostgresCluster
from tests.kit.processes import Running


class PgBouncer:
    """Started by `with`; uses up to `size` connections to a database."""

    def __init__(
        self, server: PostgresCluster, mode: Literal["session", "transaction"], *, size: int = 20
    ) -> None:
        self._port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="smtpproxy-pgbouncer-")
        self.root = Path(self._folder.name)
        self.root.chmod(0o755)
        (self.root / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.root} port={server.port} user={USER}\n"
            f"[pgbouncer]\nlisten_addr = {LOOPBACK}\nlisten_port = {self._port}\n"
            f"unix_socket_dir =\nauth_type = any\nadmin_users = {USER}\npool_mode = {mode}\n"
            f"default_pool_size = {size}\n"
        )
        self._running: Running | None = None

    def __enter__(self) -> "PgBouncer":
        user = ["-u", "postgres"] if os.geteuid() == 0 else []  # it refuses to run as root
        running = Running(
            [program("pgbouncer"), *user, str(self.root / "pgbouncer.ini")],
            output=self.root / "output",
        )
        self._running = running

        def up() -> bool:
            assert running.alive, f"pgbouncer ended:\n{running.output}"
            return listens(self._port)

        wait_for(up, "PgBouncer to listen")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._running is not None:
            self._running.kill()
        self._folder.cleanup()

    def url(self, name: str) -> str:
        return f"postgresql://{USER}@{LOOPBACK}:{self._port}/{name}"

    def queries(self, name: str) -> int:
        """The number of queries to this database so far."""
        done = subprocess.run(
            [program("psql"), "-X", "--csv", "-q", "-h", LOOPBACK, "-p", str(self._port),
             "-U", USER, "-d", "pgbouncer", "-c", "SHOW STATS_TOTALS"],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        rows = csv.DictReader(done.stdout.splitlines())
        return sum(int(row["query_count"]) for row in rows if row["database"] == name)
