"""A PostgreSQL primary and its standby, which take over from each other; networks that may fail.

Replication is synchronous unless a test says otherwise: a commit is acknowledged only once the
standby has it.
"""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postgres import USER, PostgresCluster
from tests.kit.silent_network import SilentNetwork

_SETTINGS = {
    "wal_sender_timeout": "2s",
    "wal_receiver_timeout": "2s",
    "max_connections": "60",
    "wal_retrieve_retry_interval": "100ms",
}


class PostgresPair:
    """`primary` and `standby`, each reached over its own network (`network`, by server).

    It can replace a `PostgresCluster`: it has `create`, `sql`, `url` and `session`.
    """

    def __init__(self, *, synchronous: bool = True) -> None:
        self.primary = PostgresCluster(_SETTINGS, port=free_port())
        self.standby = PostgresCluster(_SETTINGS, port=free_port(), standby_of=self.primary)
        self.servers = (self.primary, self.standby)
        self.network = {each: SilentNetwork(each.port) for each in self.servers}
        self._synchronous = synchronous
        self._let_commits_wait(synchronous)

    def url(self, name: str, user: str = USER) -> str:
        """Name both servers, always in the same order; the client finds the primary."""
        hosts = ",".join(f"{LOOPBACK}:{self.network[each].port}" for each in self.servers)
        return f"postgresql://{user}@{hosts}/{name}?target_session_attrs=read-write"

    def create(self, template: str = "template0") -> str:
        return self.primary.create(template)

    def sql(self, name: str, *statements: str) -> str:
        return self.primary.sql(name, *statements)

    def session(self, name: str) -> AbstractContextManager[Callable[[str], None]]:
        return self.primary.session(name)

    def end_connections(self) -> None:
        """End the relays' connections at the primary."""
        self.sql(
            "postgres",
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'smtpproxy'",
        )

    def fail_over(self, *, fenced: bool = True) -> None:
        """Promote the standby, which is alone from then on.

        `fenced`: the old primary is killed first; otherwise it stays as it is.
        """
        if fenced and self.primary.alive:
            self.primary.kill()
        self.primary, self.standby = self.standby, self.primary
        self.primary.sql("postgres", "SELECT pg_promote()")
        self._let_commits_wait(False)

    def rejoin(self) -> None:
        """Make the old primary the standby of the new one, and let commits wait for it again."""
        self.standby.follow(self.primary)
        self._let_commits_wait(self._synchronous)

    def _let_commits_wait(self, wait: bool) -> None:
        """Set whether commits are acknowledged only once the standby has them."""
        names = "*" if wait else ""
        self.primary.sql(
            "postgres",
            "SET synchronous_commit = local",
            f"ALTER SYSTEM SET synchronous_standby_names = '{names}'",
            "SELECT pg_reload_conf()",
        )
        wait_for(
            lambda: self.primary.sql("postgres", _STATE) == f"{names} {int(wait)}".strip(),
            "the standby to follow, and commits to wait for it",
        )

    def stop(self) -> None:
        for network in self.network.values():
            network.close()
        with ThreadPoolExecutor(2) as both:
            list(both.map(_stop, self.servers))


_STATE = """
SELECT current_setting('synchronous_standby_names') || ' ' || count(*)
FROM pg_stat_replication WHERE sync_state = 'sync'
"""


def _stop(server: PostgresCluster) -> None:
    if server.alive:
        server.signal(signal.SIGCONT)
    server.stop()
