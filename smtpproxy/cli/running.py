"""`smtpproxy status` and `smtpproxy reload`: requests to the running relay."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import httpx

from smtpproxy.cli import fail, failing
from smtpproxy.cli.options import command, flag
from smtpproxy.cli.printer import Column, Fields, Part, Result, Table, print_json, print_text
from smtpproxy.cli.stores import using_store
from smtpproxy.doctor.machine import key_files
from smtpproxy.policy.model import Reason
from smtpproxy.process.control import NotRunning, Reload, Response, Status, ask
from smtpproxy.purge_runs import newest_run
from smtpproxy.settings import Settings, UnixAddress
from smtpproxy.sinks.snapshots import Samples, Snapshot
from smtpproxy.store import is_postgresql, open_breaker, open_feedback
from smtpproxy.store.breaker import StreamStatus
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.feedback import Waiting
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.protocols import Store, StoreUnavailable
from smtpproxy.terminal import counted

_EVERY = 2.0  # seconds between two requests
_READY_WITHIN = 5.0
_MANY_STREAMS = 50
"""If there are more, only those that had mail are shown."""
_MOST_REASONS = 10
_MOST_WAITING = 100_000


@command("status")
def status(
    settings: Settings,
    as_json: bool,
    watch: bool = flag("Show it every two seconds, with rates, until Ctrl-C."),
) -> int:
    """Show the state of the running relay; exits with 1 when none runs, or a worker is missing.

    Counts are totals of all workers since the relay started.
    """
    found = _look(settings)
    while watch:
        before, at = found, time.monotonic()
        time.sleep(_EVERY)
        found = _look(settings)
        rates = _rates(before, found, time.monotonic() - at)
        if as_json:
            print_json({**found, "rates": rates}, one_line=True)
        else:
            click.clear()
            print_text(_text(found, rates))
    if as_json:
        print_json(found)
    else:
        print_text(_text(found, {}))
    return 0 if found["alive"] >= found["workers"] else 1


def _look(settings: Settings) -> dict[str, Any]:
    try:
        response, _ = ask(settings.server.state_dir, Status(), timeout=10.0)
    except NotRunning as error:
        fail(str(error))
    except TimeoutError:
        fail("the relay is running but does not answer within 10 seconds: see its log")
    return _object(settings, response)


def _object(settings: Settings, response: Response) -> dict[str, Any]:
    state, numbers = response.told, response.snapshot
    counters, gauges = numbers.counters, numbers.gauges
    started = datetime.fromtimestamp(state["started_at"], UTC)
    purge = newest_run(settings.server.state_dir)
    upstream = {use: int(n) for (use,), n in gauges.get("upstream_connections", {}).items()}
    return {
        **state,
        "started_at": written_time(started),
        "uptime_seconds": round(time.time() - state["started_at"]),
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
        "replica": _replica(settings, numbers),
        "ready": _ready(settings),
        "failures": _by(counters.get("failures_total", {}), 1),
        "audit_index": _index(settings, gauges),
        "streams_held_back": _held_back(settings),
        "store_copy": _begun_copies(settings),
        "last_purge": None if purge is None else written_time(purge.ended),
        "certificates": {
            name: written_time(datetime.fromtimestamp(until, UTC))
            for (name,), until in gauges.get("certificate_expiry_timestamp_seconds", {}).items()
        },
        "keys": _keys(settings),
        "feedback": _feedback(settings),
    }


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
        found = using_store(settings, read, read_only=True, or_empty=True)
    except StoreUnavailable:
        return None
    return {each.name: each.cause for each in found if each.cause is not None}


def _begun_copies(settings: Settings) -> list[str] | None:
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
        found["waiting"] = Maildir(settings.feedback_dir).waiting(_MOST_WAITING)
    with suppress(StoreUnavailable):
        totals, (found["kept"], found["to_hand_on"], found["elsewhere"]) = asyncio.run(ask())
        found["heard"] = _by(totals, 0)
    return found


Rates = Mapping[str, float]


def _rates(before: dict[str, Any], after: dict[str, Any], seconds: float) -> Rates:
    """Return messages per second by verdict, and by stream and verdict."""
    rates: Counter[str] = Counter()
    for stream, verdicts in after["messages"].items():
        for verdict, n in verdicts.items():
            more = n - before["messages"].get(stream, {}).get(verdict, 0)
            rates[verdict] += max(more, 0)
            rates[f"{stream} {verdict}"] += max(more, 0)
    return {name: n / seconds for name, n in rates.items()}


def _text(found: dict[str, Any], rates: Rates) -> list[Part]:
    upstream, held = found["upstream"], found["streams_held_back"]
    now = written_time(datetime.now(UTC))
    valid = {
        name: f"{until} (expired)" if until <= now else until
        for name, until in found["certificates"].items()
    }
    lists = {
        "draining": f"{found['draining']} earlier configurations" if found["draining"] else None,
        "standby": _standby(found["replica"]),
        "failures": _listed(found["failures"]),
        "held back": "not known: the store cannot answer" if held is None else _listed(held),
        "store copy": "; ".join(found["store_copy"] or ()) or None,
        "certificates": _listed(valid),
        "replace keys by": _listed(
            {name: "not known" if day is None else day[:10] for name, day in found["keys"].items()}
        ),
        "feedback": _mailbox(found["feedback"]),
        "audit index": _behind(found["audit_index"]),
        "heard": _listed((found["feedback"] or {}).get("heard") or {}),
    }
    fields = Fields(
        [
            ("version", f"{found['version']}, configuration {found['hash']}"),
            ("running", f"{timedelta(seconds=found['uptime_seconds'])}, process {found['pid']}"),
            ("mode", found["mode"]),
            ("workers", f"{found['alive']} of {found['workers']} alive"),
            ("ready", _readiness(found["ready"])),
            ("connections", _listed(found["connections"]) or "none"),
            (
                "upstream",
                f"{upstream.get('busy', 0)} busy, {upstream.get('idle', 0)} idle,"
                f" {upstream['waiting']} waiting, at most {upstream['limit']}",
            ),
            ("answers", _listed(found["relayed"]) or "none yet"),
            ("last purge", found["last_purge"] or "none yet"),
            *lists.items(),
        ]
    )
    shown = found["streams"]
    if len(shown) > _MANY_STREAMS:
        shown = {
            name: mode
            for name, mode in shown.items()
            if any(found["messages"].get(name, {}).values())
        }
    streams = [
        (name, mode, *(_count(found, rates, name, verdict) for verdict in _VERDICTS))
        for name, mode in shown.items()
    ]
    columns = [Column("stream"), Column("mode"), *(Column(v, right=True) for v in _VERDICTS)]
    parts: list[Part] = [fields, "", Table(columns, streams)]
    if silent := len(found["streams"]) - len(shown):
        parts.append(f"{counted(silent, 'more stream', 'more streams')} had no mail")
    reasons = list(found["refusals"].items())[:_MOST_REASONS]
    if reasons:
        rows = [(reason, str(n)) for reason, n in reasons]
        parts += ["", Table([Column("not allowed because of"), Column("count", right=True)], rows)]
    return parts


def _readiness(parts: dict[str, str] | None) -> str:
    if parts is None:
        return "not known: no [web] answers"
    not_ok = {part: state for part, state in parts.items() if state != "ok"}
    return f"no: {_listed(not_ok)}" if not_ok else "yes"


def _behind(index: dict[str, Any] | None) -> str | None:
    if index is None:
        return None
    if not index["rows_behind"]:
        return "has every decision"
    return f"{index['rows_behind']:,} rows behind, {index['seconds_behind']:.0f} s"


def _standby(replica: dict[str, Any] | None) -> str | None:
    if replica is None:
        return None
    if replica["used"] is None:
        return "not asked yet"
    state = "read from" if replica["used"] else "not read from"
    reads = _listed({f"by {server}": f"{n:,}" for server, n in replica["reads"].items()})
    return f"{state}, {replica['lag_seconds']:.1f} s behind; reads answered {reads or 'none'}"


def _mailbox(feedback: dict[str, Any] | None) -> str | None:
    if feedback is None:
        return None
    numbers = {
        name: "?" if feedback[name] is None else f"{feedback[name]:,}"
        for name in ("waiting", "kept", "to_hand_on", "elsewhere")
    }
    more = " or more" if feedback["waiting"] == _MOST_WAITING else ""
    others = (
        f", {numbers['elsewhere']} waiting for answers from other relays"
        if feedback["elsewhere"]
        else ""
    )
    return (
        f"{numbers['waiting']}{more} to be read, {numbers['kept']} kept for a person,"
        f" {numbers['to_hand_on']} to be handed on{others}"
    )


_VERDICTS = ("allow", "refuse", "defer")


def _count(found: dict[str, Any], rates: Rates, stream: str, verdict: str) -> str:
    n = found["messages"].get(stream, {}).get(verdict, 0)
    rate = rates.get(f"{stream} {verdict}", 0.0)
    return f"{n} ({rate:.1f}/s)" if rate else str(n)


def _listed(values: Mapping[str, object]) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or None


@command("reload")
def reload(settings: Settings) -> Result:
    """Have the running relay reload its configuration: all of it, or none if it is faulty.

    Messages in progress finish under the old one. If the relay keeps the old one, prints the
    faults and exits with 1. Only server.state_dir needs a restart.
    """
    with failing(NotRunning):
        response, _ = ask(settings.server.state_dir, Reload())
    if response.faults:
        return Result({"reloaded": False, "faults": response.faults}, response.faults, 1)
    new = response.told
    text = f"reloaded: {new['workers']} workers, mode {new['mode']}, configuration {new['hash']}"
    if new["hash"] != settings.hash:
        other = "the running relay has read its own file, which differs from this one"
        return Result({"reloaded": True, "faults": [other], **new}, [text], error=other)
    return Result({"reloaded": True, "faults": [], **new}, [text])
