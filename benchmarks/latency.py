"""Added latency: the same load straight to the sink and through a relay.

An open-loop generator starts messages at a fixed rate, whether or not earlier ones have
been answered, and takes each one's time from the moment it was due: a stall is seen by
all who would have waited in it. Recipients are drawn at random from all contacts. The
client does not pipeline, as smtplib does not.

    python -m benchmarks.latency PORT RATE SECONDS PEOPLE   (prints JSON)
"""

import gc
import json
import random
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass

from benchmarks import data
from tests.kit.ports import LOOPBACK
from tests.kit.processes import run
from tests.kit.relay import REPOSITORY

CONNECTIONS = 50
SIZE = 4_000
WARM_UP = 0.5  # seconds not counted, so that neither side is cold


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from when each message was due to its final reply."""

    p50: float
    p99: float
    worst: float
    messages: int
    failed: int


def measure(port: int, *, rate: int, seconds: float, people: int) -> Latency:
    """Run the generator in a separate process."""
    done = run(
        sys.executable, "-m", "benchmarks.latency", str(port), str(rate), str(seconds),
        str(people), timeout=seconds + 60, cwd=REPOSITORY,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the generator ended with {done.returncode}: {done.stderr[-500:]}")
    return Latency(**json.loads(done.stdout))


class Client:
    """A connection in its own thread, since sleep() is finer than an event loop's timer."""

    def __init__(self, port: int, people: int, seed: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._people = people
        self._chance = random.Random(seed)
        self._content = data.message(SIZE) + b".\r\n"
        self.times: list[float] = []
        self.failed = 0
        self._reply()
        self._say(b"EHLO client.example\r\n")

    def run(self, first: float, period: float, count: int, from_: float) -> None:
        """Send `count` messages, each due one period after the last."""
        for number in range(count):
            due = first + number * period
            wait = due - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            try:
                good = self._send()
            except OSError:
                self.failed += count - number
                return
            if not good:
                self.failed += 1
            elif due >= from_:
                self.times.append(time.perf_counter() - due)

    def _send(self) -> bool:
        recipient = f"{self._chance.randint(1, self._people)}{data.RECIPIENT}"
        self._say(f"MAIL FROM:<{data.SENDER}>\r\n".encode())
        self._say(f"RCPT TO:<{recipient}>\r\n".encode())
        if not self._say(b"DATA\r\n").startswith(b"354"):
            self._say(b"RSET\r\n")
            return False
        return self._say(self._content).startswith(b"250")

    def _say(self, text: bytes) -> bytes:
        self._socket.sendall(text)
        return self._reply()

    def _reply(self) -> bytes:
        """Read a reply; return its last line."""
        reply = b""
        while not reply.endswith(b"\n") or reply.splitlines()[-1][3:4] == b"-":
            received = self._socket.recv(4_096)
            if not received:
                raise ConnectionError("closed")
            reply += received
        return reply.splitlines()[-1]


def generate(port: int, rate: int, seconds: float, people: int) -> Latency:
    """Send `rate` messages per second for `seconds`, spread evenly over the connections."""
    clients = [Client(port, people, number) for number in range(CONNECTIONS)]
    period = CONNECTIONS / rate
    begin = time.perf_counter() + 0.1
    count = int((WARM_UP + seconds) / period)
    threads = [
        threading.Thread(
            target=client.run,
            args=(begin + number / rate, period, count, begin + WARM_UP),
            daemon=True,
        )
        for number, client in enumerate(clients)
    ]
    gc.disable()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WARM_UP + seconds + 40)
    times = sorted(each for client in clients for each in client.times)
    return Latency(
        p50=times[len(times) // 2] if times else 0.0,
        p99=times[len(times) * 99 // 100] if times else 0.0,
        worst=times[-1] if times else 0.0,
        messages=len(times),
        failed=sum(client.failed for client in clients),
    )


if __name__ == "__main__":
    print(
        json.dumps(
            asdict(
                generate(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
            )
        )
    )
