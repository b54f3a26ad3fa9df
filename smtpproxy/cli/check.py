"""`smtpproxy check`: is the configuration good, and what does it say?"""

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from smtpproxy.cli.common import config_path_option, console, json_option, print_json
from smtpproxy.policy.model import Stream
from smtpproxy.settings import ListenerSettings, Settings


@click.command()
@config_path_option
@json_option
def command(config: Path, as_json: bool) -> int:
    """Check the configuration, and whether the relay can start.

    Prints every fault as FILE: key.path: what is wrong and what would be right, and
    exits with 2. When there is none, prints a summary and what deserves a second look.
    Run it as the user that the relay runs as: it looks at files, folders and addresses too.
    """
    from smtpproxy.config import ConfigError, load
    from smtpproxy.config.example_values import example_values
    from smtpproxy.config.start_checks import check_start
    from smtpproxy.config.warnings import warnings

    try:
        settings = load(config)
        warned = [
            *warnings(settings),
            *check_start(settings, str(config)),
            *example_values(config),
        ]
    except ConfigError as error:
        if as_json:
            print_json({"file": str(config), "valid": False, "faults": error.faults})
        else:
            click.echo("\n".join(error.faults))
        return error.exit_code
    if as_json:
        print_json(_summary(config, settings, warned))
    else:
        _print_summary(config, settings, warned)
    return 0


def _summary(config: Path, settings: Settings, warned: list[str]) -> dict[str, Any]:
    return {
        "file": str(config),
        "valid": True,
        "faults": [],
        "warnings": warned,
        "hash": settings.hash,
        "mode": settings.policy.mode,
        "on_mixed": settings.policy.on_mixed,
        "listeners": [
            {
                "name": listener.name,
                "protocol": listener.protocol,
                "address": str(listener.address),
                "streams": listener.streams,
                "default_stream": listener.default_stream,
            }
            for listener in settings.listeners
        ],
        "streams": [
            {
                "name": stream.name,
                "class": stream.stream_class,
                "purpose": stream.purpose,
                "rulebook": stream.rulebook,
                "mode": stream.mode,
            }
            for stream in settings.streams.values()
        ],
        "upstream": str(settings.upstream.address),
        "store": settings.store.url,
        "web": str(settings.web.address) if settings.web else None,
        "tokens": [{"name": token.name, "may": token.may} for token in settings.tokens],
        "webhooks": [
            {"name": hook.name, "events": hook.events, "deadline_seconds": hook.deadline}
            for hook in settings.webhooks
        ],
        "partners": [partner.name for partner in settings.store.partners],
    }


def _print_summary(config: Path, settings: Settings, warned: list[str]) -> None:
    table = Table.grid(padding=(0, 2))
    for listener in settings.listeners:
        table.add_row("listener", listener.name, f"{listener.protocol} {listener.address}")
        table.add_row("", "", _streams_of(listener))
    for stream in settings.streams.values():
        table.add_row("stream", stream.name, _describe(stream))
    table.add_row("upstream", "", str(settings.upstream.address))
    table.add_row("store", "", settings.store.url)
    table.add_row("web", "", str(settings.web.address) if settings.web else "off")
    for token in settings.tokens:
        table.add_row("token", token.name, "may " + ", ".join(sorted(token.may)))
    for hook in settings.webhooks:
        told = f"told of {', '.join(sorted(hook.events))} within {hook.deadline / 3600:g} hours"
        table.add_row("webhook", hook.name, told)
    for partner in settings.store.partners:
        table.add_row("partner", partner.name, f"key {partner.key_file}")
    table.add_row("mode", "", f"{settings.policy.mode}, on_mixed {settings.policy.on_mixed}")
    console.print(f"{config}: good (hash {settings.hash})", style="green", soft_wrap=True)
    console.print(table)
    for warning in warned:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def _streams_of(listener: ListenerSettings) -> str:
    if not listener.streams:
        return "all mail on the stream default"
    default = listener.default_stream
    text = "streams " + ", ".join(
        f"{name} (by default)" if name == default else name for name in listener.streams
    )
    return text if default else text + "; the header must choose, else the stream default"


def _describe(stream: Stream) -> str:
    words = [str(stream.stream_class)]
    if stream.purpose:
        words.append(f"purpose {stream.purpose}")
    words += [f"rulebook {stream.rulebook}", str(stream.mode)]
    if stream.paused:
        words.append("paused")
    return ", ".join(words)
