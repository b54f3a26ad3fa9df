"""The cost of each way in: TLS, AUTH, BDAT and LMTP compared with plain SMTP to the same relay.

One generator sends everything; the first row, straight to smtp-sink, is its ceiling. Where a
rate comes close to it, read the relay's CPU time per message instead, which excludes the
generator. `python -m benchmarks.ways` runs only this.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generator import USER, Way, generate, generators
from benchmarks.procfs import cpu_seconds
from tests.kit.certificates import Authority
from tests.kit.load import SmtpSink
from tests.kit.relay import RelayProcess, listener

ALONE = "generator to smtp-sink"
LOADS = {"reuse": 100, "new": 1}
"""Messages per connection."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Messages per second, and the relay's CPU time per message in microseconds."""

    rate: float
    cpu_us: float


Costs = Mapping[str, Mapping[str, Cost]]
"""By load, then by way."""


def measure(sink: SmtpSink, seconds: float, rounds: int = 1) -> Costs:
    """Measure in turns; 4 KB messages on a transactional stream, from 20 sessions."""
    with tempfile.TemporaryDirectory(prefix="smtpproxy-bench-") as folder:
        root = Path(folder)
        authority = Authority(root)
        with _relay(root, authority, sink) as relay, generators() as pool:
            ca = str(authority.path)
            ways = {
                ALONE: Way(sink.port),
                "clear": Way(relay.port("clear")),
                "BDAT": Way(relay.port("clear"), chunked=True),
                "LMTP": Way(relay.port("lmtp"), lmtp=True),
                "TLS": Way(relay.port("tls"), ca),
                "TLS and AUTH": Way(relay.port("tls-auth"), ca, login=True),
            }
            costs: dict[str, dict[str, Cost]] = {}
            for load, each in LOADS.items():
                runs: dict[str, list[Cost]] = {name: [] for name in ways}
                for way in ways.values():
                    generate(pool, way, each, seconds / 4)
                for _ in range(rounds):
                    for name, way in ways.items():
                        before = cpu_seconds(relay.pids)
                        sent, rate = generate(pool, way, each, seconds)
                        spent = cpu_seconds(relay.pids) - before
                        cpu = 0.0 if name == ALONE else spent / sent * 1e6
                        runs[name].append(Cost(rate, cpu))
                costs[load] = {name: _median(found) for name, found in runs.items()}
            return costs


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        round(statistics.median(cost.rate for cost in costs), 1),
        round(statistics.median(cost.cpu_us for cost in costs), 1),
    )


def _relay(root: Path, authority: Authority, sink: SmtpSink) -> RelayProcess:
    pair = authority.issue("relay.example")
    tls = {"tls": "implicit", "certificate": str(pair.certificate), "private_key": str(pair.key)}
    config = {
        "listener": [
            listener("clear", "receipts", default="receipts"),
            listener("lmtp", "receipts", default="receipts") | {"protocol": "lmtp"},
            listener("tls", "receipts", default="receipts", **tls),
            listener("tls-auth", "receipts", default="receipts", **tls) | {"auth": "required"},
        ],
        "auth": {"users": str(root / "users")},
    }
    relay = RelayProcess(root, sink.address, config)
    code, _, wrong = relay.command("user", "add", USER, stdin=f"{USER}\n".encode())
    if code:
        raise RuntimeError(wrong)
    return relay


def notes(costs: Costs) -> list[str]:
    """Return the costs as lines under the table."""
    lines = ["Ways in, 4 KB from 20 sessions: msg/s (ratio to clear), CPU time a message"]
    for load, by_name in costs.items():
        clear = by_name["clear"]
        parts = [
            f"{name} {cost.rate:,.0f} ({cost.rate / clear.rate:.2f})"
            + (f" {cost.cpu_us:,.0f} µs" if cost.cpu_us else "")
            for name, cost in by_name.items()
        ]
        lines.append(f"  {load}: " + "; ".join(parts))
    return lines


def main() -> int:
    seconds, rounds = (1.0, 1) if "--quick" in sys.argv else (3.0, 3)
    with SmtpSink(count=False) as sink:
        print("\n".join(notes(measure(sink, seconds, rounds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
