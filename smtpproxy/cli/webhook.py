"""`smtpproxy webhook`: the state of webhooks, and their dead letters."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from smtpproxy.cli import unknown
from smtpproxy.cli.options import YES, WholeNumber, ask_first, command, flag, option
from smtpproxy.cli.printer import Aside, Column, Fields, Part, Result, Table
from smtpproxy.cli.stores import read_store, using_store
from smtpproxy.clock import now
from smtpproxy.events import picked
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.propagation import Backlog, DeadLetter, WebhookState
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

_LETTER: Any = option("Only the dead letter ID.", metavar="ID")
_SHOWN = ("id", "message_id", "changes", "oldest_at", "died_at", "attempts", "error", "retry")
_STATE = ("failures", "failing_since", "retry_at", "delivered_at", "last_error")


@click.group("webhook")
def webhook() -> None:
    """Show webhooks; retry or drop deliveries that failed for good."""


@command("list", webhook)
def list_webhooks(settings: Settings) -> Result:
    """List the webhooks with their delay, last error and number of dead letters."""

    async def read(store: Store) -> tuple[Mapping[str, WebhookState], Mapping[str, Backlog]]:
        return (await store.webhook_progress()).states, await store.backlog()

    states, backlog = read_store(settings, read)
    found = [
        _summary(name, states.get(name), backlog.get(name, Backlog()), now())
        for name in [webhook.name for webhook in settings.webhooks]
    ]
    columns = [
        Column("webhook"),
        Column("state"),
        Column("late by", label="late by"),
        Column("dead letters", label="dead letters"),
        Column("last error", prose=True),
    ]
    rows = [
        (
            one["name"],
            one["state"],
            "" if one["lag_seconds"] is None else f"{one['lag_seconds']:,.0f} s",
            str(one["dead_letters"]),
            one["last_error"] or "",
        )
        for one in found
    ]
    return Result(found, [Table(columns, rows)])


@command("show", webhook)
def show(
    settings: Settings,
    name: str,
    letter: WholeNumber | None = option("Print the body of the dead letter ID.", metavar="ID"),
) -> Result | int:
    """Show one webhook and its dead letters; exits with 1 when there is no such letter."""
    _check_name(settings, name)

    async def read(store: Store) -> tuple[WebhookState | None, Backlog, Sequence[DeadLetter]]:
        states, backlog = (await store.webhook_progress()).states, await store.backlog()
        return states.get(name), backlog.get(name, Backlog()), await store.dead_letters(name)

    state, owed, letters = read_store(settings, read)
    if letter is not None:
        return _show_body(letters, letter)
    summary = _summary(name, state, owed, now())
    data = [picked(letter, *_SHOWN) for letter in letters]

    def text() -> Iterator[Part]:
        yield Fields([(key.replace("_", " "), _shown(value)) for key, value in summary.items()])
        yield from map(_described, letters)

    return Result({**summary, "letters": data}, text())


def _shown(value: object) -> str | None:
    if isinstance(value, datetime):
        return written_time(value)
    return None if value is None else str(value)


def _described(letter: DeadLetter) -> str:
    return (
        f"dead letter {letter.id}: {counted(letter.changes, 'change')}, the oldest of"
        f" {written_time(letter.oldest_at)}, {counted(letter.attempts, 'attempt')}, dead since"
        f" {written_time(letter.died_at)}: {letter.error}"
        + (" (to be tried again)" if letter.retry else "")
    )


def _show_body(letters: Sequence[DeadLetter], wanted: int) -> int:
    for letter in letters:
        if letter.id == wanted:
            click.echo(letter.body)
            return 0
    click.echo(f"there is no dead letter {wanted}", err=True)
    return 1


@command("retry", webhook)
def retry(settings: Settings, name: str, letter: WholeNumber | None = _LETTER) -> Result:
    """Deliver dead letters once more, and everything waiting at once.

    A webhook that was disabled (410) is enabled again. The running relay delivers; a letter that
    fails again stays dead. Exits with 1 when there is nothing to deliver.
    """
    _check_name(settings, name)

    async def ask(store: Store) -> tuple[int, bool]:
        marked = await store.retry_dead_letters(name, letter)
        wanted = letter is None or marked > 0
        return marked, wanted and await store.wake_webhook(name)

    marked, woken = using_store(settings, ask)
    text: Part = f"{name}: delivery requested, with {counted(marked, 'dead letter')}"
    if not woken and letter is not None and not marked:
        text = Aside(f"{name}: there is no dead letter {letter}")
    elif not woken:
        text = Aside(f"{name}: not started yet; the relay will start it")
    data = {"webhook": name, "dead_letters": marked, "asked": woken}
    return Result(data, [text], 0 if woken else 1)


@command("drop", webhook)
def drop(
    settings: Settings,
    name: str,
    letter: WholeNumber | None = _LETTER,
    everything: bool = flag("All dead letters of the webhook.", name="--all"),
    yes: bool = YES,
) -> Result:
    """Drop dead letters: the receiver will not get these changes from this relay.

    Exits with 1 when there are none.
    """
    if (letter is None) is not everything:
        raise click.UsageError("name one with --letter ID, or drop them all with --all")

    def question() -> str | None:
        letters = read_store(settings, lambda store: store.dead_letters(name))
        chosen = [one for one in letters if everything or one.id == letter]
        if not chosen:
            return None
        changes = counted(sum(one.changes for one in chosen), "change")
        return f"{name} will never be told of {changes}. Drop them for good?"

    ask_first(question, yes=yes)
    dropped = using_store(settings, lambda store: store.drop_dead_letters(name, letter))
    if not dropped:  # a webhook that was removed may have left some
        _check_name(settings, name)
    text: Part = f"{name}: {counted(dropped, 'dead letter')} dropped"
    if not dropped:
        text = Aside(f"{name}: no such dead letter")
    return Result({"webhook": name, "dropped": dropped}, [text], 0 if dropped else 1)


def _check_name(settings: Settings, name: str) -> None:
    names = [webhook.name for webhook in settings.webhooks]
    if name not in names:
        unknown("webhook", name, names)


def _summary(name: str, state: WebhookState | None, owed: Backlog, at: datetime) -> dict[str, Any]:
    if state is None:
        kind = "not started yet"
    elif state.disabled_at is not None:
        kind = "disabled"
    elif state.failures:
        kind = "failing"
    else:
        kind = "up to date" if owed.oldest is None else "delivering"
    lag = None
    if state is not None and owed.oldest is not None:
        lag = round((at - owed.oldest).total_seconds(), 1)
    return {
        "name": name,
        "state": kind,
        "position": getattr(state, "position", None),
        "lag_seconds": lag,
        "dead_letters": owed.dead_letters,
        **{key: getattr(state, key, None) for key in _STATE},
        "failures": state.failures if state else 0,
    }
