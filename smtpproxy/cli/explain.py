"""`smtpproxy explain`: what would become of a message, or became of one, and why."""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import click
from msgspec.structs import replace

from smtpproxy.cli.common import (
    audit_folder,
    config_option,
    fail,
    json_option,
    moment,
    print_json,
)
from smtpproxy.cli.explanation_text import as_object, print_explanation
from smtpproxy.cli.kept_anchors import anchors_option, read_kept
from smtpproxy.cli.stores import now, using_store
from smtpproxy.intake.replies import content_problem
from smtpproxy.locale.texts import LANGS, Lang
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.path import parse_path, qualified
from smtpproxy.mail.reply import Reply
from smtpproxy.pipeline.closer import without_counting
from smtpproxy.pipeline.explanation import Explanation, Question, explain, recall
from smtpproxy.pipeline.streams import StreamChoice, StreamTable
from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.decide import asks_for_signatures, choose_stream, needs
from smtpproxy.policy.features import read_features
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    NO_FACTS,
    Alignment,
    Facts,
    MessageFeatures,
    Stream,
    Transaction,
    Verdict,
)
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.reader import find
from smtpproxy.sinks.audit.seal import seal
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
        raw = message.read()
        question = _question(settings, raw, mail_from, rcpt, stream, listener)
        if at is None:  # what the DNS said then is not known
            question = _with_organisations(settings, question)
            question = _with_signatures(settings, raw, question)
        facts = _facts(settings, question, at)
        explanation = explain(question, facts, settings.rulebooks, at or now(), lang)
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
) -> Question:
    if b"\r\n" not in raw:
        raw = raw.replace(b"\n", b"\r\n")  # a file on this machine; on the wire it is CRLF
    origin = _origin(settings, listener)
    reverse_path = _reverse_path(mail_from.strip(), origin)
    stream_header, source_header = settings.server.stream_header, settings.source_header
    choice, undeclared = _choice(settings, reverse_path, stream, listener), _undeclared(settings)
    refusal = _content_refusal(settings, raw)
    if refusal is None:
        features = read_features(HeaderBlock(raw), stream_header, source_header)
        features = without_counting(choice, undeclared, features, raw, reverse_path)
    else:
        features = MessageFeatures(malformed=refusal.text)
    return Question(
        choice=choice,
        recipients=tuple(_recipient(settings, address, origin) for address in rcpt),
        reverse_path=reverse_path,
        features=features,
        on_mixed=settings.policy.on_mixed,
        undeclared=undeclared,
        refusal=refusal,
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


def _undeclared(settings: Settings) -> Stream:
    return settings.streams[DEFAULT_STREAM.name]


def _with_organisations(settings: Settings, question: Question) -> Question:
    """Ask the DNS about the organisations of domains where the relay would."""
    choice, features = question.choice, question.features
    stream = choose_stream(choice.permitted, choice.default, features.stream_header)
    if isinstance(stream, Verdict) or stream.alignment is not Alignment.RELAXED:
        return question
    from smtpproxy.cli.dkim_verify import texts
    from smtpproxy.pipeline.organisations import Organisations, with_organisations

    organisations = Organisations(texts(settings, None))
    found, _ = asyncio.run(with_organisations(organisations, stream, features))
    return dataclasses.replace(question, features=found)


def _with_signatures(settings: Settings, raw: bytes, question: Question) -> Question:
    """Ask the DNS about the signatures of the message where the relay would."""
    choice, features = question.choice, question.features
    stream = choose_stream(choice.permitted, choice.default, features.stream_header)
    if isinstance(stream, Verdict) or not asks_for_signatures(stream, features):
        return question
    from smtpproxy.cli.dkim_verify import signatures

    found = signatures(settings, raw, stream, features, now())
    return dataclasses.replace(question, features=found)


def _choice(
    settings: Settings, reverse_path: str, stream: str | None, listener: str | None
) -> StreamChoice:
    if stream is not None:
        if stream not in settings.streams:
            fail(f"no stream {stream!r}; there are {', '.join(settings.streams)}", 2)
        return StreamChoice.of((settings.streams[stream],), settings.streams[stream])
    names = [each.name for each in settings.listeners]
    if listener is not None and listener not in names:
        fail(f"no listener {listener!r}; there are {', '.join(names)}", 2)
    return StreamTable(settings).choice(listener or names[0], reverse_path)


def _origin(settings: Settings, listener: str | None) -> str | None:
    """The domain of addresses without one at the listener."""
    names = {each.name: each.origin for each in settings.listeners}
    return names.get(listener or settings.listeners[0].name)


def _reverse_path(given: str, origin: str | None) -> str:
    try:
        return qualified(parse_path(given), origin) if given else ""
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="'--mail-from'") from error


def _recipient(settings: Settings, given: str, origin: str | None) -> tuple[str, str]:
    """The address as given and its canonical form, as the listener reads a RCPT command."""
    try:
        path = qualified(parse_path(given.strip()), origin)
        return path, canonical(path if "@" in path else f"{path}@{settings.server.hostname}")
    except AddressError as error:
        raise click.BadParameter(str(error), param_hint="'--rcpt'") from error


def _facts(settings: Settings, question: Question, at: datetime | None) -> Facts:
    candidates = question.choice.candidates
    asked = Transaction(candidates, tuple(key for _, key in question.recipients))
    lookups = needs(asked, settings.rulebooks[candidates[0].rulebook])
    facts = using_store(settings, lambda store: store.facts(lookups), read_only=True)
    if at is not None:  # what the DNS said then is not known
        return {address: known_at(known, at) for address, known in facts.items()}
    if settings.policy.check_recipient_domain:
        return asyncio.run(_with_domains(settings, lookups.addresses, facts))
    return facts


async def _with_domains(settings: Settings, addresses: Sequence[str], facts: Facts) -> Facts:
    from smtpproxy.pipeline.recipient_domains import RecipientDomains
    from smtpproxy.resolver import Resolver

    resolver = Resolver(settings.dns, time.monotonic)
    known = await RecipientDomains(resolver, settings.dns.timeout).null_mx(addresses)
    return {
        address: replace(facts.get(address, NO_FACTS), null_mx=known.get(address))
        for address in addresses
    }


def _recorded(settings: Settings, decision_id: str, lang: Lang, kept: Path | None) -> Explanation:
    folder = audit_folder(settings)
    try:
        records = find(folder, decision_id)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--id'") from error
    if not records:
        fail(f"no decision {decision_id} is on record")
    explanation = recall(records, settings.rulebooks, lang)
    return dataclasses.replace(explanation, seal=seal(folder, records, read_kept(kept)))
