"""`smtpproxy serve`, `demo` and `check`: run the relay."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smtpproxy.cli import failing
from smtpproxy.cli.options import command, flag, settings_in
from smtpproxy.cli.printer import Column, Part, Result, Styled, Table
from smtpproxy.events import picked
from smtpproxy.policy.model import Stream
from smtpproxy.settings import FeedbackSettings, ListenerSettings, Settings


@command("serve")
def serve(
    config: Path,
    take_over: bool = flag(
        "Take over the sockets of the relay running with this state_dir, which then ends."
    ),
) -> None:
    """Run the relay until SIGTERM or SIGINT.

    Either signal drains: it accepts no new connections, finishes running transactions, then exits
    with 0. SIGHUP reloads the configuration, as `smtpproxy reload` does.
    """
    from smtpproxy.app import serve
    from smtpproxy.config import load

    settings = settings_in(config, meanwhile="")
    os.environ["SMTPPROXY_CONFIG"] = str(config.resolve())  # for the commands that the relay runs
    sys.exit(serve(settings, lambda: load(config), take_over=take_over))


@command("demo")
def demo(keep: bool = flag("Leave the relay running until Ctrl-C.")) -> None:
    """Run the relay on invented people and show what it lets through, and why.

    Starts a real relay in a temporary directory, with an MTA behind it that keeps what it
    receives; sends mail through it; then stops and removes everything.
    """
    from smtpproxy.demo import run
    from smtpproxy.demo.relay import DemoError

    with failing(DemoError, "the demo stopped: "):
        run(keep=keep)


@command("check")
def check(config: Path) -> Result:
    """Check the configuration, and whether the relay can start.

    Prints every fault as FILE: key.path: what is wrong and what is expected, and exits
    with 2. Without faults, prints a summary and what deserves a second look. Run it as the
    relay's own user: it also checks files, folders and addresses.
    """
    from smtpproxy.config import ConfigError, load
    from smtpproxy.config.brands import without_controller
    from smtpproxy.config.start_checks import check_start
    from smtpproxy.config.warnings import example_values, warnings

    try:
        settings = load(config)
        warned = [*warnings(settings), *check_start(settings, str(config))]
        warned += [*example_values(config), *without_controller(settings)]
    except ConfigError as error:
        found = {"file": str(config), "valid": False, "faults": error.faults}
        return Result(found, error.faults, error.exit_code)
    return Result(_summary(config, settings, warned), _summary_text(config, settings, warned))


def _store(settings: Settings) -> str:
    from smtpproxy.store.closed import without_password  # not for --help

    return without_password(settings.store.url)


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
            picked(listener, "name", "protocol", "streams", "default_stream")
            | {"address": str(listener.address)}
            for listener in settings.listeners
        ],
        "streams": [
            picked(stream, "name", "purpose", "rulebook", "mode") | {"class": stream.class_name}
            for stream in settings.streams.values()
        ],
        "upstream": str(settings.upstream.address),
        "store": _store(settings),
        "web": str(settings.web.address) if settings.web else None,
        "feedback": None if settings.feedback is None else settings.feedback.domain,
        "tokens": [picked(token, "name", "may") for token in settings.tokens],
        "webhooks": [
            picked(hook, "name", "events") | {"deadline_seconds": hook.deadline}
            for hook in settings.webhooks
        ],
        "partners": [partner.name for partner in settings.store.partners],
    }


def _summary_text(config: Path, settings: Settings, warned: list[str]) -> Iterator[Part]:
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
    yield "store", "", _store(settings)
    yield "web", "", str(settings.web.address) if settings.web else "off"
    if settings.feedback is not None:
        yield "feedback", "", _feedback(settings.feedback)
    for token in settings.tokens:
        yield "token", token.name, "may " + ", ".join(sorted(token.may))
    for hook in settings.webhooks:
        hours = f"within {hook.deadline / 3600:g} hours"
        yield "webhook", hook.name, f"receives {', '.join(sorted(hook.events))} {hours}"
    for partner in settings.store.partners:
        yield "partner", partner.name, f"key {partner.key_file}"
    yield "mode", "", f"{settings.policy.mode}, on_mixed {settings.policy.on_mixed}"


def _feedback(feedback: FeedbackSettings) -> str:
    where = "by maildir" if feedback.address is None else f"{feedback.protocol} {feedback.address}"
    believed = "only with a token" if feedback.require_token else "even without one"
    return f"{feedback.domain}, {where}; reports suppress {believed}"


def _streams_of(listener: ListenerSettings) -> str:
    if not listener.streams:
        return "all mail is on the stream default"
    default = listener.default_stream
    text = "streams " + ", ".join(
        f"{name} (by default)" if name == default else name for name in listener.streams
    )
    return text if default else text + "; the header chooses, otherwise the stream default"


def _describe(stream: Stream) -> str:
    words = [stream.class_name]
    if stream.purpose:
        words.append(f"purpose {stream.purpose}")
    words += [f"rulebook {stream.rulebook}", str(stream.mode)]
    if stream.paused:
        words.append("paused")
    return ", ".join(words)
