"""A process that has the store open for reading, as a relay worker has, and answers from it.

Run as `python -m tests.store.answering URL STATE_DIR`; each line of its input is an
address, and each line of its output says what `facts` returned for it.
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from smtpproxy.policy.model import Lookups, RecipientFacts
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_store

REPOSITORY = Path(__file__).parents[2]


class Answering:
    """The process, seen from a test."""

    def __init__(self, url: str, state_dir: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.answering", url, str(state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )

    def ask(self, address: str) -> RecipientFacts:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{address}\n".encode())
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=RecipientFacts)

    def __enter__(self) -> "Answering":
        self.ask("nobody@people.example")  # the store is open and has read once
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()


async def _answer(url: str, state_dir: str) -> None:
    store = open_store(StoreSettings(url), Path(state_dir), read_only=True)
    for line in sys.stdin:
        address = line.strip()
        facts = await store.facts(Lookups((address,)))
        found = facts.get(address, RecipientFacts())
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.buffer.flush()
    await store.close()


if __name__ == "__main__":
    asyncio.run(_answer(*sys.argv[1:]))
