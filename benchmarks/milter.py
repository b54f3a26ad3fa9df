"""What a milter costs Postfix: `python -m benchmarks.milter`.

Three instances of Postfix accept, queue and discard mail: without a milter, with smtpproxy's
(full policy), and with the smallest that pymilter can make. See docs/benchmarks.md.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import data, throughput
from benchmarks.peers import pymilter
from benchmarks.results import machine
from benchmarks.subjects import Subject
from benchmarks.throughput import Cells, Load
from tests.kit.parts import missing
from tests.kit.ports import LOOPBACK, free_port, listens, wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.processes import Running, descendants, kill_all, running
from tests.kit.relay import RelayProcess

LOADS = tuple(Load(size, reuse) for size in ("4 KB", "100 KB") for reuse in (True, False))
NONE = "Postfix without a milter"
DISCARD = {"virtual_transport": "discard", "smtpd_client_connection_count_limit": "0"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.milter", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 contacts, short runs")
    options = parser.parse_args(arguments)
    for part in ("smtp-source", "postfix"):
        if lack := missing(part):
            print(f"bench: {lack} is missing", file=sys.stderr)
            return 2
    people, rounds, seconds = (20_000, 1, 2.0) if options.quick else (1_000_000, 3, 5.0)
    try:
        with _subjects(people) as subjects:
            cells = throughput.measure(subjects, LOADS, rounds=rounds, seconds=seconds)
            _print(subjects, cells, people)
    finally:
        kill_all(running())
    return 0


@contextmanager
def _subjects(people: int) -> Iterator[list[Subject]]:
    with ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="smtpproxy-bench-"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        chosen = [_postfix(stack, NONE, {})]
        relay = _smtpproxy(stack, root, data.dataset(people))
        name, main = "with smtpproxy's milter", _milter(relay.port())
        chosen.append(_postfix(stack, name, main, relay, people))
        lack = pymilter.install()
        if lack is None:
            port = free_port()
            milter = Running(
                pymilter.command(port), output=root / "pymilter.log", env=pymilter.environment()
            )
            wait_for(lambda: listens(port), "pymilter")
            stack.callback(milter.kill)
            chosen.append(_postfix(stack, "with the smallest pymilter", _milter(port)))
        else:
            print(f"not measured: pymilter: {lack}", file=sys.stderr)
        yield chosen


def _milter(port: int) -> dict[str, str]:
    return {
        "smtpd_milters": f"inet:{LOOPBACK}:{port}",
        "milter_default_action": "tempfail",
    }


def _postfix(
    stack: ExitStack,
    name: str,
    main: dict[str, str],
    relay: RelayProcess | None = None,
    people: int = 0,
) -> Subject:
    postfix = stack.enter_context(PostfixInstance(main=DISCARD | main))
    pid = postfix.pid

    def pids() -> list[int]:
        """The processes of Postfix, and of the milter if it is ours."""
        return [pid, *descendants(pid), *(relay.pids if relay is not None else [])]

    return Subject(name, postfix.address, pids, relay, people=people)


def _smtpproxy(stack: ExitStack, root: Path, state: Path) -> RelayProcess:
    """A relay that shares the store but has its own journal.

    It sends no notices, so its upstream need only satisfy /readyz."""
    own = root / "state"
    shutil.copytree(state, own, ignore=shutil.ignore_patterns("smtpproxy.db*", "audit"))
    upstream = stack.enter_context(PostfixInstance())
    relay = RelayProcess(root, upstream.address, data.config(state))
    relay.config["server"]["state_dir"] = str(own)
    relay.config["listener"][0] |= {"protocol": "milter"}
    relay.write_config()
    return stack.enter_context(relay)


def _print(subjects: Sequence[Subject], cells: Cells, people: int) -> None:
    print(
        "Messages a second (ratio to none), CPU time a message;"
        f" {people:,} contacts and as many suppressions"
    )
    print(f"{'':<28}" + "".join(f"{load!s:>24}" for load in LOADS))
    for subject in subjects:
        row = f"{subject.name:<28}"
        for load in LOADS:
            cell, none = cells[subject.name, load], cells[NONE, load]
            if cell.error or not cell.rate or not none.rate:
                row += f"{cell.error or 'failed':>24}"
            else:
                ratio = cell.rate / none.rate
                row += f"{f'{cell.rate:,.0f} ({ratio:.2f}) {cell.cpu or 0:,.0f} µs':>24}"
        print(row)
    print(machine())


if __name__ == "__main__":
    sys.exit(main())
