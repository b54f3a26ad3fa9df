"""Double opt-in by mail: record the request, mail its link, record the person's yes.

A request is an act that is `pending` and allows nothing. The confirmation is a second act, with
the sentence agreed to, the time, and a keyed hash of the IP address. See docs/consent.md.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.locale import Lang, Phrase, say
from smtpproxy.mail.confirmation_token import PATH, Confirmation
from smtpproxy.policy.model import (
    NO_FACTS,
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Lookups,
    Reason,
    RecipientFacts,
    Source,
    Verdict,
    collected,
)
from smtpproxy.policy.rulebook import DOUBLE_OPT_IN
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.brands import by_collection
from smtpproxy.policy.rules.recipient import restricted, suppressed
from smtpproxy.policy.rules.recipient import source as refused_source
from smtpproxy.settings import Settings
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.records import ContactUpdate
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.web_tables import ConfirmationLimit
from smtpproxy.terminal import few
from smtpproxy.version import VERSION
from smtpproxy.web.confirmation import State
from smtpproxy.web.own_mail import (
    RelayUnavailable,
    Submit,
    Writer,
    brand_title,
    language_for,
    purpose_label,
    send,
)


class ConsentRequest(Struct, frozen=True):
    """Whom to ask to confirm what. The address is canonical."""

    address: str
    purpose: str
    brand: str
    evidence: Evidence = Evidence()  # of the request; its IP address is stored as a keyed hash
    lang: str | None = None  # language of the mail; None: the contact's, or the brand's first
    source: Source | None = None  # how the address was obtained, recorded on confirmation


class Started(Struct, frozen=True):
    """The result of a request: a mail was sent, is not allowed, or not so soon again."""

    state: Literal["sent", "refused", "too_often"]
    reason: Reason | None = None
    detail: str | None = None  # for people


@dataclass(eq=False)
class ConsentByMail:
    """Starts requests and confirms them: the kind `consent` of confirmation links.

    `writer` returns the store to write to. Raises ValueError without `[confirmation]`.
    """

    settings: Settings
    writer: Callable[[], Store]
    submit: Submit
    limit: ConfirmationLimit
    now: Callable[[], datetime]

    def __post_init__(self) -> None:
        self.mails = Writer(self.settings)

    async def start(self, asked: ConsentRequest) -> Started:
        """Record a request and mail its link, unless this person may not be mailed.

        If they may not, or not so soon, nothing is recorded. Raises StoreUnavailable, and
        RelayUnavailable: then the request is recorded, and can be repeated.
        """
        store, now, bounds = self.writer(), self.now(), self.mails.confirmation
        known = (await store.facts(Lookups((asked.address,)))).get(asked.address, NO_FACTS)
        verdict = self._refusal(asked, known, now)
        if verdict is not None:
            return Started("refused", verdict.reason, verdict.detail)
        language = known.contact.language if known.contact else None
        confirmation = Confirmation(
            "consent",
            asked.address,
            asked.brand,
            asked.purpose,
            now,
            now + timedelta(seconds=bounds.valid_for),
            language_for(self.settings, asked.brand, asked.lang, language),
            asked.source,
        )
        # Before anything is recorded, as the keys may be at fault.
        mail = self.mails.mail(confirmation, now)
        if not await self.limit.take(
            asked.address, now, per_address=bounds.max_per_address, per_day=bounds.max_per_day
        ):
            return Started("too_often")
        await store.record_act(asked.address, self._request(asked, now))
        try:
            reply = await send(self.submit, mail)
        except RelayUnavailable as error:
            if error.certain:
                await self.limit.give_back(asked.address, now)
            raise
        if reply.code >= 500:  # the relay may know more by now
            return Started("refused", detail=reply.text)
        return Started("sent")

    def _refusal(
        self, asked: ConsentRequest, known: RecipientFacts, now: datetime
    ) -> Verdict | None:
        """Return why the person may not be asked, by the rulebooks of the purpose.

        The source is the one claimed now, or any on record.
        """
        if asked.source is not None:
            claimed = Collection(self._on_record(asked.brand), asked.source)
            contact = collected(known.contact or Contact(asked.address), (claimed,))
            known = replace(known, contact=contact)
        for case in self._cases(asked.address, asked.brand, asked.purpose, known, now):
            refusals = [_refused(each) for each in by_collection(case)]
            if None not in refusals:
                return refusals[0]
        return None

    def _cases(
        self, address: str, brand: str, purpose: str, known: RecipientFacts, now: datetime
    ) -> Iterable[RecipientCase]:
        """What is judged before somebody is asked for a purpose: one case for each rulebook."""
        some = next(s for s in self.settings.streams.values() if s.confirmation)
        stream = replace(some, brand=brand, purpose=purpose)  # links outlive brands
        books = {s.rulebook for s in self.settings.streams.values() if s.purpose == purpose}
        for name in books or {self.settings.policy.rulebook}:
            yield RecipientCase(address, stream, known, self.settings.rulebooks[name], now)

    async def _is_refused_by_now(self, confirmation: Confirmation) -> bool:
        """Whether suppressions now block all mail that the person would agree to."""
        known = await self.writer().facts(Lookups((confirmation.recipient,)))
        facts = known.get(confirmation.recipient, NO_FACTS)
        cases = self._cases(
            confirmation.recipient, confirmation.brand, confirmation.purpose, facts, self.now()
        )
        return any(suppressed(case) or restricted(case) for case in cases)

    def words(self, confirmation: Confirmation, lang: Lang) -> Mapping[str, str]:
        return {
            "brand": brand_title(self.settings, confirmation.brand),
            "purpose": purpose_label(self.settings, confirmation.purpose, lang),
        }

    async def confirm(
        self, confirmation: Confirmation, client: str, lang: Lang, form: Mapping[str, str]
    ) -> State:
        """Record the person's yes, once.

        `over`: the request is no longer open, was withdrawn, or the person has objected since,
        which no yes overrides.
        """
        # Dated before anything is read: what is suppressed meanwhile outweighs it.
        yes = self._yes(confirmation, self._act(confirmation, client, lang))
        refused = await self._is_refused_by_now(confirmation)
        state: State = "over"

        def once(known: Contact | None) -> ContactUpdate | None:
            nonlocal state
            state = confirmable(known, confirmation)
            return yes if state == "ask" and not refused else None

        done = await self.writer().put_contact(confirmation.recipient, once)
        if done is not None:
            return "done"
        return "over" if state == "ask" else state

    def _yes(self, confirmation: Confirmation, act: ConsentAct) -> ContactUpdate:
        """Return the act with the source, which was not recorded before, because anybody may have
        typed the address."""
        yes = Contact(confirmation.recipient, acts=(act,))
        if confirmation.source is None:
            return ContactUpdate(yes, given=frozenset())
        brand, source = self._on_record(confirmation.brand), Source(confirmation.source)
        return ContactUpdate(replace(yes, source=source, brand=brand), given=frozenset({"source"}))

    def _on_record(self, brand: str) -> str | None:
        """Return the brand as acts record it; None for the built-in one."""
        return brand if brand in self.settings.brand_names else None

    def _request(self, asked: ConsentRequest, now: datetime) -> ConsentAct:
        evidence = replace(asked.evidence, ip=self._keyed(asked.evidence.ip))
        return ConsentAct(
            asked.purpose,
            now,
            method=DOUBLE_OPT_IN,
            evidence=evidence,
            pending=True,
            brand=self._on_record(asked.brand),
        )

    def _act(self, confirmation: Confirmation, client: str, lang: Lang) -> ConsentAct:
        web = self.settings.web
        said = say(
            Phrase(f"confirm.text.ask.{confirmation.kind}", self.words(confirmation, lang)), lang
        )
        evidence = Evidence(
            wording=said,
            version=f"smtpproxy {VERSION} {lang}",
            form=f"{web.public_url if web else ''}{PATH}",
            ip=self._keyed(client),
        )
        return ConsentAct(
            confirmation.purpose,
            self.now(),
            method=DOUBLE_OPT_IN,
            evidence=evidence,
            brand=self._on_record(confirmation.brand),
        )

    def _keyed(self, client: str | None) -> str | None:
        """Return a keyed hash of an IP address, which only a holder of the key can compare.

        Raises StoreMisconfigured.
        """
        if not client:
            return None
        key = load_keys(self.settings.server.state_dir).newest
        return f"hmac:{key.fingerprint}:{key.seal(client)[:32]}"


def _refused(case: RecipientCase) -> Verdict | None:
    """Return a refusal that no confirmation can change; a source may still be recorded."""
    unknown = case.facts.contact is None or case.facts.contact.source is None
    return suppressed(case) or restricted(case) or (None if unknown else refused_source(case))


def brand_of(settings: Settings, asked: str | None) -> str:
    """Return the brand asked for, or the only one. Raises ValueError."""
    if asked is None and len(settings.brands) == 1:
        return next(iter(settings.brands))
    if asked is None or asked not in settings.brands:
        known = few(sorted(settings.brands), asked or "")
        unknown = f"there is no brand {asked!r}; known: {known}"
        raise ValueError(unknown if asked else f"one of {known} is needed")
    return asked


def confirmable(contact: Contact | None, confirmation: Confirmation) -> State:
    """Whether a link still asks (`ask`), was used (`again`), or is of no use (`over`)."""
    if contact is None:
        return "over"
    since = [
        act
        for act in contact.acts
        if act.is_about(confirmation.purpose)
        and act.at >= confirmation.at
        and act.brand in (None, confirmation.brand)
    ]
    if any(act.withdrawal for act in since):
        return "over"
    if confirmation.kind == "consent" and not any(
        a.pending and a.at == confirmation.at for a in since
    ):
        return "over"  # the person was erased meanwhile
    return "again" if any(not act.pending for act in since) else "ask"
