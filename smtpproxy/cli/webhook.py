"""`smtpproxy webhook`: how far webhooks are, and what could not be delivered."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click
from rich.table import Table

from smtpproxy.cli.common import config_option, fail
from smtpproxy.cli.printer import json_option, print_json, rich_console
from smtpproxy.cli.stores import now, using_store
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import Arrears, DeadLetter, WebhookState
from smtpproxy.store.protocols import Store
from smtpproxy.terminal import counted, printable

_LETTER = click.option("--letter", type=int, metavar="ID", help="Only this dead letter.")


@click.group(short_help="See how far webhooks are; send again or drop.")
def command() -> None:
    """See how far webhooks are, and decide about what could not be delivered."""


@command.command("list")
@config_option
@json_option
def list_webhooks(settings: Settings, as_json: bool) -> None:
    """List the webhooks: how late they are, what fails, how many dead letters there are."""

    async def read(store: Store) -> tuple[Mapping[str, WebhookState], Mapping[str, Arrears]]:
        return await store.webhook_states(), await store.arrears()

    states, arrears = using_store(settings, read, read_only=True, or_empty=True)
    rows = [
        _summary(name, states.get(name), arrears.get(name, Arrears()), now())
        for name in [webhook.name for webhook in settings.webhooks]
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("webhook", "state", "late by", "dead letters", "last error", box=None)
    for row in rows:
        late = "" if row["lag_seconds"] is None else f"{row['lag_seconds']:,.0f} s"
        error = printable(row["last_error"] or "")
        table.add_row(row["name"], row["state"], late, str(row["dead_letters"]), error)
    rich_console().print(table)


@command.command("show")
@click.argument("name")
@click.option("--letter", type=int, metavar="ID", help="Print the body of this dead letter.")
@config_option
@json_option
def show(settings: Settings, name: str, letter: int | None, as_json: bool) -> int:
    """Show one webhook and its dead letters; exit 1 when there is no such letter."""
    _known(settings, name)

    async def read(store: Store) -> tuple[WebhookState | None, Arrears, Sequence[DeadLetter]]:
        states, arrears = await store.webhook_states(), await store.arrears()
        return (
            states.get(name),
            arrears.get(name, Arrears()),
            await store.dead_letters(name),
        )

    state, owed, letters = using_store(settings, read, read_only=True, or_empty=True)
    if letter is not None:
        return _show_letter(letters, letter)
    if as_json:
        print_json({**_summary(name, state, owed, now()), "letters": [_plain(x) for x in letters]})
        return 0
    for key, value in _summary(name, state, owed, now()).items():
        click.echo(f"{key}: {'' if value is None else printable(str(value))}")
    for each in letters:
        click.echo(
            f"dead letter {each.id}: {counted(each.changes, 'change')}, the oldest of"
            f" {written_time(each.oldest_at)}, {counted(each.attempts, 'attempt')}, dead since"
            f" {written_time(each.died_at)}: {printable(each.error)}"
            + (" (to be tried again)" if each.retry else "")
        )
    return 0


@command.command("retry")
@click.argument("name")
@_LETTER
@config_option
@json_option
def retry(settings: Settings, name: str, letter: int | None, as_json: bool) -> int:
    """Have dead letters delivered once more, and what waits at once.

    A webhook that was disabled (410) is enabled again. The running relay does it; what
    fails again stays a dead letter. Exits with 1 when there is nothing of that kind.
    """
    _known(settings, name)

    async def ask(store: Store) -> tuple[int, bool]:
        marked = await store.retry_dead_letters(name, letter)
        wanted = letter is None or marked > 0
        return marked, wanted and await store.wake_webhook(name)

    marked, woken = using_store(settings, ask)
    if as_json:
        print_json({"webhook": name, "dead_letters": marked, "asked": woken})
    elif woken:
        click.echo(f"{name}: asked for, {marked} dead letters with it")
    elif letter is not None and not marked:
        click.echo(f"{name}: there is no dead letter {letter}", err=True)
    else:
        click.echo(f"{name}: never started yet: the relay does that", err=True)
    return 0 if woken else 1


@command.command("drop")
@click.argument("name")
@_LETTER
@click.option("--all", "everything", is_flag=True, help="All dead letters of the webhook.")
@config_option
@json_option
def drop(settings: Settings, name: str, letter: int | None, everything: bool, as_json: bool) -> int:
    """Give dead letters up: the receiver will not hear of these changes from here.

    Exits with 1 when there is none.
    """
    if (letter is None) is not everything:
        raise click.UsageError("say which with --letter ID, or drop every one with --all")
    dropped = using_store(settings, lambda store: store.drop_dead_letters(name, letter))
    if as_json:
        print_json({"webhook": name, "dropped": dropped})
    elif dropped:
        click.echo(f"{name}: {dropped} dead letters dropped")
    else:
        click.echo(f"{name}: there is no such dead letter", err=True)
    return 0 if dropped else 1


def _known(settings: Settings, name: str) -> None:
    names = [webhook.name for webhook in settings.webhooks]
    if name not in names:
        fail(f"there is no webhook {name!r}: {', '.join(names) or 'none is configured'}", 2)


def _summary(name: str, state: WebhookState | None, owed: Arrears, at: datetime) -> dict[str, Any]:
    if state is None:
        return {
            "name": name, "state": "not started yet", "position": None, "lag_seconds": None,
            "dead_letters": owed.dead_letters, "failures": 0, "failing_since": None,
            "retry_at": None, "delivered_at": None, "last_error": None,
        }  # fmt: skip
    lag = None if owed.oldest is None else round((at - owed.oldest).total_seconds(), 1)
    if state.disabled_at is not None:
        kind = "disabled"
    elif state.failures:
        kind = "failing"
    else:
        kind = "up to date" if owed.oldest is None else "delivering"
    return {
        "name": name,
        "state": kind,
        "position": state.position,
        "lag_seconds": lag,
        "dead_letters": owed.dead_letters,
        "failures": state.failures,
        "failing_since": state.failing_since,
        "retry_at": state.retry_at,
        "delivered_at": state.delivered_at,
        "last_error": state.last_error,
    }


def _show_letter(letters: Sequence[DeadLetter], wanted: int) -> int:
    for letter in letters:
        if letter.id == wanted:
            click.echo(letter.body)
            return 0
    click.echo(f"there is no dead letter {wanted}", err=True)
    return 1


def _plain(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.id,
        "message_id": letter.message_id,
        "changes": letter.changes,
        "oldest_at": letter.oldest_at,
        "died_at": letter.died_at,
        "attempts": letter.attempts,
        "error": letter.error,
        "retry": letter.retry,
    }
