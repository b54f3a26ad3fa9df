"""The subjects between smtp-source and smtp-sink: the wire, a plain TCP hop, and relays.

All pass mail to the same smtp-sink. They are started together and measured in turns, so that
fluctuations of the machine affect all alike.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.peers import haraka
from tests.kit.haproxy import Haproxy
from tests.kit.load import SmtpSink
from tests.kit.parts import missing
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.processes import Running, descendants
from tests.kit.relay import REPOSITORY, RelayProcess, greets

HOP = "HAProxy, TCP mode"
"""The row whose CPU time per message is the unit for the relays."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One relay; `pids` are its present processes, `database` those of its database server.

    `relay` is set for smtpproxy itself; `people` is the number of people in its store.
    """

    name: str
    address: str
    pids: Callable[[], list[int]]
    relay: RelayProcess | None = None
    database: Callable[[], list[int]] = list
    people: int = 0


@contextmanager
def subjects(
    sink: SmtpSink, people: int, workers: list[int], *, peers: bool = True
) -> Iterator[list[Subject]]:
    """Start everything, the wire first; everything ends with the `with` block.

    `workers` has the number of workers of each smtpproxy to start; `peers` are other relays.
    """
    with ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="smtpproxy-bench-"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        chosen = [Subject("straight to smtp-sink", sink.address, list)]
        if missing("haproxy") is None:
            chosen.append(_haproxy(stack, sink))
        if peers and missing("postfix") is None:
            chosen.append(_postfix(stack, sink))
        if peers:
            chosen.append(_plain(stack, sink, root))
        if peers and haraka.install() is None:
            chosen.append(_haraka(stack, sink, root))
        for count in workers:
            name = f"smtpproxy, {count} worker{'s' * (count > 1)}"
            chosen.append(smtpproxy(stack, sink, root / f"smtpproxy{count}", people, count, name))
        yield chosen


def absent() -> list[str]:
    """Why a relay is not in the table."""
    lines = [f"{HOP}: {lack}" for lack in [missing("haproxy")] if lack]
    lines += [f"Postfix smtpd_proxy_filter: {lack}" for lack in [missing("postfix")] if lack]
    return lines + [f"Haraka: {lack}" for lack in [haraka.install()] if lack]


def _tree(pid: int) -> Callable[[], list[int]]:
    return lambda: [pid, *descendants(pid)]


def _haproxy(stack: ExitStack, sink: SmtpSink) -> Subject:
    """One thread that forwards octets unread: the minimum cost of any hop."""
    port = free_port()
    config = f"""\
global
    maxconn 4000
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen smtp
    bind {LOOPBACK}:{port}
    server sink {sink.address}
"""
    haproxy = stack.enter_context(Haproxy(config, port))
    return Subject(HOP, f"{LOOPBACK}:{port}", _tree(haproxy.pid))


def _postfix(stack: ExitStack, sink: SmtpSink) -> Subject:
    postfix = stack.enter_context(
        PostfixInstance(smtpd={"smtpd_proxy_filter": sink.address, "smtpd_proxy_timeout": "60s"})
    )
    return Subject("Postfix smtpd_proxy_filter", postfix.address, _tree(postfix.pid))


def _plain(stack: ExitStack, sink: SmtpSink, root: Path) -> Subject:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.plain", str(port), str(sink.port)]
    return _started(stack, "aiosmtpd + aiosmtplib", command, root / "plain.log", port)


def _haraka(stack: ExitStack, sink: SmtpSink, root: Path) -> Subject:
    port = free_port()
    folder = root / "haraka"
    folder.mkdir()
    command = haraka.configure(folder, port, sink.port)
    return _started(stack, "Haraka smtp_proxy", command, root / "haraka.log", port)


def _started(stack: ExitStack, name: str, command: list[str], log: Path, port: int) -> Subject:
    running = Running(command, output=log, cwd=REPOSITORY)
    stack.callback(running.kill)

    def up() -> bool:
        assert running.alive, f"{name} ended:\n{running.output}"
        return greets(port)

    wait_for(up, name)
    return Subject(name, f"{LOOPBACK}:{port}", _tree(running.pid))


def smtpproxy(
    stack: ExitStack, sink: SmtpSink, folder: Path, people: int, workers: int, name: str
) -> Subject:
    """Start a relay with that many people."""
    config = data.config(data.dataset(people), workers)
    return relay_on(stack, sink, folder, people, config, name)


def relay_on(
    stack: ExitStack,
    sink: SmtpSink,
    folder: Path,
    people: int,
    config: Mapping[str, Any],
    name: str,
    database: Callable[[], list[int]] = list,
) -> Subject:
    """Start a relay with the keys these people were imported with; `config` sets its store."""
    folder.mkdir()
    # The store is shared, but each relay has its own journal and counters.
    own = folder / "state"
    shutil.copytree(
        data.dataset(people), own, ignore=shutil.ignore_patterns("smtpproxy.db*", "audit")
    )
    relay = RelayProcess(folder, sink.address, config)
    relay.config["server"]["state_dir"] = str(own)
    relay.config["listener"][0] |= {
        "max_connections": 10_000,
        "max_connections_per_address": 10_000,
    }
    relay.write_config()
    stack.enter_context(relay)
    return Subject(name, relay.address, lambda: relay.pids, relay, database, people)
