"""Runs a transaction to find out what would become of a message; nothing is sent or kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core import effects
from smtpproxy.core.advice import DelegatedTransaction, MilterTransaction
from smtpproxy.core.perform import drive
from smtpproxy.core.recording import Mixed
from smtpproxy.core.relaying import RelayTransaction
from smtpproxy.core.services import SigningKeys, StreamChoice, services_of
from smtpproxy.events import Client, Decided
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.campaign import Campaign
from smtpproxy.policy.model import MessageFeatures, SignatureFinding, Stream
from smtpproxy.relay.content import Body, Content
from smtpproxy.relay.dkim_signing import fitting
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.settings import Settings
from smtpproxy.store.records import FactReader
from smtpproxy.store.sql.stream_counts import StreamCounts
from smtpproxy.wire.commands import Rcpt

NO_ID = "explain"
"""Takes the place of the decision's id in replies."""

_OK = Reply.of(250, "2.0.0", "the mail server would answer this")


class Network(Protocol):
    """What a dry run asks the DNS."""

    async def null_mx(self, addresses: Iterable[str]) -> Mapping[str, bool]: ...

    async def organisations(
        self, stream: Stream, features: MessageFeatures
    ) -> tuple[MessageFeatures, str]: ...

    async def signatures(
        self, headers: HeaderBlock, body: Body | None
    ) -> Sequence[SignatureFinding]: ...


class Question(Struct, frozen=True):
    """A message that would come in by a listener of this protocol.

    It is judged at `now`; with `as_of`, whatever became known later is left out.
    """

    choice: StreamChoice
    protocol: Literal["smtp", "lmtp", "milter", "policy"]
    listener: str
    reverse_path: str
    recipients: tuple[str, ...]  # forward paths
    now: datetime
    as_of: bool = False
    content_refusal: Reply | None = None  # the content exceeds a limit and is not judged


class Answers(Struct, frozen=True):
    """What was decided, in order, and the replies to the message itself, if it was judged."""

    decided: tuple[Decided, ...]
    replies: tuple[Reply, ...]


async def dry_run(
    settings: Settings,
    question: Question,
    content: Content,
    store: FactReader,
    network: Network | None,
    campaigns: StreamCounts | None = None,
) -> Answers:
    """Run the same transaction as the relay would, but with no upstream, store writes or record.

    Without `network` the DNS is not asked; without `campaigns` every campaign is new. Raises
    StoreUnavailable.
    """
    run = _DryRun(question, store, network, campaigns)
    handlers = run.handlers
    services = services_of(
        settings,
        now=lambda: question.now,
        ticks=lambda: 0.0,
        new_id=lambda: NO_ID,
        emit=lambda _: None,
        note_outcome=lambda _: None,
        open_upstream=lambda _: _AcceptingUpstream(),
        links=_NoLinks(),
        return_path=lambda *_: question.reverse_path,
        signing_keys=_signing_keys(settings),
        asks_dns=network is not None,
    )
    client = Client(question.listener, "127.0.0.1", "")
    mixed: Mixed | None = "each" if question.protocol == "lmtp" else None
    choice, rcpts = question.choice, [Rcpt(path) for path in question.recipients]
    if question.protocol == "policy":  # never sees the content
        delegated = DelegatedTransaction(services, client, question.reverse_path, choice)
        for path in question.recipients:
            await drive(delegated.recipient(path), handlers)
        return Answers(tuple(run.decided), ())
    if question.protocol == "milter":
        advised = MilterTransaction(
            services, client, question.reverse_path, choice, refuses_at_rcpt=True, can_delete=True
        )
        for path in question.recipients:
            await drive(advised.recipient(path), handlers)
        if question.content_refusal is not None:
            return Answers(tuple(run.decided), (question.content_refusal,))
        header = content.header()
        text = content.body() if advised.reads_body(header) else None
        advice = await drive(advised.message(header, content.size, "", text), handlers)
        return Answers(tuple(run.decided), (advice.reply or _OK,))
    mail = MailParameters(question.reverse_path)
    relayed = RelayTransaction(services, client, mail, choice, "ESMTP", mixed)
    await drive(relayed.recipients(rcpts), handlers)
    if question.content_refusal is not None:
        return Answers(tuple(run.decided), (question.content_refusal,))
    replies = await drive(relayed.message(content), handlers)
    return Answers(tuple(run.decided), tuple(replies))


class _DryRun:
    """Answers effects without carrying them out."""

    def __init__(
        self,
        question: Question,
        store: FactReader,
        network: Network | None,
        campaigns: StreamCounts | None,
    ) -> None:
        self.decided: list[Decided] = []
        self._question = question
        self._store = store
        self._network = network
        self._campaigns = campaigns
        self.handlers: effects.Handlers = dict.fromkeys(
            effects.Effect.__subclasses__(), self._carry_out
        )

    async def _carry_out(self, effect: effects.Effect[Any]) -> Any:
        match effect:
            case effects.ReadFacts():
                facts = await self._store.facts(effect.lookups)
                if self._question.as_of:
                    now = self._question.now
                    facts = {address: known_at(known, now) for address, known in facts.items()}
                return facts, None
            case effects.WriteRecord():
                self.decided.append(replace(effect.decided, facts=dict(effect.decided.facts)))
            case effects.AskUpstream():
                effect.upstream.accepted.extend(effect.recipients)
                return [_OK] * len(effect.recipients)
            case effects.SendContent():
                return _OK
            case effects.AskDomains() if self._network is not None:
                return await self._network.null_mx(effect.addresses)
            case effects.CheckSignatures() if self._network is not None:
                return await self._network.signatures(effect.headers, effect.body)
            case effects.FindOrganisations() if self._network is not None:
                return await self._network.organisations(effect.stream, effect.features)
            case effects.CountMailing() | effects.AskDomains():
                return {}  # the facts already say what was mailed before
            case effects.CountCampaign() if self._campaigns is not None:
                return await self._campaigns.campaign(effect.key)
            case effects.CountCampaign():
                return Campaign(effect.key)
            case effects.CountText():
                return 0  # nobody knows who else was sent the text
            case effects.Sign():
                return b""
            case effects.FindCopies():
                return frozenset()
            case effects.InThread():
                return effect.work()
            case effects.RunConcurrently():
                for steps in effect.runs():
                    await drive(steps, self.handlers)
        return None


class _AcceptingUpstream:
    """An upstream that accepts everything."""

    def __init__(self) -> None:
        self.accepted: list[Rcpt] = []
        self.in_doubt = False
        self.notifies = True
        self.offers_all = True
        self.is_open = True

    def begin_client_turn(self, on_hold_expired: Callable[[], None]) -> None:
        pass

    def end_client_turn(self) -> None:
        pass

    def refusal_of(self, needs: frozenset[str]) -> Reply | None:
        return None

    def abort(self) -> None:
        self.is_open = False


class _NoLinks:
    """Adds no links, since no recipient's own is made up."""

    def fields(self, stream: Stream, address: str, id: str, *, has_list_id: bool) -> bytes:
        return b""


def _signing_keys(settings: Settings) -> SigningKeys | None:
    if not settings.dkim:
        return None
    return lambda from_domains, stream, at: fitting(settings.dkim, from_domains, stream, at)
