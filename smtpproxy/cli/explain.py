"""`smtpproxy explain`: what would become of a message, or became of one, and why."""

import dataclasses
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import click

from smtpproxy.cli.common import audit_folder, config_option, fail, moment
from smtpproxy.cli.explanation_text import as_object, print_explanation
from smtpproxy.cli.kept_anchors import anchors_option, read_kept
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.cli.stores import now, using_store
from smtpproxy.core.dry_run import Answers, FactSource, Question, would_become
from smtpproxy.core.explanation import Explanation, explain, recall
from smtpproxy.core.streams import StreamChoice, StreamTable
from smtpproxy.intake.replies import content_problem
from smtpproxy.locale.texts import LANGS, Lang
from smtpproxy.mail.address import AddressError, canonical, parse_path, qualified
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import MessageFeatures, SignatureFinding, Stream
from smtpproxy.relay.content import Body, Content, Spool
from smtpproxy.settings import ListenerSettings, Settings
from smtpproxy.sinks.audit.reader import find
from smtpproxy.sinks.audit.verify import seal
from smtpproxy.terminal import printable
from smtpproxy.wire.content import stuffed
from smtpproxy.wire.events import ContentProblem
from smtpproxy.wire.incoming import HeaderCount, HeaderLimits


@click.command()
@click.argument("message", type=click.File("rb"), required=False, metavar="[MESSAGE.eml]")
@click.option("--mail-from", metavar="ADDRESS", help="Reverse path; empty for the null path.")
@click.option("--rcpt", multiple=True, metavar="ADDRESS", help="A recipient; give any number.")
@click.option("--stream", metavar="NAME", help="Judge on this stream, whoever may use it.")
@click.option("--listener", metavar="NAME", help="Where it would come in; the first, if not said.")
@click.option("--at", type=moment, metavar="TIME", help="Judge as of that moment.")
@click.option("--id", "decision_id", metavar="ID", help="Explain a recorded decision instead.")
@click.option(
    "--lang",
    type=click.Choice(LANGS),
    default="en",
    show_default=True,
    help="The language of the explanation.",
)
@anchors_option
@json_option
@config_option
def command(
    settings: Settings,
    message: BinaryIO | None,
    mail_from: str | None,
    rcpt: tuple[str, ...],
    stream: str | None,
    listener: str | None,
    at: datetime | None,
    decision_id: str | None,
    lang: Lang,
    kept: Path | None,
    as_json: bool,
) -> int:
    """Say in plain words what would become of a message, and why.

    Judges MESSAGE.eml (- for standard input) as the running relay would: same streams,
    same rules, same store. Sends nothing and records nothing. Exits with 0 when everybody
    would be mailed and 1 when anybody would not.

    With --at, only what was known by that moment counts. With --id, explains a decision
    of the audit log, and says what proves it: the id is in the SMTP reply and in the Received
    field.
    """
    if decision_id is not None:
        if message is not None or mail_from is not None or rcpt or stream or listener or at:
            raise click.UsageError("--id goes without a message and without other options")
        explanation = _recorded(settings, decision_id, lang, kept)
    else:
        if kept is not None:
            raise click.UsageError("--anchors goes with --id")
        if message is None or mail_from is None or not rcpt:
            raise click.UsageError("give MESSAGE.eml, --mail-from and --rcpt, or --id")
        raw = _on_the_wire(message.read())
        question = _question(settings, raw, mail_from, rcpt, stream, listener, at)
        answers = _answers(settings, question, raw)
        explanation = explain(question, answers, settings.rulebooks, lang)
    if as_json:
        print_json(as_object(explanation))
    else:
        print_explanation(explanation)
    return 0 if explanation.allowed else 1


def _question(
    settings: Settings,
    raw: bytes,
    mail_from: str,
    rcpt: Sequence[str],
    stream: str | None,
    listener: str | None,
    at: datetime | None,
) -> Question:
    where = _listener(settings, listener)
    reverse_path = _reverse_path(mail_from.strip(), where.origin)
    return Question(
        choice=_choice(settings, reverse_path, stream, where.name),
        protocol=where.protocol,
        listener=where.name,
        reverse_path=reverse_path,
        recipients=tuple(_recipient(settings, address, where.origin) for address in rcpt),
        now=at or now(),
        as_of=at is not None,
        content_refusal=_content_refusal(settings, raw),
    )


def _content_refusal(settings: Settings, raw: bytes) -> Reply | None:
    """The relay's answer to a message that is too large to be judged."""
    server = settings.server
    limits = HeaderLimits(server.header_size_limit, server.max_header_fields)
    count = HeaderCount(limits)
    count.feed(raw)
    problem = count.problem
    if len(raw) > server.data_size_limit:
        problem = ContentProblem.TOO_LARGE
    return None if problem is None else content_problem(problem, limits)


def _answers(settings: Settings, question: Question, raw: bytes) -> Answers:
    """Ask the store, and the DNS where the relay would; what that said in the past is not known."""
    content = Content(Spool(settings.server.state_dir, sys.maxsize))
    content.append(stuffed(raw))

    async def ask(store: FactSource) -> Answers:
        if question.as_of:
            return await would_become(settings, question, content, store, None)
        with ThreadPoolExecutor(1) as threads:
            network = _Dns(settings, threads)
            return await would_become(settings, question, content, store, network)

    return using_store(settings, ask, read_only=True, or_empty=True)


def _on_the_wire(raw: bytes) -> bytes:
    """A file of this machine has LF where SMTP has CRLF; one that has both is as it is."""
    if b"\r\n" not in raw:
        raw = raw.replace(b"\n", b"\r\n")
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


class _Dns:
    """The lookups of a relay, for one message."""

    def __init__(self, settings: Settings, threads: ThreadPoolExecutor) -> None:
        self._settings = settings
        self._threads = threads

    async def null_mx(self, addresses: Iterable[str]) -> Mapping[str, bool]:
        from smtpproxy.core.recipient_domains import RecipientDomains
        from smtpproxy.resolver import Resolver

        dns = self._settings.dns
        return await RecipientDomains(Resolver(dns, time.monotonic), dns.timeout).null_mx(addresses)

    async def organisations(
        self, stream: Stream, features: MessageFeatures
    ) -> tuple[MessageFeatures, str]:
        from smtpproxy.cli.dkim_verify import texts
        from smtpproxy.core.organisations import Organisations, with_organisations

        return await with_organisations(
            Organisations(texts(self._settings, None)), stream, features
        )

    async def signatures(
        self, headers: HeaderBlock, body: Body | None
    ) -> Sequence[SignatureFinding]:
        from smtpproxy.cli.dkim_verify import found_signatures

        return await found_signatures(self._settings, headers, body, self._threads)


def _listener(settings: Settings, name: str | None) -> ListenerSettings:
    for listener in settings.listeners:
        if name is None or listener.name == name:
            return listener
    names = ", ".join(listener.name for listener in settings.listeners)
    return fail(f"no listener {name!r}; there are {names}", 2)


def _choice(
    settings: Settings, reverse_path: str, stream: str | None, listener: str
) -> StreamChoice:
    if stream is not None:
        if stream not in settings.streams:
            fail(f"no stream {stream!r}; there are {', '.join(settings.streams)}", 2)
        return StreamChoice.of((settings.streams[stream],), settings.streams[stream])
    return StreamTable(settings).choice(listener, reverse_path)


def _reverse_path(given: str, origin: str | None) -> str:
    try:
        return qualified(parse_path(given), origin) if given else ""
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="'--mail-from'") from error


def _recipient(settings: Settings, given: str, origin: str | None) -> str:
    """The forward path, as the listener reads it in a RCPT command."""
    try:
        path = qualified(parse_path(given.strip()), origin)
        canonical(path if "@" in path else f"{path}@{settings.server.hostname}")
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="'--rcpt'") from error
    return path


def _recorded(settings: Settings, decision_id: str, lang: Lang, kept: Path | None) -> Explanation:
    folder = audit_folder(settings)
    try:
        records = find(folder, decision_id)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--id'") from error
    if not records:
        fail(f"no decision {printable(decision_id)} is on record")
    explanation = recall(records, settings.rulebooks, lang)
    return dataclasses.replace(explanation, seal=seal(folder, records, read_kept(kept)))
