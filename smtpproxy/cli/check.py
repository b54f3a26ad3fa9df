"""`smtpproxy check`: is the configuration good, and what does it say?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from smtpproxy.cli.common import config_path_option
from smtpproxy.cli.printer import Column, Part, Result, Styled, Table, shows_result
from smtpproxy.policy.model import Stream
from smtpproxy.settings import ListenerSettings, Settings


@click.command()
@config_path_option
@shows_result
def command(config: Path) -> Result:
    """Check the configuration, and whether the relay can start.

    Prints every fault as FILE: key.path: what is wrong and what would be right, and
    exits with 2. When there is none, prints a summary and what deserves a second look.
    Run it as the user that the relay runs as: it looks at files, folders and addresses too.
    """
    from smtpproxy.config import ConfigError, load
    from smtpproxy.config.start_checks import check_start
    from smtpproxy.config.warnings import example_values, warnings

    try:
        settings = load(config)
        warned = [
            *warnings(settings),
            *check_start(settings, str(config)),
            *example_values(config),
        ]
    except ConfigError as error:
        found = {"file": str(config), "valid": False, "faults": error.faults}
        return Result(found, error.faults, error.exit_code)
    return Result(_summary(config, settings, warned), _text(config, settings, warned))


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


def _text(config: Path, settings: Settings, warned: list[str]) -> Iterator[Part]:
    yield Styled(f"{config}: good (hash {settings.hash})", "green")
    yield Table([Column(), Column(), Column(prose=True)], list(_rows(settings)))
    for warning in warned:
        yield Styled(f"warning: {warning}", "yellow")


def _rows(settings: Settings) -> Iterator[tuple[str, str, str]]:
    for listener in settings.listeners:
        yield "listener", listener.name, f"{listener.protocol} {listener.address}"
        yield "", "", _streams_of(listener)
    for stream in settings.streams.values():
        yield "stream", stream.name, _describe(stream)
    yield "upstream", "", str(settings.upstream.address)
    yield "store", "", settings.store.url
    yield "web", "", str(settings.web.address) if settings.web else "off"
    for token in settings.tokens:
        yield "token", token.name, "may " + ", ".join(sorted(token.may))
    for hook in settings.webhooks:
        hours = f"within {hook.deadline / 3600:g} hours"
        yield "webhook", hook.name, f"told of {', '.join(sorted(hook.events))} {hours}"
    for partner in settings.store.partners:
        yield "partner", partner.name, f"key {partner.key_file}"
    yield "mode", "", f"{settings.policy.mode}, on_mixed {settings.policy.on_mixed}"


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
