"""`smtpproxy init`: a first configuration, from answers and from what the machine shows."""

import asyncio
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from smtpproxy.cli import fail
from smtpproxy.cli.options import Options, choice, command, flag, option, several
from smtpproxy.cli.printer import Part, Result, Styled, print_text
from smtpproxy.cli.prompter import Prompter
from smtpproxy.disk import exists
from smtpproxy.settings.mail import UNIT_STATE
from smtpproxy.setup.answers import Answers, Route
from smtpproxy.setup.files import UNIT_COMMAND

if TYPE_CHECKING:
    from smtpproxy.setup.files import File
    from smtpproxy.setup.machine import Machine, Names
    from smtpproxy.setup.steps import Step

PATIENCE = 5.0
"""Seconds for Postfix to report its configuration, and for the DNS to answer all questions."""


class InitOptions(Options, frozen=True):
    """The answers; None, or empty, for what is to be asked."""

    hostname: str | None = option("The relay's own name, as other servers see it.", metavar="NAME")
    route: Annotated[str, choice(Route)] | None = option(
        "How mail gets to smtpproxy (docs/deploy)."
    )
    upstream: str | None = option("Where the MTA behind smtpproxy listens.", metavar="ADDRESS")
    listen: str | None = option("Where smtpproxy listens.", metavar="ADDRESS")
    brand: tuple[str, ...] = several(
        "The short name of a brand that writes to people.", metavar="NAME"
    )
    legal_name: tuple[str, ...] = several(
        "The legal name of whoever is responsible for a brand's mail.", metavar="[BRAND=]TEXT"
    )
    postal_address: tuple[str, ...] = several(
        "The postal address of a brand.", metavar="[BRAND=]TEXT"
    )
    help_address: tuple[str, ...] = several(
        "The address where people reach a person.", metavar="[BRAND=]ADDRESS"
    )
    from_domain: tuple[str, ...] = several("A From domain of a brand.", metavar="[BRAND=]DOMAIN")
    rulebook: str | None = option("The rulebook, by country (docs/rulebooks.md).", metavar="NAME")
    marketing: tuple[str, ...] = several(
        "A stream of mail that needs a basis, such as offers.", metavar="[BRAND=]STREAM"
    )
    transactional: tuple[str, ...] = several(
        "A stream of mail that people need, such as receipts.", metavar="[BRAND=]STREAM"
    )
    purpose: tuple[str, ...] = several(
        "What people consent to on a marketing stream (default: its name).",
        metavar="[STREAM=]PURPOSE",
    )
    product: tuple[str, ...] = several(
        "A product that the stream advertises, for buyers of similar products.",
        metavar="[STREAM=]TEXT",
    )
    public_url: str | None = option(
        "The web address of the unsubscribe pages; without it, applications add their own links.",
        metavar="URL",
    )
    selector: str | None = option(
        "Make DKIM keys to be published under this name; - for none.", metavar="NAME"
    )
    web: str | None = option("Where metrics and pages are served.", metavar="ADDRESS")
    state_dir: str = option("Where the relay keeps its data.", metavar="DIR", default=UNIT_STATE)
    nameserver: tuple[str, ...] = several(
        "A name server to ask instead of the system's.", metavar="ADDRESS"
    )
    yes: bool = flag("Accept the proposals without asking.")


@command("init")
def init(config: Path, options: InitOptions) -> Result:
    """Write a first configuration, and the files that go with it.

    Asks for what no option gives, with proposals from the machine: its Postfix, its open ports,
    the DNS. Writes the configuration, which starts in observe mode, DKIM keys, and beside it in
    install/ the lines for Postfix, the drop-in for systemd and the records to publish. Never
    overwrites a file, and changes nothing else.
    """
    from smtpproxy.cli.init_questions import questions
    from smtpproxy.config import ConfigError, parse
    from smtpproxy.setup.files import OWNER, Machinery, already_existing, files, secrets, write
    from smtpproxy.setup.machine import look
    from smtpproxy.setup.steps import steps

    config = config.absolute()
    _must_not_exist([config] if exists(config) or config.is_symlink() else [])
    now = datetime.now(UTC)
    machine = asyncio.run(look(PATIENCE))
    prompter = Prompter(on_terminal=sys.stdin.isatty(), accept=options.yes)
    if prompter.interactive:
        intro = "Enter accepts what is in brackets; Ctrl-C ends without writing anything."
        print_text([intro, *machine.notes], err=True)
    answers = questions(options, machine, prompter, now.year, PATIENCE)
    names = asyncio.run(_names(answers))
    machinery = Machinery(config, _command(), now.date(), machine.postfix, names.addresses)
    planned = files(answers, machinery)
    try:
        parse(planned[0].content.decode(), str(config))
    except ConfigError as error:
        fail("\n".join(["this configuration would not be valid:", *error.faults]), 2)
    _must_not_exist(already_existing(planned))
    try:
        given = write(planned, answers.state_dir)
    except FileExistsError as error:
        _must_not_exist([Path(error.filename)])
    notes = [*machine.notes, *_replaced(answers, machine), *names.notes]
    if not given:
        own = shlex.join(str(path) for path in (answers.state_dir, *secrets(planned)))
        notes.append(f"there is no user {OWNER} yet; once it exists, run: chown {OWNER}: {own}")
    return _result(planned, notes, steps(answers, config, planned, has_unit=_has_unit()))


def _must_not_exist(existing: Sequence[Path]) -> None:
    if existing:
        exist = "already exists" if len(existing) == 1 else "already exist"
        fail(
            f"{', '.join(map(str, existing))} {exist}: nothing was written, as nothing is ever"
            " overwritten; move it away, or choose another place with --config"
        )


async def _names(answers: Answers) -> "Names":
    """Ask the DNS about every name in the answers."""
    from smtpproxy.resolver import Resolver
    from smtpproxy.settings import DnsSettings
    from smtpproxy.setup.machine import ask_dns

    resolver = Resolver(DnsSettings(answers.nameservers, PATIENCE), time.monotonic)
    web = urlsplit(answers.public_url).hostname if answers.public_url else None
    return await ask_dns(answers.hostname, answers.domains, web, resolver.lookup, PATIENCE)


def _has_unit() -> bool:
    folders = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
    return any(exists(Path(folder, "smtpproxy.service")) for folder in folders)


def _command() -> Path:
    """Return the command for a service to start: the unit's, or this environment's."""
    beside = Path(sys.executable).parent / "smtpproxy"
    if exists(UNIT_COMMAND) or not exists(beside):
        return UNIT_COMMAND
    return Path(shutil.which(beside) or UNIT_COMMAND)


def _replaced(answers: Answers, machine: "Machine") -> Iterator[str]:
    """Yield a note if the lines for Postfix replace a setting."""
    taken = {Route.AFTER_QUEUE: "content_filter", Route.RELAYHOST: "relayhost"}
    name = taken.get(answers.route, "")
    if machine.postfix.get(name):
        yield f"install/main.cf replaces {name} = {machine.postfix[name]} of Postfix"


def _result(planned: "Sequence[File]", notes: Sequence[str], next: "Sequence[Step]") -> Result:
    data = {
        "files": [str(file.path) for file in planned],
        "mode": "observe",
        "notes": notes,
        "next": [{"do": step.do, "commands": step.commands} for step in next],
    }

    def text() -> Iterator[Part]:
        for file in planned:
            yield Styled(f"written: {file.path}", "green")
        for note in notes:
            yield Styled(f"note: {note}", "yellow")
        for number, step in enumerate(next, 1):
            yield ""
            yield Styled(f"{number}. {step.do}", "bold")
            yield from (f"   {command}" for command in step.commands)

    return Result(data, text())
