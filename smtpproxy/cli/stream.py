"""`smtpproxy stream`: the feedback on streams, their pauses and their modes."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from msgspec import structs

from smtpproxy.cli import failing
from smtpproxy.cli.options import YES, Moment, Options, Text, command, confirm, option, settings_in
from smtpproxy.cli.printer import Aside, Column, Part, Result, Table, print_text
from smtpproxy.cli.report import ReportOptions, Since, judged, read_report
from smtpproxy.cli.stores import read_store, using_store
from smtpproxy.clock import now
from smtpproxy.config.mode import CannotChange, Edit, edited
from smtpproxy.locale import REFERENCE
from smtpproxy.policy.breaker import BRAND, STREAM, Feedback
from smtpproxy.policy.campaign import Campaign, Trial, held_until
from smtpproxy.policy.model import Mode, StreamClass
from smtpproxy.process.control import RELOADS_WITHIN, NotRunning, Reload, ask
from smtpproxy.report import judgement_object, outcomes
from smtpproxy.report.judgement import StreamReport
from smtpproxy.settings import Settings
from smtpproxy.store import open_breaker, open_stream_counts
from smtpproxy.store.breaker import StreamStatus, status_object, subject_of
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.sql.store import Store
from smtpproxy.store.streams import PERSON, StreamEvent, event_object
from smtpproxy.terminal import counted


@click.group("stream")
def stream() -> None:
    """Show the feedback on streams; pause, resume, enforce or only observe them."""


class ModeOptions(Options, frozen=True):
    """How much mail to look at first, and whether to ask."""

    since: Since = option(
        "How far back to look at mail, or from which time.", metavar="7d|TIME", default="7d"
    )
    yes: bool = YES


@command("enforce", stream)
def enforce(config: Path, name: str, options: ModeOptions) -> Result:
    """Refuse from now on what a stream only observes: sets its mode in the configuration, which a
    running relay then reloads.

    First shows what `smtpproxy report` says about the stream. NAME may be `default`, for mail
    without a stream; streams without a mode of their own keep the one they have now.
    """
    return _change(config, name, Mode.ENFORCE, options)


@command("observe", stream)
def observe(config: Path, name: str, options: ModeOptions) -> Result:
    """Let all mail of a stream pass again: sets its mode in the configuration, which a running
    relay then reloads.

    Mail that would be refused is still judged, recorded and counted.
    """
    return _change(config, name, Mode.OBSERVE, options)


def _change(config: Path, name: str, mode: Mode, options: ModeOptions) -> Result:
    settings = settings_in(config)
    with failing(CannotChange, code=2):
        edit = edited(config, name, mode)
    asked = ReportOptions(options.since, None, name, "reason", None, REFERENCE)
    found = next(one for one in read_report(settings, asked).streams if one.name == name)
    data: dict[str, Any] = {
        "stream": name,
        "mode": mode,
        "file": config,
        "written": False,
        "reloaded": False,
        "changes": [structs.asdict(change) for change in edit.changes],
        "judgement": judgement_object(found.judgement, REFERENCE),
    }
    if not edit.changes:
        return Result(data, [f'{name} already has mode = "{mode}": nothing was changed'])
    plan = list(_plan(edit, found, mode))
    if not options.yes:
        print_text(plan, err=True)
        plan = []
        confirm("Write this?")
    with failing(CannotChange):
        edit.write()
    written = f"Written to {config}."
    faults, effect = _reload(settings, settings_in(config).hash)
    data |= {"written": True, "reloaded": not faults and effect != NOT_RUNNING, "faults": faults}
    if faults:
        left = "it is written, but the running relay goes on as before: fix this, then reload"
        return Result(data, [*plan, written, *faults], error=left)
    return Result(data, [*plan, written, effect])


NOT_RUNNING = "No relay is running: it takes effect at the next start."


def _reload(settings: Settings, hash: str) -> tuple[Sequence[str], str]:
    """Have the running relay reload its configuration; return faults, and the effect."""
    try:
        response, _ = ask(settings.server.state_dir, Reload(), RELOADS_WITHIN)
    except NotRunning:
        return (), NOT_RUNNING
    except OSError as error:
        return [f"the running relay cannot be asked: {error.strerror or 'it does not answer'}"], ""
    if not response.faults and response.told["hash"] != hash:
        return ["the running relay uses a different file"], ""
    return response.faults, "The running relay has read it: it takes effect with the next message."


def _plan(edit: Edit, found: StreamReport, mode: Mode) -> Iterator[Part]:
    """Yield what was seen, what the change would mean, and what will be written."""
    if mode is Mode.ENFORCE:
        yield from judged(found.name, found.judgement, advise=False)
        seen = outcomes(found.total)
        stopped = seen["would_be_refused"] + seen["would_be_deferred"]
        yield (
            f"Of {counted(found.recipients, 'recipient')} seen, {stopped:,} would not have been"
            f" mailed{':' if stopped else '.'}"
        )
        rows = [(f.reason, f"{f.recipients:,}") for f in found.figures if f.recipients]
        yield Table([Column(), Column(right=True)], rows)
    else:
        yield f"All mail of {found.name} will pass again, even to people who refused it."
    for change in edit.changes:
        before = "" if change.before is change.after else f', was "{change.before}"'
        yield f'{edit.path}: {change.table}: mode = "{change.after}"{before}'


_REASON: Any = option("Why; must not contain personal data.")


@command("show", stream)
def show(settings: Settings, name: str | None) -> Result:
    """Show all marketing streams, or one with its history."""
    if name is not None:
        _subject(settings, name)
    found, events, campaigns = read_store(settings, lambda store: _read(settings, store, name))
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
def pause(
    settings: Settings,
    name: str,
    until: Moment | None = option("When the pause ends automatically."),
    reason: Text | None = _REASON,
) -> Result:
    """Defer the mail of a stream until it is resumed. NAME is a stream or brand:NAME."""
    if until is not None and until <= now():
        raise click.BadParameter("is in the past", param_hint="--until")
    event = StreamEvent(
        now(), _subject(settings, name), "paused", PERSON, until=until, reason=reason
    )
    using_store(settings, lambda store: store.note_stream(event))
    paused = [each for each in settings.streams.values() if name in (each.name, BRAND + each.brand)]
    observed = [
        each.name
        for each in paused
        if each.stream_class is StreamClass.MARKETING and each.mode is Mode.OBSERVE
    ]
    end = "" if until is None else f"{written_time(until)}, or "
    effect = f"Its mail is deferred until {end}smtpproxy stream resume {name}"
    if observed:
        effect += f"; that of {', '.join(observed)} is only observed, and passes all the same"
    return Result(event_object(event) | {"observed": observed}, [_described(event), effect])


@command("resume", stream)
def resume(settings: Settings, name: str, reason: Text | None = _REASON) -> Result:
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
    with failing(ValueError, code=2):
        return subject_of(settings.streams.values(), name)


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
