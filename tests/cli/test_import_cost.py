"""The cost of an imported row in Python calls and SQL statements: counted, so that neither the
machine's speed nor its load matters."""

import json
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from smtpproxy.store.sqlite import connection
from tests.kit.parts import needs
from tests.kit.relay import RelayProcess
from tests.store.conftest import OnPostgresql

ROWS = 1_000
MOST_FOR_A_CONTACT = 104
MOST_FOR_A_SUPPRESSION = 84
MOST_FOR_A_CONTACT_WITH_POSTGRESQL = 110
"""Calls, including resumed generators, to read, check, store and judge a row."""
AT = "2026-01-05T09:00:00Z"


def contact(number: int) -> str:
    said = {"purpose": "offers", "method": "unticked_box", "given_at": AT, "channels": ["email"]}
    line = {
        "address": f"{number}@people.example",
        "audience": "consumer",
        "source": "direct",
        "collected_at": AT,
        "informed_at": AT,
        "optout_offered": True,
        "purchases": [{"product": "shoes", "at": AT}],
        "consents": [said | {"evidence": {"wording": "form v3", "ip": "192.0.2.7"}}],
    }
    return json.dumps(line) + "\n"


def suppression(number: int) -> str:
    return f"{number}@people.example,all,{('complaint', 'bounce')[number % 2]},{AT},\n"


class Counts:
    """Python calls in all threads; SQL statements, and triggers that fire."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.statements = 0

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename != __file__:
            self.calls[f"{Path(code.co_filename).name}:{code.co_qualname}"] += 1

    def trace(self, statement: str) -> None:
        self.statements += 1

    @contextmanager
    def counting(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        opened = connection._opened

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            found = opened(*arguments, **options)
            found.set_trace_callback(self.trace)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(connection, "_opened", traced)
            threading.setprofile(self.profile)
            sys.setprofile(self.profile)
            try:
                yield
            finally:
                sys.setprofile(None)
                threading.setprofile(None)


@pytest.mark.parametrize(
    ("kind", "head", "line", "calls", "statements"),
    [
        ("contact", "", contact, MOST_FOR_A_CONTACT, 8),
        ("suppress", "address,scope,origin,since,note\n", suppression, MOST_FOR_A_SUPPRESSION, 6),
    ],
)
def test_the_cost_of_a_row_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, head: str,
    line: Callable[[int], str], calls: int, statements: int,
) -> None:  # fmt: skip
    relay = RelayProcess(tmp_path, "127.0.0.1:9")
    less, more = counted(relay, monkeypatch, kind, head, line)
    of_rows = more.calls - less.calls
    assert of_rows.total() / ROWS <= calls, of_rows.most_common(60)
    assert (more.statements - less.statements) / ROWS <= statements + 0.1


@needs("postgresql")
def test_the_cost_of_a_row_is_bounded_with_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with OnPostgresql(state) as database:
        relay = RelayProcess(tmp_path, "127.0.0.1:9", {"store": {"url": database.url}})
        less, more = counted(relay, monkeypatch, "contact", "", contact)
    of_rows = more.calls - less.calls
    assert of_rows.total() / ROWS <= MOST_FOR_A_CONTACT_WITH_POSTGRESQL, of_rows.most_common(60)


def counted(
    relay: RelayProcess, monkeypatch: pytest.MonkeyPatch, kind: str, head: str,
    line: Callable[[int], str],
) -> tuple[Counts, Counts]:  # fmt: skip
    """The cost of the extra rows of the second of two imports."""
    path = relay.root / "rows"
    found = []
    for first, last in ((0, 20), (20, 220), (220, 420 + ROWS)):
        path.write_text(head + "".join(map(line, range(first, last))))
        counts = Counts()
        command = [kind, "import", str(path), "--config", str(relay.config_path)]
        with counts.counting(monkeypatch):
            done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        found.append(counts)
    return found[1], found[2]
