"""`smtpproxy stream`: the feedback on streams, and their pauses."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import click

from smtpproxy.cli import fail
from smtpproxy.cli.command import command
from smtpproxy.cli.options import moment, option, plain_text
from smtpproxy.cli.printer import Aside, Column, Part, Result, Table
from smtpproxy.cli.stores import using_store
from smtpproxy.cli.stream_mode import enforce, observe
from smtpproxy.clock import now
from smtpproxy.policy.breaker import BRAND, STREAM, Feedback
from smtpproxy.policy.campaign import Campaign, Trial, held_until
from smtpproxy.settings import Settings
from smtpproxy.store import open_breaker, open_stream_counts
from smtpproxy.store.breaker import StreamStatus, status_object, subject_of
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.protocols import Store
from smtpproxy.store.streams import PERSON, StreamEvent, event_object
from smtpproxy.terminal import counted

_REASON: Any = option("Why; must hold no personal data.", plain_text)


@click.group("stream")
def stream() -> None:
    """Show the feedback on streams; pause, resume, enforce or only observe them."""


for subcommand in (enforce, observe):
    stream.add_command(subcommand)


@command("show", stream)
@click.argument("name", required=False)
def show(settings: Settings, name: str | None) -> Result:
    """Show all marketing streams, or one with its history."""
    if name is not None:
        _subject(settings, name)
    found, events, campaigns = using_store(
        settings, lambda store: _read(settings, store, name), read_only=True, or_empty=True
    )
    chosen = [each for each in found if name in (None, each.name, BRAND + each.brand)]
    data = [status_object(each) for each in chosen]
    columns = [
        Column("stream"),
        Column("brand"),
        Column("state"),
        Column("messages", right=True),
        *(Column(kind.replace("_", " "), right=True) for kind in Feedback),
        Column("why", prose=True),
    ]
    rows = [(one["stream"], one["brand"], one["state"], *_figures(one), _why(one)) for one in data]
    parts: list[Part] = [Table(columns, rows)]
    if name is None:
        return Result(data, parts)
    subjects = {s for each in chosen for s in (STREAM + each.name, BRAND + each.brand)}
    history = [event for event in events if event.subject in subjects]
    parts += [_described(event) for event in history]
    trial = settings.streams[chosen[0].name].trial
    held = [] if trial is None else [_campaign(one, trial) for one in campaigns]
    parts += [_waiting(one) for one in held]
    data[0] |= {"events": list(map(event_object, history)), "campaigns": held}
    return Result(data[0], parts)


@command("pause", stream)
@click.argument("name")
def pause(
    settings: Settings,
    name: str,
    until: datetime | None = option("When the pause ends automatically.", moment),
    reason: str | None = _REASON,
) -> Result:
    """Defer the mail of a stream until it is resumed. NAME is a stream or brand:NAME."""
    if until is not None and until <= now():
        raise click.BadParameter("is in the past", param_hint="--until")
    event = StreamEvent(
        now(), _subject(settings, name), "paused", PERSON, until=until, reason=reason
    )
    using_store(settings, lambda store: store.note_stream(event))
    return Result(event_object(event), [_described(event)])


@command("resume", stream)
@click.argument("name")
def resume(settings: Settings, name: str, reason: str | None = _REASON) -> Result:
    """End a pause, and the waits of new campaigns; exits with 1 when there are none.

    NAME is a stream or brand:NAME.
    """
    event = StreamEvent(now(), _subject(settings, name), "resumed", PERSON, reason=reason)

    async def act(store: Store) -> tuple[bool, int]:
        with closing(open_stream_counts(settings.store)) as counts:
            return await store.note_stream(event), await counts.release_campaigns(name)

    resumed, released = using_store(settings, act)
    done = resumed or released > 0
    text: Part = _described(event)
    if released and not resumed:
        text = f"{name}: {counted(released, 'campaign')} released from waiting"
    elif not done:
        text = Aside(f"{name} is not paused{_elsewhere(settings, name)}")
    data = {**event_object(event), "resumed": resumed, "campaigns": released}
    return Result(data, [text], 0 if done else 1)


def _elsewhere(settings: Settings, name: str) -> str:
    """Say what else may hold back the stream's mail."""
    configured = settings.streams.get(name)
    if configured is None:
        return ""
    if configured.paused:
        return ' by a command or the breaker: "paused" in the configuration holds it back'
    return f"; its brand may be: smtpproxy stream resume {BRAND}{configured.brand}"


async def _read(
    settings: Settings, store: Store, name: str | None
) -> tuple[Sequence[StreamStatus], Sequence[StreamEvent], Sequence[Campaign]]:
    breaker = open_breaker(settings, lambda: store, read_only=True)
    counts = open_stream_counts(settings.store, read_only=True)
    try:
        campaigns = await counts.campaigns(name) if name else ()
        return await breaker.status(), await store.stream_events(), campaigns
    finally:
        breaker.close()
        counts.close()


def _campaign(campaign: Campaign, trial: Trial) -> dict[str, Any]:
    until = held_until(campaign, trial)
    return {
        "campaign": campaign.key,
        "people": campaign.people,
        "strangers": campaign.strangers,
        "dead_addresses": campaign.dead,
        "tried_at": campaign.full_at,
        "waits_until": until if until is not None and until > now() else None,
    }


def _waiting(one: dict[str, Any]) -> str:
    until = one["waits_until"]
    state = "resumed" if until is None else f"waits until {written_time(until)}"
    return (
        f"{written_time(one['tried_at'])} campaign {one['campaign'][:8]} {state}: of the first"
        f" {one['people']:,} recipients {one['strangers']:,} strangers,"
        f" {one['dead_addresses']:,} dead addresses"
    )


def _subject(settings: Settings, name: str) -> str:
    """Return the subject that a name stands for; end the command if it stands for none."""
    try:
        return subject_of(settings.streams.values(), name)
    except ValueError as error:
        fail(str(error), 2)


def _figures(one: dict[str, Any]) -> Iterable[str]:
    messages = one["messages"]
    yield f"{messages:,}"
    for kind in Feedback:
        share = f" ({one[kind] / messages:.2%})" if messages and one[kind] else ""
        yield f"{one[kind]:,}{share}"


def _why(one: dict[str, Any]) -> str:
    """Say why the stream is paused, or which bounds it has reached."""
    paused = one["paused"]
    if paused is None:
        reached = [(r["cause"].replace("_", " "), r["bound"]) for r in one["reached"]]
        return ", ".join(f"{cause} at {bound * 100:g} % or more" for cause, bound in reached)
    parts = [str(paused["cause"]).replace("_", " ")]
    if paused["subject"].startswith(BRAND):
        parts.append("of the whole brand")
    if paused["since"] is not None:
        parts.append(f"since {written_time(paused['since'])}")
    if paused["until"] is not None:
        parts.append(f"until {written_time(paused['until'])}")
    return " ".join(parts) + (f": {paused['reason']}" if paused["reason"] else "")


def _described(event: StreamEvent) -> str:
    cause = event.cause.replace("_", " ")
    text = f"{written_time(event.at)} {event.subject} {event.action}: {cause}"
    if event.messages:
        text += f", {event.reports:,} of {event.messages:,} messages"
    if event.until is not None:
        text += f", until {written_time(event.until)}"
    return text + (f", {event.reason}" if event.reason else "")
