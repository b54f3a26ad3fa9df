"""The cost of DKIM: the same relay unsigned, and with Ed25519, RSA-2048 or both keys.

smtp-source sends 4 KB messages on a transactional stream; the relays take turns.
`python -m benchmarks.signing` runs only this.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.procfs import cpu_seconds
from tests.kit.dkim import KeyFile
from tests.kit.load import SmtpSink, smtp_source
from tests.kit.relay import RelayProcess

SESSIONS = 20
SIZE = 4_000
KEYS: Mapping[str, tuple[str, ...]] = {
    "unsigned": (),
    "ed25519": ("ed25519",),
    "rsa-2048": ("rsa",),
    "both": ("rsa", "ed25519"),
}
Rates = Mapping[str, Mapping[str, float]]
"""By "N workers", then by key: messages per second; `…/cpu` is microseconds per message."""


def measure(
    sink: SmtpSink, seconds: float, *, rounds: int = 3, workers: Sequence[int] = (1, 2)
) -> Rates:
    """Measure in turns, so that fluctuations of the machine affect all alike; take medians."""
    rates: dict[str, dict[str, float]] = {}
    file = data.message_file(SIZE)
    with tempfile.TemporaryDirectory(prefix="smtpproxy-bench-") as folder:
        root = Path(folder)
        made = {kind: KeyFile(root, kind, kind=kind) for kind in ("rsa", "ed25519")}
        for count in workers:
            with ExitStack() as stack:
                relays = {
                    name: stack.enter_context(
                        _relay(root / f"{count}-{name}", sink, count, made, kinds)
                    )
                    for name, kinds in KEYS.items()
                }
                found: dict[str, list[float]] = {}
                for number in range(rounds + 1):
                    for name, relay in relays.items():
                        before = cpu_seconds(relay.pids)
                        rate, sent = _rate(relay, file, seconds if number else seconds / 4)
                        cpu = (cpu_seconds(relay.pids) - before) / sent * 1e6
                        if number:  # the first run warms up
                            found.setdefault(name, []).append(rate)
                            found.setdefault(f"{name}/cpu", []).append(cpu)
                rates[f"{count} worker{'s' * (count > 1)}"] = {
                    name: round(statistics.median(values), 1) for name, values in found.items()
                }
    return rates


def signatures_a_second() -> float:
    """The RSA-2048 rate of `openssl speed` on one core."""
    done = subprocess.run(
        ["openssl", "speed", "-seconds", "2", "rsa2048"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"rsa 2048 bits\s+\S+s\s+\S+s\s+([\d.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"openssl speed: {done.stdout}")
    return float(found[1])


def ratios(rates: Rates, openssl: float) -> dict[str, dict[str, float]]:
    """Return each rate relative to the possible one: unsigned, or all cores signing."""
    cores = len(os.sched_getaffinity(0))
    told: dict[str, dict[str, float]] = {}
    for row, of in rates.items():
        bound = min(of["unsigned"], cores * openssl)
        told[row] = {
            name: round(of[name] / (bound if "rsa" in KEYS[name] else of["unsigned"]), 2)
            for name in KEYS
            if name != "unsigned"
        }
    return told


def note(rates: Rates, openssl: float) -> str:
    """Return the rates and their ratios as one line under the table."""
    parts = []
    for row, told in ratios(rates, openssl).items():
        of = rates[row]
        each = ", ".join(f"{name} {of[name]:,.0f} ({ratio:.2f})" for name, ratio in told.items())
        parts.append(f"{row}: unsigned {of['unsigned']:,.0f}, {each}")
    return (
        f"DKIM, msg/s and the ratio to what is possible (unsigned; RSA: no more than all cores at"
        f" {openssl:,.0f} signatures/s by openssl speed), 4 KB, {SESSIONS} sessions: "
        + "; ".join(parts)
    )


def _relay(
    root: Path, sink: SmtpSink, workers: int, made: Mapping[str, KeyFile], kinds: Sequence[str]
) -> RelayProcess:
    root.mkdir()
    config: dict[str, Any] = {
        "server": {"workers": workers, "log_level": "warning"},
        "dkim": [made[kind].table() for kind in kinds] or None,
    }
    relay = RelayProcess(root, sink.address, config)
    relay.config["listener"][0] |= {"streams": ["receipts"], "default_stream": "receipts"}
    relay.write_config()
    return relay


def _rate(relay: RelayProcess, file: Path, seconds: float) -> tuple[float, int]:
    first = _send(relay, file, 400)
    count = max(SESSIONS, int(first * seconds))
    return _send(relay, file, count), count + 400


def _send(relay: RelayProcess, file: Path, count: int) -> float:
    sent = smtp_source(
        relay.address,
        count,
        sessions=SESSIONS,
        sender=data.SENDER,
        to=data.RECIPIENT,
        file=file,
        reuse=True,
        count=False,
        timeout=120,
    )
    if sent.exit_code:
        raise RuntimeError(sent.output)
    return sent.rate


def main() -> int:
    with SmtpSink(count=False) as sink:
        rates = measure(sink, 3.0)
    openssl = signatures_a_second()
    print(
        json.dumps({"rates": rates, "openssl": openssl, "ratios": ratios(rates, openssl)}, indent=2)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
