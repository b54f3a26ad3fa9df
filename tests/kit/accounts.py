"""What clients were told while everything is being killed, to compare with sinks and journals.

Each message has a number and one recipient, and is sent once. Meanwhile another client suppresses
these people, and notes when that was acknowledged.
"""

import contextlib
import random
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from smtpproxy.sinks.audit.reader import Record
from tests.kit.audit import outcome
from tests.kit.messages import marketing
from tests.kit.numbered import number_of
from tests.kit.ports import LOOPBACK
from tests.kit.relay import RelayProcess
from tests.kit.relays import suppress

NUMBERED = ".numbered@"
"""The form of these clients' Message-IDs."""
_JUST_NOW = 50  # the people suppressed last are mailed as often as all others


class Attempt(Struct, frozen=True):
    """The result for one message. `code` is None without a reply; `ended_from` is the earliest
    moment at which its end may have been sent (seconds, monotonic)."""

    number: int
    person: str
    ended_from: float
    code: int | None
    text: str
    seconds: float  # from its start to the reply


class Clients:
    """Sessions that send mail, and two that suppress people, each through any of the relays."""

    def __init__(self, relays: Sequence[RelayProcess], people: Sequence[str], seed: int) -> None:
        self.told: list[Attempt] = []
        self.acknowledged: dict[str, float] = {}  # when
        self.refused_to_write = 0
        self._relays = relays
        self._people = people
        self._left = random.Random(seed).sample(people, len(people) // 2)
        self._newest: list[str] = []
        self._number = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        jobs: Sequence[Callable[[random.Random], None]] = [
            *(self._send for _ in range(4)),
            *(self._suppress for _ in range(2)),
        ]
        self._threads = [
            threading.Thread(target=self._repeat, args=(job, random.Random(seed + n)), daemon=True)
            for n, job in enumerate(jobs)
        ]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a client got no reply"

    def _repeat(self, job: Callable[[random.Random], None], chance: random.Random) -> None:
        while not self._stopping.is_set():
            job(chance)
            time.sleep(chance.uniform(0.01, 0.05))

    def _send(self, chance: random.Random) -> None:
        with self._lock:
            self._number += 1
            number = self._number
        some = self._newest[-_JUST_NOW:] if chance.random() < 0.5 else self._people
        person = chance.choice(some or self._people)
        begun = ended_from = time.monotonic()
        code: int | None = None
        text = "no answer to what comes before the end"
        port = chance.choice(self._relays).port()
        with (
            contextlib.suppress(smtplib.SMTPException, OSError),
            smtplib.SMTP(LOOPBACK, port, timeout=60) as client,
        ):
            client.ehlo("client.example")
            said = client.mail("news@shop.example")
            if said[0] == 250:
                said = client.rcpt(person)
            if said[0] == 250:
                text = "no answer to the end"
                ended_from = time.monotonic()
                id = f"<{number}{NUMBERED}shop.example>"
                said = client.data(marketing(to=person, message_id=id))
            code, text = said[0], said[1].decode()
        self.told.append(Attempt(number, person, ended_from, code, text, time.monotonic() - begun))

    def _suppress(self, chance: random.Random) -> None:
        with self._lock:
            if not self._left:
                return
            person = self._left.pop()
        with contextlib.suppress(OSError):  # nobody answers
            if suppress(chance.choice(self._relays), person):
                self.acknowledged[person] = time.monotonic()
                self._newest.append(person)
                return
        self.refused_to_write += 1


def faults(clients: Clients, at_sinks: Mapping[int, int], journals: Iterable[Record]) -> list[str]:
    """Return the broken promises. `at_sinks` is how often each message arrived."""
    ids = ((entry.decided.message_id or "", entry) for entry in journals if entry.decided.relayed)
    on_record = {number_of(id): entry for id, entry in ids if NUMBERED in id}
    found = []
    for one in clients.told:
        copies, entry = at_sinks.get(one.number, 0), on_record.get(one.number)
        what = f"message {one.number} to {one.person}, answered {one.code} {one.text}"
        if one.code == 250 and copies != 1:
            found.append(f"{what}: is {copies} times at the sinks")
        if one.code is not None and one.code >= 500 and copies:
            found.append(f"{what}: is at a sink")
        if copies and entry is None:
            found.append(f"{what}: is at a sink, and in no journal")
        if one.code == 250 and entry is not None and outcome(entry) not in (250, None):
            found.append(f"{what}: the journal says {outcome(entry)}")
        acknowledged = clients.acknowledged.get(one.person)
        if copies and acknowledged is not None and acknowledged < one.ended_from:
            earlier = one.ended_from - acknowledged
            found.append(f"{what}: passed {earlier:.3f} s after the suppression was acknowledged")
    return found


def summary(clients: Clients, at_sinks: Mapping[int, int]) -> str:
    """Summarise in figures what happened."""
    codes = Counter(str(one.code) for one in clients.told)
    unsure = sum(one.code in (None, 451) and one.number in at_sinks for one in clients.told)
    slowest = max(one.seconds for one in clients.told)
    return (
        f"{len(clients.told)} messages: {dict(sorted(codes.items()))};"
        f" slowest answer {slowest:.1f} s;"
        f" {unsure} at a sink without a 250;"
        f" {len(clients.acknowledged)} suppressions acknowledged, {clients.refused_to_write} not"
    )
