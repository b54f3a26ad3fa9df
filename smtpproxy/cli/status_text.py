"""`smtpproxy status` as text."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from smtpproxy.cli.printer import Column, Fields, Part, Table
from smtpproxy.store.exchange.times import written_time
from smtpproxy.terminal import counted

MOST_WAITING = 100_000
"""How many reports in the mailbox are counted."""
_MANY_STREAMS = 50
"""If there are more, only those that had mail are shown."""
_MOST_REASONS = 10

Rates = Mapping[str, float]


def status_text(found: dict[str, Any], rates: Rates) -> list[Part]:
    parts: list[Part] = [_fields(found), "", *_streams(found, rates)]
    reasons = list(found["refusals"].items())[:_MOST_REASONS]
    if reasons:
        rows = [(reason, str(n)) for reason, n in reasons]
        parts += ["", Table([Column("not allowed because of"), Column("count", right=True)], rows)]
    return parts


def _fields(found: dict[str, Any]) -> Fields:
    upstream, held = found["upstream"], found["streams_held_back"]
    now = written_time(datetime.now(UTC))
    valid = {
        name: f"{until} (expired)" if until <= now else until
        for name, until in found["certificates"].items()
    }
    faults = found["faults"]
    unknown = None if faults else "not known: the store cannot answer"
    keys = {
        name: "not known" if day is None else day[:10]
        for name, day in (found["keys"] or {}).items()
    }
    more = {
        "configuration": _file(found),
        "disk": found["disk"],
        "draining": f"{found['draining']} earlier configurations" if found["draining"] else None,
        "standby": _standby(found["replica"]),
        "failures": _listed(found["failures"]),
        "held back": unknown if held is None else _listed(held),
        "store copy": "; ".join(found["store_copy"] or ()) or None,
        "certificates": _listed(valid),
        "replace keys by": _listed(keys),
        "feedback": _mailbox(found["feedback"]),
        "audit index": _behind(found["audit_index"]),
        "heard": _listed((found["feedback"] or {}).get("heard") or {}),
    }
    return Fields(
        [
            ("version", f"{found['version']}, configuration {found['hash']}"),
            ("running", f"{timedelta(seconds=found['uptime_seconds'])}, process {found['pid']}"),
            ("mode", found["mode"]),
            ("workers", f"{found['alive']} of {found['workers']} alive"),
            ("ready", "not known" if faults else _readiness(found["ready"])),
            ("connections", _listed(found["connections"]) or "none"),
            (
                "upstream",
                f"{upstream.get('busy', 0)} busy, {upstream.get('idle', 0)} idle,"
                f" {upstream['waiting']} waiting, at most {upstream['limit']}",
            ),
            ("answers", _listed(found["relayed"]) or "none yet"),
            ("last purge", found["last_purge"] or "none yet"),
            *more.items(),
        ]
    )


def _streams(found: dict[str, Any], rates: Rates) -> list[Part]:
    shown = found["streams"]
    if len(shown) > _MANY_STREAMS:
        shown = {
            name: mode
            for name, mode in shown.items()
            if any((*found["messages"].get(name, {}).values(), _not_allowed(found, name)))
        }
    streams = [
        (
            *(name, mode),
            *(_count(found, rates, name, verdict) for verdict in _VERDICTS),
            str(_not_allowed(found, name)),
        )
        for name, mode in shown.items()
    ]
    counts = (*_VERDICTS, "recipients not allowed")
    columns = [Column("stream"), Column("mode"), *(Column(name, right=True) for name in counts)]
    parts: list[Part] = [Table(columns, streams)]
    if silent := len(found["streams"]) - len(shown):
        parts.append(f"{counted(silent, 'more stream', 'more streams')} had no mail")
    return parts


def _file(found: dict[str, Any]) -> str | None:
    """Say how the file differs from what the relay has read."""
    if faults := found["faults"]:
        has = counted(len(faults), "fault")
        return f"the file has {has}, and the relay goes on without it: smtpproxy check"
    return None if found["reloaded"] else "the file was changed since: smtpproxy reload"


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
    more = " or more" if feedback["waiting"] == MOST_WAITING else ""
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


def _not_allowed(found: dict[str, Any], stream: str) -> int:
    """Return how many recipients: those refused at RCPT are in no message."""
    verdicts = found["recipients"].get(stream, {})
    return sum(n for verdict, n in verdicts.items() if verdict != "allow")


def _listed(values: Mapping[str, object]) -> str | None:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or None
