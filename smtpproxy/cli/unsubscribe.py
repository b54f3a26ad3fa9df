"""`smtpproxy unsubscribe`: the keys of the unsubscribe links that the relay adds."""

from collections.abc import Mapping

import click

from smtpproxy.cli.common import config_option, fail
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.stores import now
from smtpproxy.settings import Settings
from smtpproxy.store.key_files import (
    LINK_KEY_FILE,
    LinkKey,
    add_link_key,
    ensure_link_keys,
    load_link_keys,
)


@click.group()
def command() -> None:
    """The keys of unsubscribe links (unsubscribe = "add")."""


@command.command("keys")
@config_option
@json_option
def keys(settings: Settings, as_json: bool) -> None:
    """Tell which keys there are; new links are sealed under the newest."""
    state_dir = settings.server.state_dir
    if not settings.adds_ways_out and not (state_dir / LINK_KEY_FILE).exists():
        fail('there is no key: no stream has unsubscribe = "add"')
    _tell(load_link_keys(state_dir), as_json=as_json)


@command.command("rekey")
@config_option
@json_option
def rekey(settings: Settings, as_json: bool) -> None:
    """Make a new key for the links of messages to come.

    The relay seals links under it when it is started again. The older keys stay, and with
    them every link that was sent: keep them for as long as links have to work, which is
    years. Back up unsubscribe.key before and after.
    """
    state_dir, today = settings.server.state_dir, now().date()
    if not ensure_link_keys(state_dir, today):
        add_link_key(state_dir, today)
    _tell(load_link_keys(state_dir), as_json=as_json)


def _tell(found: Mapping[int, LinkKey], *, as_json: bool) -> None:
    newest = max(found)
    if as_json:
        made = [{"version": key.version, "made": key.made.isoformat()} for key in found.values()]
        print_json({"newest": newest, "keys": made})
        return
    for key in found.values():
        use = "seals new links" if key.version == newest else "reads the links of its time"
        click.echo(f"key {key.version}, made {key.made.isoformat()}: {use}")
