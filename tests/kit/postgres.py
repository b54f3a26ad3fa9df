"""A PostgreSQL for the tests, and a database for each test.

One cluster per test process, started by the first test that needs it, on a Unix socket in its own
folder. It ends with the process, however that ends.
"""

import asyncio
import atexit
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from smtpproxy.store.postgres.connection import Database, Target
from smtpproxy.store.postgres.migrations import migrate
from tests.kit.folders import server_folder
from tests.kit.parts import program
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.processes import descendants

USER = "smtpproxy"
_PORT = 5432  # used in socket names if no port is given
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # the tests kill processes, never the machine
    "dynamic_shared_memory_type": "mmap",  # in its folder, so that killed servers leave nothing
    "max_connections": "300",
    "max_wal_size": "1GB",
    "autovacuum_naptime": "1h",
    "log_min_messages": "warning",
}


_STARTUP = struct.pack("!ii", 42, 196_608) + b"user\0smtpproxy\0database\0postgres\0\0"


class PostgresCluster:
    """A server on a Unix socket, and with a `port` also on loopback.

    With `standby_of` it follows another one until promoted. All clusters of a test process share
    one system identifier, except those with an `own_identifier`.
    """

    def __init__(
        self,
        settings: dict[str, str] | None = None,
        *,
        port: int | None = None,
        standby_of: "PostgresCluster | None" = None,
        own_identifier: bool = False,
    ) -> None:
        self.root = server_folder("pg")
        self.port = port or _PORT
        self._bin = _programs()
        self._sql = str(self._bin / "psql")  # the one in PATH is a script, seven times slower
        own = {"port": str(self.port)} | ({} if port is None else {"listen_addresses": LOOPBACK})
        self._settings = _SETTINGS | own | (settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count(1)
        self._as = _given(self.root)
        if standby_of is not None:
            self.follow(standby_of)
            return
        if own_identifier:
            _initialise(self._data)
        else:
            _run("/bin/cp", "-a", _initialised(), self._data, cwd=self.root)
        self.start()

    def follow(self, primary: "PostgresCluster") -> None:
        """Discard all data, if any, and start as the standby of another one."""
        self._end()
        shutil.rmtree(self._data, ignore_errors=True)
        _run("pg_basebackup", "-D", self._data, "-h", primary.root, "-p", str(primary.port),
             "-U", USER, "-c", "fast", "-R", "--no-sync", "-X", "stream",
             cwd=self.root)  # fmt: skip
        self.start()

    @property
    def _data(self) -> Path:
        return self.root / "data"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pids(self) -> list[int]:
        """The server and all its current processes."""
        return [self.pid, *descendants(self.pid)]

    def start(self) -> None:
        """Start, or start again; return once it answers."""
        options = [
            part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")
        ]
        prefix = [program("setpriv"), "--pdeathsig", "INT", "--"]
        with (self.root / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*prefix, str(self._bin / "postgres"), "-D", self._data, "-k", self.root, *options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                cwd=self.root, **self._as,
            )  # fmt: skip
        wait_for(self._answers, "PostgreSQL to answer", timeout=60)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.root / "output").read_text()
        return self._psql("postgres", "SELECT 1").returncode == 0

    def url(self, name: str, user: str = USER) -> str:
        place = f"host={quote(str(self.root), safe='/')}&port={self.port}"
        return f"postgresql:///{name}?{place}&user={user}"

    def sql(self, name: str, *statements: str) -> str:
        """Run statements in a database one by one; return their bare output."""
        done = self._psql(name, *statements)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def does(self, name: str, statements: str) -> bool:
        """Run statements in a database, all or none; return whether they succeeded."""
        return self._psql(name, statements).returncode == 0

    def _psql(self, name: str, *statements: str) -> "subprocess.CompletedProcess[str]":
        commands = [part for text in statements for part in ("-c", text)]
        return subprocess.run(
            [self._sql, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1",
             "-h", self.root, "-p", str(self.port), "-U", USER, "-d", name, *commands],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    @contextmanager
    def session(self, name: str) -> Iterator[Callable[[str], None]]:
        """Open a session for statements that print a line; its end rolls back what is open."""
        with subprocess.Popen(
            [self._sql, "-X", "-A", "-t", "-q",
             "-h", self.root, "-p", str(self.port), "-U", USER, "-d", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as psql:  # fmt: skip

            def say(statements: str) -> None:
                assert psql.stdin is not None
                assert psql.stdout is not None
                psql.stdin.write(statements + "\n")
                psql.stdin.flush()
                assert psql.stdout.readline()

            yield say

    def own(self, folder: Path) -> None:
        """Make the server's user the owner of a folder."""
        _given(folder)

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """Use up all connections."""
        with ExitStack() as taken:
            refused = 0
            while refused < 10:  # others may be just ending
                one = taken.enter_context(socket.create_connection((LOOPBACK, self.port), 10))
                one.sendall(_STARTUP)
                if one.recv(1) != b"R":  # this one got in
                    refused += 1
                    time.sleep(0.1)
            yield

    def create(self, template: str = "template0") -> str:
        """Create a database; return its name."""
        name = f"test{next(self._names)}"
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        self.sql("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def kill(self) -> None:
        """SIGKILL the server and all its processes, as if the machine died."""
        assert self._process is not None
        self.signal(signal.SIGKILL)
        self._process.wait(30)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its processes, each of which has its own group."""
        for pid in (self.pid, *descendants(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def restart_as_standby(self) -> None:
        """Restart as a standby that answers, and waits for a primary that never comes."""
        self._end()
        (self._data / "standby.signal").touch()
        self.start()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # ends connections
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def stop(self) -> None:
        self._end()
        shutil.rmtree(self.root, ignore_errors=True)


def _programs() -> Path:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))[-1].parent


def _given(folder: Path) -> dict[str, Any]:
    """Give a folder to the server's user; return that user as arguments for `subprocess`."""
    if os.geteuid() != 0:  # PostgreSQL refuses to run as root
        return {}
    owner = pwd.getpwnam("postgres")
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    folder.chmod(0o755)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _run(name: str, *arguments: "str | Path", cwd: Path) -> None:
    done = subprocess.run(
        [_programs() / name, *arguments],
        check=False, capture_output=True, text=True, timeout=120, cwd=cwd, **_given(cwd),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@lru_cache(maxsize=1)
def _initialised() -> Path:
    """A pristine data folder; copying it costs a tenth of initdb."""
    root = server_folder("pg")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _given(root)
    _initialise(root / "data")
    return root / "data"


def _initialise(data: Path) -> None:
    _run("initdb", "-D", data, "-U", USER, "-A", "trust", "-N", "--wal-segsize=1",
         "-E", "UTF8", "--locale=C.UTF-8", cwd=data.parent)  # fmt: skip


@lru_cache(maxsize=1)
def cluster() -> PostgresCluster:
    """The cluster shared by all tests of this process, none of which kills it."""
    made = PostgresCluster()
    atexit.register(made.stop)
    return made


@lru_cache(maxsize=1)
def template() -> str:
    """A database with all tables and no key."""
    name = cluster().create()
    asyncio.run(_migrated(cluster().url(name), None))
    return name


def migrated(url: str, state_dir: Path) -> None:
    """Migrate like `smtpproxy migrate`."""
    asyncio.run(_migrated(url, state_dir))


async def _migrated(url: str, state_dir: Path | None) -> None:
    database = Database(Target(url, 10.0, 1, patient=True))
    try:
        await migrate(database, state_dir)
    finally:
        database.terminate()
