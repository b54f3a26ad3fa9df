"""Which relay of a store has which keys, for people and for programs."""

from collections.abc import Iterator, Sequence

from smtpproxy.cli.printer import Column, Part, Table
from smtpproxy.clock import now
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.register import Relay, living


def holdings(relays: Sequence[Relay], file: str) -> list[dict[str, object]]:
    """Return what each relay has of the keys of a file, by version."""
    alive = {relay.id for relay in living(relays, now())}
    return [
        {
            "id": relay.id,
            "host": relay.state.host,
            "told_at": relay.at,
            "counts": relay.id in alive,  # a new key waits for it
            "keys": relay.state.keys.get(file, {}),
        }
        for relay in relays
    ]


def relay_lines(relays: Sequence[Relay], file: str) -> Iterator[Part]:
    """Yield a table where there are several."""
    if not relays:
        return
    alive = {relay.id for relay in living(relays, now())}
    rows = []
    for relay in relays:
        held = relay.state.keys.get(file, {})
        keys = ", ".join(f"{version} ({name})" for version, name in held.items())
        state = "" if relay.id in alive else "silent: not waited for"
        rows.append((relay.name, written_time(relay.at), keys or "none", state))
    yield ""
    yield Table([Column("relay"), Column("told at"), Column(f"keys in {file}"), Column("")], rows)
