"""What a brand's controller stores about a person, in words for that person."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from smtpproxy.locale import PAGE_LANGS, Lang, Phrase, Value, say, texts
from smtpproxy.policy.contact import Collection, collections
from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    ConsentAct,
    Contact,
    Frequency,
    RecipientFacts,
    Suppression,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.recipient import TRACKING
from smtpproxy.store.merge import wanted
from smtpproxy.store.operations import Rectification
from smtpproxy.terminal import printable
from smtpproxy.web.look import Look


class Stored(Struct, frozen=True):
    """What the store has about one address."""

    address: str
    contact: Contact | None
    suppressions: Sequence[Suppression]
    corrections: Sequence[Rectification] = ()


class Known:
    """Describes what is stored to the person, limited to the brands of one controller."""

    def __init__(self, stored: Stored, look: Look, lang: Lang) -> None:
        self._stored = stored
        self._look = look
        self._lang = lang
        own = [name for name, _ in look.siblings]
        self.brands: frozenset[str | None] = frozenset({None, BUILT_IN_BRAND, *own})
        """The controller's brands, as the record names them."""

    def lines(self) -> list[tuple[str, list[str]]]:
        """Return what is stored as names with their values, all safe to show."""
        found: dict[str, list[str]] = {}
        for name, text in self._facts():
            found.setdefault(self._say(name), []).append(text)
        return list(found.items())

    def collections(self) -> list[Collection]:
        """Return how these brands obtained the address, the newest first."""
        contact = self._stored.contact
        ways = collections(contact) if contact else ()
        return [way for way in ways if way.brand in self.brands]

    def wishes(self, now: datetime) -> dict[str, str]:
        """Return how often the person wants mail, by the brand's purposes; `none`: stopped."""
        return {purpose: self._wish(purpose, now) for purpose in self._look.labels}

    def _wish(self, purpose: str, now: datetime) -> str:
        """Return `none` if the rules stop all mail of the purpose for what the person said."""
        stored, look = self._stored, self._look
        facts = RecipientFacts(tuple(stored.suppressions), stored.contact)
        verdicts = [
            judge_recipient(RecipientCase(stored.address, stream, facts, rulebook, now))
            for stream, rulebook in look.marketing
            if stream.purpose == purpose
        ]
        if all(verdict.rule in ("suppression", "withdrawn") for verdict in verdicts):
            return "none"
        return str(wanted(stored.contact, purpose, look.brand) or Frequency.ALL)

    def tracking(self) -> list[str | None]:
        """Return the brands, as acts name them, that may track when the person opens a message."""
        contact = self._stored.contact
        acts = [act for act in contact.acts if act.is_about(TRACKING)] if contact else []
        agreed = {act.brand for act in acts if not act.withdrawal} & self.brands
        return sorted(
            filter(lambda brand: _holds(acts, brand), agreed), key=lambda each: each or ""
        )

    def _facts(self) -> Iterator[tuple[str, str]]:
        contact = self._stored.contact
        yield "address", printable(self._stored.address)
        if contact is not None:
            yield "language", language_name(contact.language) or self._say("not_on_record")
            for collection in self.collections():
                yield from self._collection(collection)
            for name in ("first_contacted_at", "profiling_objected_at"):
                if (at := getattr(contact, name)) is not None:
                    yield name, self._date(at)
            if contact.tags:
                yield "tags", printable(", ".join(sorted(contact.tags)))
            for purchase in contact.purchases:
                if purchase.brand in self.brands:
                    yield "purchases", f"{printable(purchase.product)}, {self._date(purchase.at)}"
            for act in contact.acts:
                if act.brand in self.brands:
                    yield "consents", self._act(act)
            for wish in contact.preferences:
                if wish.brand in self.brands:
                    often = self._word(f"often.{wish.frequency}")
                    label = self._label(wish.purpose, wish.brand)
                    yield "preferences", self._say("pair", what=label, text=often)
        for one in self._stored.suppressions:
            if (what := self._stopped(one.scope)) and one.domain is None and one.read_as is None:
                why = self._word(f"why.{one.origin}")
                yield "stopped", self._say("since", what=what, at=one.since, why=why)
        for correction in self._stored.corrections:
            for change in correction.changes:
                field = "supplier" if change.field == "provenance" else change.field
                what = f"{self._date(correction.at)}, {self._say(field)}"
                before, after = [
                    self._value(change.field, text) for text in (change.before, change.after)
                ]
                yield "corrected", self._say("pair", what=what, text=f"{before} → {after}")

    def _collection(self, one: Collection) -> Iterator[tuple[str, str]]:
        yield "audience", self._word(f"audience.{one.audience}")
        if one.occupations:
            yield "occupations", printable(", ".join(sorted(one.occupations)))
        yield "source", self._word(f"source.{one.source or 'unknown'}")
        if one.provenance is not None:
            hands = [*(link.supplier for link in one.provenance.chain), one.provenance.supplier]
            yield "supplier", printable(" → ".join([hand for hand in hands if hand]) or "?")
        if one.collected_at is not None:
            yield "collected_at", self._date(one.collected_at)
        told = self._date(one.informed_at) if one.informed_at else self._say("not_on_record")
        yield "informed_at", self._say("no") if one.never_informed else told
        offered = {True: "yes", False: "no", None: "not_on_record"}[one.optout_offered]
        yield "optout_offered", self._say(offered)
        if one.last_activity_at is not None:
            yield "last_activity_at", self._date(one.last_activity_at)

    def _value(self, field: str, text: str | None) -> str:
        """Return in words what a field was or became."""
        if text is None:
            return "–"
        if field in ("audience", "source"):
            return self._word(f"{field}.{text}")
        if field == "language":
            return language_name(text) or "–"
        if field in ("informed_at", "optout_offered") and text in ("true", "false"):
            return self._say("yes" if text == "true" else "no")
        if field.endswith("_at"):
            return self._date(datetime.fromisoformat(text))
        return printable(text)

    def _act(self, act: ConsentAct) -> str:
        state = "withdrawn" if act.withdrawal else "pending" if act.pending else "given"
        text = self._say(state, label=self._label(act.purpose, act.brand), at=act.at)
        proof = act.evidence
        parts = (proof.wording, proof.version, proof.form, proof.ip, proof.document_hash)
        shown = printable(", ".join([part for part in parts if part]))
        return f"{text} ({shown})" if shown else text

    def _stopped(self, scope: str) -> str:
        """Return what a scope stops; empty for brands of other controllers."""
        kind, _, name = scope.partition(":")
        if kind == "brand":
            titles = dict(self._look.siblings)
            return self._word("scope.brand", brand=titles[name]) if name in titles else ""
        if kind == "purpose":
            return self._label(name)
        return self._word(f"scope.{kind}")

    def _label(self, purpose: str, brand: str | None = None) -> str:
        return self._look.label(purpose, self._lang, brand)

    def _date(self, at: datetime) -> str:
        return texts(self._lang).date(at)

    def _say(self, word: str, **values: Value) -> str:
        return self._word(f"known.{word}", **values)

    def _word(self, key: str, **values: Value) -> str:
        return say(Phrase(f"page.{key}", values), self._lang)


def _holds(acts: Sequence[ConsentAct], brand: str | None) -> bool:
    """Return whether the newest act for a brand, or for none by name, agrees."""
    own = [act for act in acts if act.brand in (None, brand)]
    return not max(own, key=lambda act: (act.at, act.withdrawal)).withdrawal


def language_name(tag: str | None) -> str | None:
    """Return a language's own name, or its tag if the pages do not have it."""
    primary = (tag or "").partition("-")[0]
    return texts(primary).language.name if primary in PAGE_LANGS else tag
