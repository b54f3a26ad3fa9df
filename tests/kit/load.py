"""Postfix's load generator and sink: `smtp_source()` sends, `SmtpSink` accepts and counts."""

import os
import pwd
import re
import shutil
import time
from pathlib import Path

from msgspec import Struct

from tests.kit.folders import server_folder
from tests.kit.parts import program
from tests.kit.ports import LOOPBACK, free_port, listens, wait_for
from tests.kit.processes import Running, run


class Dumped(Struct, frozen=True):
    """One message as dumped by the sink."""

    sender: str
    recipients: tuple[str, ...]
    message: bytes  # CRLF line ends, without the sink's own header fields


class SmtpSink:
    """smtp-sink(1) on its own port, as a context manager.

    `dump` keeps every message (slow: one file each); `count` keeps the running count,
    which costs one small write per message; `options` are passed on unchanged.
    """

    def __init__(
        self, *options: str, dump: bool = False, count: bool = True, sessions: int = 2_000
    ) -> None:
        self.port = free_port()
        self.root = server_folder("sink")
        self.root.chmod(0o755)
        self._options = [*options, *(["-c"] if count else []), "-m", str(sessions)]
        if dump:
            dumps = self.root / "dump"
            dumps.mkdir()
            dumps.chmod(0o777)
            self._options += ["-d", f"{dumps}/m."]
        if os.geteuid() == 0:
            self._options += ["-u", pwd.getpwnam("nobody").pw_name]
        self._running: Running | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    def start(self) -> None:
        self._running = Running(
            [program("smtp-sink"), *self._options, self.address, "1024"],
            output=self.root / "output",
        )
        wait_for(lambda: listens(self.port), f"smtp-sink to listen: {self._running.output}")

    def stop(self) -> None:
        """Kill it; counts and dumps stay readable until `remove()`."""
        if self._running is not None:
            self._running.kill()
            self._running = None

    def __enter__(self) -> "SmtpSink":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def messages(self) -> int:
        """The number of messages accepted."""
        counts = re.findall(r"mesg=(\d+)", (self.root / "output").read_text())
        return int(counts[-1]) if counts else 0

    def dumped(self) -> list[Dumped]:
        """The messages accepted, in no order, without those interrupted by a kill."""
        files = (self.root / "dump").glob("m.*")
        raw = (path.read_bytes() for path in files)
        return [_read_dump(each) for each in raw if each.endswith(b"\n\n")]


def _read_dump(raw: bytes) -> Dumped:
    """Read a dump; the sink's own fields end with its `Received:`, see smtp-sink(1)."""
    head, _, rest = raw.partition(b"Received: ")
    lines = rest.split(b"\n")
    own = 1
    while lines[own][:1] in (b" ", b"\t"):
        own += 1
    sender = re.search(rb"^X-Mail-Args: <([^>]*)>", head, re.MULTILINE)
    recipients = re.findall(rb"^X-Rcpt-Args: <([^>]*)>", head, re.MULTILINE)
    return Dumped(
        sender[1].decode() if sender else "",
        tuple(recipient.decode() for recipient in recipients),
        b"\r\n".join(lines[own:-1]),  # the sink ends each dump with an empty line
    )


class Sent(Struct, frozen=True):
    """The result of one run of smtp-source. `accepted`: the messages answered 250."""

    exit_code: int
    seconds: float
    accepted: int
    output: str

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.accepted / self.seconds


def smtp_source(
    address: str,
    messages: int,
    *options: str,
    sessions: int = 1,
    sender: str = "news@shop.example",
    to: str = "jeanne@people.example",
    numbered: bool = False,
    recipients: int = 1,
    length: int | None = None,
    file: Path | None = None,
    reuse: bool = False,
    count: bool = True,
    timeout: float = 300.0,
) -> Sent:
    """Send `messages` by smtp-source(1), which ends at the first unexpected reply.

    `numbered` puts 1, 2, 3 … before the recipient's name (since Postfix 3.9, 0, 1, 2 …
    after it), `recipients` are put in one
    transaction, `length` makes a payload of that many bytes, `file` is a whole message
    (LF line ends), `reuse` sends many messages per connection. Without `count` nothing is
    written while it sends, and `accepted` is all or, after a failure, 0.
    """
    argv = [program("smtp-source"), *options, "-m", str(messages), "-s", str(sessions)]
    argv += ["-f", sender, "-t", to, "-M", "client.example"]
    argv += ["-r", str(recipients)] if recipients > 1 else []  # else a newer one numbers them
    argv += ["-N"] if numbered else []
    argv += ["-l", str(length)] if length is not None else []
    argv += ["-F", str(file)] if file is not None else []
    argv += ["-d"] if reuse else []
    argv += ["-c"] if count else []
    begin = time.perf_counter()
    done = run(*argv, f"inet:{address}", timeout=timeout)
    seconds = time.perf_counter() - begin
    if count:
        counts = re.findall(r"(\d+)\r", done.stdout)
        accepted = int(counts[-1]) if counts else 0
    else:
        accepted = messages if done.returncode == 0 else 0
    return Sent(done.returncode, seconds, accepted, done.stdout[-2000:] + done.stderr[-2000:])
