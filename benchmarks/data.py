"""The people of the benchmark, made once by the product's own import commands.

Contact N is `Nbench@people.example`, because smtp-source numbers recipients like that.
Every one of them may be mailed on the stream `bench`, by a consent; as many other
addresses are suppressed. They are imported in no order, as real files are, so that
neighbours in the numbering are no neighbours in the store.
"""

import hashlib
import inspect
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from tests.kit.ports import LOOPBACK, free_port
from tests.kit.relay import REPOSITORY, RelayProcess

BUILD = REPOSITORY / "build" / "bench"
CHUNK = 1_000_000
SENDER = "news@shop.example"
RECIPIENT = "bench@people.example"  # smtp-source puts a number in front

STREAM = {
    "name": "bench",
    "class": "marketing",
    "purpose": "offers",
    "products": ["shoes"],
    "from_domains": ["shop.example"],
}


def config(state: Path, workers: int = 1) -> dict[str, object]:
    """Overrides for tests.kit.relay: the full policy and one marketing stream."""
    return {
        "server": {
            "state_dir": str(state),
            "workers": workers,
            "log_level": "warning",
            "data_size_limit": "26MiB",
        },
        "store": {"url": f"sqlite://{state / 'smtpproxy.db'}"},
        "web": {"address": f"{LOOPBACK}:{free_port()}"},
        "stream": [STREAM],
    }


def dataset(count: int) -> Path:
    """Return a state directory with `count` contacts and suppressions, made if absent."""
    folder = BUILD / f"{count}-{_version()}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"importing {count:,} contacts and {count:,} suppressions, once …", file=sys.stderr)
    seconds: dict[str, float] = {"contact": 0.0, "suppress": 0.0}
    work = folder / "work"
    work.mkdir()
    relay = RelayProcess(work, "127.0.0.1:9", config(folder))
    for kind, suffix, head, lines in (
        ("contact", "ndjson", "", _contacts(count)),
        ("suppress", "csv", "address,scope,origin,since,note\n", _suppressions(count)),
    ):
        while chunk := list(islice(lines, CHUNK)):
            path = work / f"{kind}.{suffix}"
            path.write_text(head + "".join(chunk))
            began = time.monotonic()
            code, out, err = relay.command(kind, "import", str(path), timeout=1_800)
            seconds[kind] += time.monotonic() - began
            if code != 0:
                raise SystemExit(f"{kind} import ended with {code}: {out[-500:]} {err[-500:]}")
    shutil.rmtree(work)
    (folder / "complete").write_text(
        f"imported once: {count:,} contacts in {seconds['contact']:.0f} s,"
        f" {count:,} suppressions in {seconds['suppress']:.0f} s"
    )
    return folder


def import_note(folder: Path) -> str:
    """A note on how long the import commands took for this dataset."""
    return (folder / "complete").read_text()


def recipient(count: int, people: int, others: int) -> str:
    """The address smtp-source puts 1 … `count` in front of; each `others` mails other people.

    With the digits 07, number 12 is contact 1207.
    """
    digits = len(str(max(1, people // (count + 1)))) - 1
    return f"{others % 10**digits:0{digits}d}{RECIPIENT}" if digits else RECIPIENT


def message_file(size: int) -> Path:
    """A file for smtp-source -F: a message of about `size` bytes that passes every rule."""
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"message-{size}"
    path.write_bytes(message(size).replace(b"\r\n", b"\n"))
    return path


def message(size: int) -> bytes:
    """The same message with CRLF line ends, exactly `size` bytes."""
    head = (
        b"From: Shop <news@shop.example>\r\n"
        b"To: You <you@people.example>\r\n"
        b"Subject: New shoes\r\n"
        b"Date: Mon, 05 Jan 2026 09:00:00 +0000\r\n"
        b"Message-ID: <bench@shop.example>\r\n"
        b"MIME-Version: 1.0\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"List-Unsubscribe: <https://unsubscribe.shop.example/u/4aP1>\r\n"
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        b"\r\n"
    )
    line = b"New shoes are in: come and see them in our shop, or have them sent.\r\n"
    body = line * (max(0, size - len(head)) // len(line) + 1)
    return head + body[: max(0, size - len(head) - 2)].rstrip(b"\r\n") + b"\r\n"


def _version() -> str:
    """A version that changes with this code and the store's schema, so old data is not used."""
    makers = (_shuffled, _contacts, _suppressions)
    digest = hashlib.sha256("".join(map(inspect.getsource, makers)).encode())
    for path in sorted((REPOSITORY / "smtpproxy/store").rglob("*.sql")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _shuffled(count: int) -> Iterator[int]:
    """1 … count in a fixed but irregular order."""
    step = 7_919_777 % count or 1
    while math.gcd(step, count) != 1:
        step += 1
    return ((number * step) % count + 1 for number in range(count))


def _contacts(count: int) -> Iterator[str]:
    base = datetime.now(UTC) - timedelta(days=300)
    for number in _shuffled(count):
        at = (base + timedelta(seconds=number % 8_640_000)).isoformat(timespec="seconds")
        contact = {
            "address": f"{number}{RECIPIENT}",
            "audience": "consumer",
            "source": "direct",
            "collected_at": at,
            "informed_at": at,
            "optout_offered": True,
            "purchases": [{"product": "shoes", "at": at}] if number % 2 else [],
            "consents": [
                {
                    "purpose": "offers",
                    "method": "unticked_box",
                    "given_at": at,
                    "channels": ["email"],
                    "evidence": {"wording": "form v3", "ip": "192.0.2.7"},
                }
            ],
        }
        yield json.dumps(contact) + "\n"


def _suppressions(count: int) -> Iterator[str]:
    origins = ("unsubscribe", "complaint", "bounce", "objection")
    for number in _shuffled(count):
        yield f"{number}gone@people.example,all,{origins[number % 4]},2026-01-05T09:00:00Z,\n"
