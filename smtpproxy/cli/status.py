"""`smtpproxy status` and `reload`: what the running relay reports, what its files and store say,
and making it read its configuration again."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import httpx
from msgspec import Struct

from smtpproxy.cli import fail, failing, message_of
from smtpproxy.cli.options import command, flag, settings_in
from smtpproxy.cli.printer import Result, print_json, print_text
from smtpproxy.cli.status_text import MOST_WAITING, Rates, status_text
from smtpproxy.cli.stores import read_store
from smtpproxy.config import ConfigError, load
from smtpproxy.disk import little_left
from smtpproxy.doctor.machine import key_files
from smtpproxy.policy.model import Reason
from smtpproxy.process.control import RELOADS_WITHIN, NotRunning, Reload, Response, Status, ask
from smtpproxy.purge_runs import newest_run
from smtpproxy.settings import Settings, UnixAddress
from smtpproxy.settings.mail import UNIT_STATE
from smtpproxy.setup import UNIT_CONFIG
from smtpproxy.sinks.snapshots import Samples, Snapshot
from smtpproxy.store import is_postgresql, open_breaker, open_feedback
from smtpproxy.store.breaker import StreamStatus
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.feedback import Waiting
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.toml import TomlError, read

_EVERY = 2.0  # seconds between two requests
_READY_WITHIN = 5.0


class _Place(Struct, frozen=True):
    """Where to ask the relay. It keeps its own settings, even if the file has faults now."""

    state_dir: Path
    settings: Settings | None  # None: the file has faults
    faults: tuple[str, ...] = ()


@command("status")
def status(
    config: Path,
    as_json: bool,
    watch: bool = flag("Show it every two seconds, with rates, until Ctrl-C."),
) -> int:
    """Show the state of the running relay; exits with 1 when none runs, or a worker is missing.

    Counts are totals of all workers since the relay started. If the configuration file has faults
    by now, it says so: the relay goes on with what it has read.
    """
    place = _place(config)
    found = _look(place)
    while watch:
        before, at = found, time.monotonic()
        time.sleep(_EVERY)
        found = _look(place)
        rates = _rates(before, found, time.monotonic() - at)
        if as_json:
            print_json({**found, "rates": rates}, one_line=True)
        else:
            click.clear()
            print_text(status_text(found, rates))
    if as_json:
        print_json(found)
    else:
        print_text(status_text(found, {}))
    return 0 if found["alive"] >= found["workers"] else 1


def _place(config: Path) -> _Place:
    try:
        settings = load(config)
    except ConfigError as error:
        return _Place(_state_dir(config), None, error.faults)
    return _Place(settings.server.state_dir, settings)


def _state_dir(config: Path) -> Path:
    """Return where the relay of a faulty file is; if only guessing is left, exit with 2."""
    written = None
    try:
        written = read(config)["server"]["state_dir"]
    except TomlError:
        if config != UNIT_CONFIG:  # the relay of the unit is another one
            settings_in(config)
    except (LookupError, TypeError):
        pass
    return Path(written) if isinstance(written, str) else UNIT_STATE


def _look(place: _Place) -> dict[str, Any]:
    try:
        response, _ = ask(place.state_dir, Status(), timeout=10.0)
    except TimeoutError:
        fail("the relay is running but does not answer within 10 seconds: see its log")
    except (NotRunning, OSError) as error:
        if place.faults:
            print_text(place.faults, err=True)
        text = str(error) if isinstance(error, NotRunning) else message_of(error)
        fail(text, 2 if place.faults else 1)
    return _object(place, response)


def _object(place: _Place, response: Response) -> dict[str, Any]:
    state, numbers = response.told, response.snapshot
    counters, gauges = numbers.counters, numbers.gauges
    started = datetime.fromtimestamp(state["started_at"], UTC)
    purge = newest_run(place.state_dir)
    upstream = {use: int(n) for (use,), n in gauges.get("upstream_connections", {}).items()}
    settings = place.settings
    return {
        "uptime_seconds": 0,  # a relay of an earlier version does not say it
        **state,
        "faults": place.faults,
        "reloaded": settings is not None and settings.hash == state["hash"],
        "started_at": written_time(started),
        "connections": _by(gauges.get("connections", {}), 0),
        "messages": _by(counters.get("messages_total", {}), 1, 2),
        "recipients": _by(counters.get("recipients_total", {}), 1, 2),
        "refusals": _refusals(numbers),
        "relayed": _by(counters.get("relayed_total", {}), 2),
        "upstream": {
            **upstream,
            "limit": _sum(gauges, "upstream_connections_limit"),
            "waiting": _sum(gauges, "upstream_waiting"),
        },
        "failures": _by(counters.get("failures_total", {}), 1),
        "last_purge": None if purge is None else written_time(purge.ended),
        "certificates": {
            name: written_time(datetime.fromtimestamp(until, UTC))
            for (name,), until in gauges.get("certificate_expiry_timestamp_seconds", {}).items()
        },
        "disk": little_left(place.state_dir),
        **(dict.fromkeys(_ASKED) if settings is None else _asked(settings, numbers)),
    }


_ASKED = ("replica", "ready", "audit_index", "streams_held_back", "store_copy", "keys", "feedback")


def _asked(settings: Settings, numbers: Snapshot) -> dict[str, Any]:
    """Return what the settings say where to ask for, in the order of `_ASKED`."""
    found = (
        _replica(settings, numbers),
        _ready(settings),
        _index(settings, numbers.gauges),
        _held_back(settings),
        _unfinished_copies(settings),
        _keys(settings),
        _feedback(settings),
    )
    return dict(zip(_ASKED, found, strict=True))


def _ready(settings: Settings) -> dict[str, str] | None:
    """Return what /readyz says of each part; None without [web], or if that does not answer."""
    if settings.web is None:
        return None
    address = settings.web.address
    socket = str(address.path) if isinstance(address, UnixAddress) else None
    host = "localhost" if socket else str(address)
    transport = httpx.HTTPTransport(uds=socket)
    try:
        with httpx.Client(transport=transport, timeout=_READY_WITHIN, trust_env=False) as client:
            parts: dict[str, str] = client.get(f"http://{host}/readyz").json()["parts"]
            return parts
    except (httpx.HTTPError, ValueError, LookupError):
        return None


def _replica(settings: Settings, numbers: Snapshot) -> dict[str, Any] | None:
    """Return the state of the store's standby; None without one."""
    if settings.store.replica_url is None:
        return None
    gauges = numbers.gauges
    unused = gauges.get("replica_unused", {}).get(())
    return {
        "used": None if unused is None else not unused,  # None: not asked yet
        "lag_seconds": gauges.get("replica_lag_seconds", {}).get(()),
        "reads": _by(numbers.counters.get("replica_reads_total", {}), 0),
    }


def _by(samples: Samples, *places: int) -> Any:
    """Return sums by the labels at these places, nested if there are two."""
    if len(places) == 1:
        totals: Counter[str] = Counter()
        for labels, n in samples.items():
            totals[labels[places[0]]] += int(n)
        return dict(totals)
    nested: dict[str, Counter[str]] = {}
    for labels, n in samples.items():
        nested.setdefault(labels[places[0]], Counter())[labels[places[1]]] += int(n)
    return {name: dict(found) for name, found in nested.items()}


_OF_RECIPIENTS = (str(Reason.RECIPIENTS_REFUSED), str(Reason.STREAM_NOT_PERMITTED))
"""Reasons of messages whose recipients are counted themselves."""


def _refusals(numbers: Snapshot) -> dict[str, int]:
    """Return recipients and whole messages not allowed, by reason, the most frequent first."""
    totals: Counter[str] = Counter()
    for name, left_out in (("recipients_total", ()), ("messages_total", _OF_RECIPIENTS)):
        for (_, _, verdict, reason), n in numbers.counters.get(name, {}).items():
            if verdict != "allow" and reason not in left_out:
                totals[reason] += int(n)
    return dict(totals.most_common())


def _sum(gauges: Mapping[str, Samples], name: str) -> int:
    return int(sum(gauges.get(name, {}).values()))


def _index(settings: Settings, gauges: Mapping[str, Samples]) -> dict[str, Any] | None:
    """Return how far the index of decisions is behind; None without one."""
    if not is_postgresql(settings.store):
        return None
    rows, seconds = (
        sum(gauges.get(f"audit_index_backlog_{unit}", {}).values()) for unit in ("rows", "seconds")
    )
    return {"rows_behind": int(rows), "seconds_behind": round(seconds, 1)}


def _held_back(settings: Settings) -> dict[str, str] | None:
    """Return the streams held back, each with its cause; None if the store cannot answer."""

    async def read(store: Store) -> Sequence[StreamStatus]:
        with closing(open_breaker(settings, lambda: store)) as breaker:
            return await breaker.status()

    try:
        found = read_store(settings, read)
    except StoreUnavailable:
        return None
    return {each.name: each.cause for each in found if each.cause is not None}


def _unfinished_copies(settings: Settings) -> list[str] | None:
    """Return the traces of unfinished copies of the store; None if it cannot answer."""
    from smtpproxy.store.move.traces import traces

    with suppress(StoreUnavailable):
        return [str(each) for each in asyncio.run(traces(settings.store))]
    return None


def _keys(settings: Settings) -> dict[str, str | None]:
    """Return until when each key is young enough; None if its file cannot be read."""
    found: dict[str, str | None] = {}
    for key in key_files(settings):
        with suppress(FileNotFoundError):
            try:
                found[key.name] = written_time(key.replace_by())
            except PermissionError:
                found[key.name] = None
    return found


def _feedback(settings: Settings) -> dict[str, Any] | None:
    """Return the state of the mailbox, None without one; a number that is not known is None."""
    if settings.feedback is None:
        return None

    async def ask() -> tuple[Mapping[tuple[str, ...], float], Waiting]:
        with closing(open_feedback(settings.store)) as log:
            return await log.totals(), await log.counts()

    names = ("waiting", "kept", "to_hand_on", "elsewhere", "heard")
    found: dict[str, Any] = dict.fromkeys(names)
    with suppress(OSError):
        found["waiting"] = Maildir(settings.feedback_dir).waiting(MOST_WAITING)
    with suppress(StoreUnavailable):
        totals, (found["kept"], found["to_hand_on"], found["elsewhere"]) = asyncio.run(ask())
        found["heard"] = _by(totals, 0)
    return found


def _rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> Rates:
    """Return messages per second by verdict, and by stream and verdict."""
    rates: Counter[str] = Counter()
    for stream, verdicts in after["messages"].items():
        for verdict, n in verdicts.items():
            more = n - before["messages"].get(stream, {}).get(verdict, 0)
            rates[verdict] += max(more, 0)
            rates[f"{stream} {verdict}"] += max(more, 0)
    return {name: n / seconds for name, n in rates.items()}


@command("reload")
def reload(settings: Settings) -> Result:
    """Have the running relay reload its configuration: all of it, or none if it is faulty.

    Messages in progress finish under the old one. If the relay keeps the old one, prints the
    faults and exits with 1. Only server.state_dir needs a restart.
    """
    with failing(NotRunning):
        response, _ = ask(settings.server.state_dir, Reload(), RELOADS_WITHIN)
    if response.faults:
        return Result({"reloaded": False, "faults": response.faults}, response.faults, 1)
    new = response.told
    text = f"reloaded: {new['workers']} workers, mode {new['mode']}, configuration {new['hash']}"
    if new["hash"] != settings.hash:
        other = "the running relay has read its own file, which differs from this one"
        return Result({"reloaded": True, "faults": [other], **new}, [text], error=other)
    return Result({"reloaded": True, "faults": [], **new}, [text])
