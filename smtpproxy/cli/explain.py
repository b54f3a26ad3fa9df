"""`smtpproxy explain`: what would happen to a message, or did happen, and why."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO, Annotated, Any, BinaryIO

import click
from msgspec import structs

from smtpproxy.cli import fail, unknown, valid_parameter
from smtpproxy.cli.explanation_text import as_object, text
from smtpproxy.cli.journals import (
    ANCHORS,
    COPIES,
    elsewhere,
    find_records,
    journals,
    read_kept,
    record_place,
)
from smtpproxy.cli.options import (
    ExistingFile,
    ExistingFolder,
    Language,
    MessageFile,
    Moment,
    Options,
    argument,
    command,
    option,
    several,
)
from smtpproxy.cli.printer import Result
from smtpproxy.cli.stores import is_past, read_store
from smtpproxy.clock import now
from smtpproxy.core.dry_run import Answers, Question, dry_run
from smtpproxy.core.explanation import Explanation, recall
from smtpproxy.core.explanation import explain as explained
from smtpproxy.core.perform import UNSUBSCRIBE
from smtpproxy.core.services import StreamChoice, StreamTable
from smtpproxy.disk import exists
from smtpproxy.intake.replies import content_problem
from smtpproxy.locale import Lang
from smtpproxy.mail.address import canonical, parse_path, qualified
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import MessageFeatures, SignatureFinding, Stream
from smtpproxy.relay.content import Body, Content, Spool
from smtpproxy.settings import ListenerSettings, Settings
from smtpproxy.sinks.audit.verify import seal
from smtpproxy.store import open_stream_counts
from smtpproxy.store.journals import IndexQuery
from smtpproxy.store.records import FactReader
from smtpproxy.terminal import printable
from smtpproxy.wire.content import HeaderCounter, stuffed
from smtpproxy.wire.session import ContentProblem, HeaderLimits


class ExplainOptions(Options, frozen=True):
    """The message or the decision to explain."""

    mail_from: str | None = option("The reverse path; empty for the null path.", metavar="ADDRESS")
    rcpt: tuple[str, ...] = several("A recipient.", metavar="ADDRESS")
    stream: str | None = option(
        "Judge on this stream, whether or not the client may use it.", metavar="NAME"
    )
    listener: str | None = option(
        "The listener it arrives at (default: the first).", metavar="NAME"
    )
    at: Moment | None = option("Judge as of TIME.")
    decision_id: str | None = option(
        "Explain a recorded decision instead.", name="--id", metavar="ID"
    )
    lang: Language = option("The language of the explanation.", default="en")

    @property
    def is_about_a_message(self) -> bool:
        asked = (self.stream, self.listener, self.at)
        return self.mail_from is not None or bool(self.rcpt) or any(asked)


class _Message(MessageFile):
    """A file with a message, for someone who may rather have wanted to ask about a person."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IO[Any]:
        if isinstance(value, str) and "@" in value and not exists(Path(value)):
            self.fail(
                f"{value!r} is an address, not a file: smtpproxy audit show --recipient ADDRESS"
                " lists the decisions about one, and explain --id ID explains each",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


@command("explain")
def explain(
    settings: Settings,
    options: ExplainOptions,
    message: Annotated[BinaryIO, _Message("rb")] | None = argument(metavar="[MESSAGE.eml]"),
    kept: ExistingFile | None = ANCHORS,
    shipped: ExistingFolder | None = COPIES,
) -> Result:
    """Explain in plain words what would happen to a message, and why.

    Judges MESSAGE.eml (- for standard input) as the running relay would: same streams,
    same rules, same store. Sends nothing and records nothing. Exits with 0 when everybody
    would be mailed and 1 when anybody would not.

    With --at, only what was known by then counts. With --id, explains a decision in the audit
    log and says what proves it; the id is in the SMTP reply and in the Received field.
    """
    if options.decision_id is not None:
        if message is not None or options.is_about_a_message:
            raise click.UsageError("--id takes no message and no options about one")
        explanation = _recorded(settings, options.decision_id, options.lang, kept, shipped)
    else:
        if kept is not None or shipped is not None:
            raise click.UsageError("--anchors and --from need --id")
        if message is None or options.mail_from is None or not options.rcpt:
            raise click.UsageError("give MESSAGE.eml with --mail-from and --rcpt, or give --id")
        raw = _on_the_wire(message.read(settings.server.data_size_limit + 1))
        question = _question(settings, raw, options.mail_from, options)
        answers = _answers(settings, question, raw, at_present=options.at is None)
        explanation = explained(question, answers, settings.rulebooks, options.lang)
    return Result(as_object(explanation), text(explanation), 0 if explanation.allowed else 1)


def _question(settings: Settings, raw: bytes, mail_from: str, options: ExplainOptions) -> Question:
    where = _listener(settings, options.listener)
    reverse_path = _reverse_path(mail_from.strip(), where.origin)
    return Question(
        choice=_choice(settings, reverse_path, options.stream, where.name),
        protocol=where.protocol,
        listener=where.name,
        reverse_path=reverse_path,
        recipients=tuple(_recipient(settings, address, where.origin) for address in options.rcpt),
        now=options.at or now(),
        as_of=is_past(options.at),
        content_refusal=_content_refusal(settings, raw),
    )


def _content_refusal(settings: Settings, raw: bytes) -> Reply | None:
    """Return the relay's reply to a message too large to be judged."""
    server = settings.server
    limits = HeaderLimits(server.header_size_limit, server.max_header_fields)
    count = HeaderCounter(limits)
    count.feed(raw)
    problem = count.problem
    if len(raw) > server.data_size_limit:
        problem = ContentProblem.TOO_LARGE
    return None if problem is None else content_problem(problem, limits)


def _answers(settings: Settings, question: Question, raw: bytes, *, at_present: bool) -> Answers:
    """Ask the store, and the DNS where the relay would. Its past answers are not known."""
    content = Content(Spool(settings.server.state_dir, sys.maxsize))
    content.append(stuffed(raw))

    async def ask(store: FactReader) -> Answers:
        if not at_present:
            return await dry_run(settings, question, content, store, None)
        campaigns = open_stream_counts(settings.store, read_only=True)
        with ThreadPoolExecutor(1) as threads, closing(campaigns):
            network = _Dns(settings, threads)
            return await dry_run(settings, question, content, store, network, campaigns)

    return read_store(settings, ask)


def _on_the_wire(raw: bytes) -> bytes:
    """Return the content with CRLF: a file without any is taken to end its lines in LF."""
    if b"\r\n" not in raw:
        raw = raw.replace(b"\n", b"\r\n")
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


class _Dns:
    """The lookups that a relay would make for one message."""

    def __init__(self, settings: Settings, threads: ThreadPoolExecutor) -> None:
        self._settings = settings
        self._threads = threads

    async def null_mx(self, addresses: Iterable[str]) -> Mapping[str, bool]:
        from smtpproxy.core.domains import RecipientDomains
        from smtpproxy.resolver import Resolver

        dns = self._settings.dns
        return await RecipientDomains(Resolver(dns, time.monotonic), dns.timeout).null_mx(addresses)

    async def organisations(
        self, stream: Stream, features: MessageFeatures
    ) -> tuple[MessageFeatures, str]:
        from smtpproxy.cli.dkim import texts
        from smtpproxy.core.domains import Organisations, with_organisations

        return await with_organisations(
            Organisations(texts(self._settings, None)), stream, features
        )

    async def signatures(
        self, headers: HeaderBlock, body: Body | None
    ) -> Sequence[SignatureFinding]:
        from smtpproxy.cli.dkim import texts
        from smtpproxy.relay.dkim_verifying import Verifier

        verifier = Verifier(texts(self._settings, None), self._threads, time.time)
        return await verifier.check(headers, body, UNSUBSCRIBE)


def _listener(settings: Settings, name: str | None) -> ListenerSettings:
    for listener in settings.listeners:
        if name is None or listener.name == name:
            return listener
    return unknown("listener", name or "", (one.name for one in settings.listeners), "--listener")


def _choice(
    settings: Settings, reverse_path: str, stream: str | None, listener: str
) -> StreamChoice:
    if stream is not None:
        if stream not in settings.streams:
            unknown("stream", stream, settings.streams, "--stream")
        return StreamChoice.of((settings.streams[stream],), settings.streams[stream])
    return StreamTable(settings).choice(listener, reverse_path)


def _reverse_path(given: str, origin: str | None) -> str:
    with valid_parameter("'--mail-from'"):
        return qualified(parse_path(given), origin) if given else ""


def _recipient(settings: Settings, given: str, origin: str | None) -> str:
    """Return the forward path as the listener would read it in a RCPT command."""
    with valid_parameter("'--rcpt'"):
        path = qualified(parse_path(given.strip()), origin)
        canonical(path if "@" in path else f"{path}@{settings.server.hostname}")
    return path


def _recorded(
    settings: Settings, decision_id: str, lang: Lang, kept: Path | None, shipped: Path | None
) -> Explanation:
    with valid_parameter("'--id'"):
        records = find_records(journals(settings, shipped), decision_id)
    if not records:
        others = () if shipped else elsewhere(settings, IndexQuery(id=decision_id.upper()), 1)
        if others:
            place = record_place(others[0])
            fail(f"decision {others[0].id} is {place}: run this there, or see --from")
        fail(f"no decision {printable(decision_id)} is on record")
    decided = [record for _, record in records]
    listener = decided[0].decided.client.listener
    for_each = any(one.name == listener and one.protocol == "lmtp" for one in settings.listeners)
    explanation = recall(decided, settings.rulebooks, lang, reply_for_each=for_each)
    proof = seal(records[0][0].folder, decided, read_kept(kept))
    return structs.replace(explanation, seal=proof)
