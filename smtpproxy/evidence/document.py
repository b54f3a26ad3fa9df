"""The evidence document as headings, facts and tables, independent of the output format."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from smtpproxy.events import picked
from smtpproxy.evidence import writing
from smtpproxy.evidence.gather import Evidence, Mailing, Proof
from smtpproxy.evidence.writing import Block, Cell, Facts, Heading, Paragraph, Table
from smtpproxy.locale import Lang, Phrase, Time, Value, has_words, say, texts
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    Action,
    Collection,
    ConsentAct,
    Contact,
    Dealing,
    Link,
    Purchase,
    Suppression,
    collections,
)
from smtpproxy.policy.rules.recipient import links
from smtpproxy.settings import ControllerSettings
from smtpproxy.sinks.audit.reader import told
from smtpproxy.sinks.audit.verify import State
from smtpproxy.store.records import LiftedSuppression
from smtpproxy.terminal import printable


def document(evidence: Evidence, controller: ControllerSettings, lang: Lang) -> list[Block]:
    """Return the document. Every text in it is safe to show and on one line."""
    return list(_Writer(evidence, controller, lang).blocks())


class _Writer:
    def __init__(self, evidence: Evidence, controller: ControllerSettings, lang: Lang) -> None:
        self._it = evidence
        self._controller = controller
        self._lang = lang
        self._spoken = texts(lang)
        self._proofs: dict[bytes, str] = {}

    def blocks(self) -> Iterator[Block]:
        it = self._it
        yield Heading(self._say("title", address=printable(it.address)), 1)
        yield Paragraph(self._say("made", at=Time(it.at), relay=it.relay))
        yield from writing.controller(self._controller, it.brands, self._lang)
        yield from self._summary()
        yield from self._contact()
        yield from self._rectifications()
        yield from self._acts()
        yield from self._suppressions()
        yield from self._mailings()
        yield from writing.retention(it.retention, self._lang)
        yield from writing.rights(self._controller, self._lang)
        yield from self._integrity()

    def _say(self, word: str, **values: Value) -> str:
        return say(Phrase(f"evidence.{word}", values), self._lang)

    def _named(self, field: str) -> str:
        """Return the name of a field of the store."""
        return self._say(field) if has_words(f"evidence.{field}") else field

    def _table(self, names: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> Table:
        cells = [[(each,) if isinstance(each, str) else each for each in row] for row in rows]
        return Table([self._say(name) for name in names], cells)

    def _term(self, word: object) -> str:
        return self._spoken.term(word)

    def _time(self, moment: datetime) -> str:
        return f"{self._spoken.date(moment)}, {moment.astimezone(UTC):%H:%M:%S}"

    def _known(self, value: bool | None) -> str:
        return self._say("not_on_record" if value is None else "yes" if value else "no")

    def _summary(self) -> Iterator[Block]:
        it = self._it
        fates = [mailing.fate for mailing in it.mailings]
        rows = [
            (self._say(fate), str(fates.count(fate)))
            for fate in ("passed", "refused", "undetermined")
        ]
        if despite := sum(mailing.despite for mailing in it.mailings):
            rows.insert(1, (self._say("despite"), str(despite)))
        if it.mailings:
            first, last = it.mailings[0].record.decided.at, it.mailings[-1].record.decided.at
            rows.append((self._say("period_from"), self._spoken.date(first)))
            rows.append((self._say("period_to"), self._spoken.date(last)))
        rows.append((self._say("consents"), str(len(it.contact.acts if it.contact else ()))))
        rows.append((self._say("suppressed"), str(len(it.suppressions))))
        rows.append((self._say("chain"), self._say("unsound" if it.chain.wrong else "sound")))
        if unproven := [it.state(mailing) for mailing in it.mailings].count(State.UNPROVEN):
            rows.append((self._say("unproven"), str(unproven)))
        yield Heading(self._say("summary"))
        yield Facts(rows)

    # what is stored

    def _contact(self) -> Iterator[Block]:
        yield Heading(self._say("contact"))
        it, contact = self._it, self._it.contact
        if contact is None:
            more = it.suppressions or it.lifted or it.mailings or it.elsewhere or it.reports
            yield Paragraph(self._say("nothing_else" if more else "nothing"))
        else:
            newest, *others = collections(contact)
            rows = [*self._profile(contact), *self._collected(newest), *self._did(contact)]
            yield Facts([(self._say(name), text) for name, text in rows])
            for way in others:
                yield Paragraph(self._say("also_collected"))
                yield Facts([(self._say(name), text) for name, text in self._collected(way)])
        if it.reports:
            told = [f"{self._time(e.at)}, {self._say(f'report_{e.kind}')}" for e in it.reports]
            yield Facts([(self._say("reports"), self._say("separator").join(told))])

    def _collected(self, way: Collection) -> Iterator[tuple[str, str]]:
        if way.brand is not None or self._it.brands:
            yield "brand", printable(way.brand or self._say("not_on_record"))
        yield "audience", self._term(way.audience)
        if way.occupations:
            yield "occupations", printable(", ".join(sorted(way.occupations)))
        yield "source", self._term(way.source or "unknown")
        for name in ("collected_at", "informed_at", "last_activity_at"):
            moment = getattr(way, name)
            if moment is not None:
                yield name, self._time(moment)
            elif name == "informed_at":
                yield name, self._say("no" if way.never_informed else "not_on_record")
        yield "optout_offered", self._known(way.optout_offered)
        if way.provenance is not None:
            hands = links(way.provenance)
            yield "provenance", " → ".join(self._link(link) for link in hands)

    def _profile(self, contact: Contact) -> Iterator[tuple[str, str]]:
        for name in ("first_contacted_at", "profiling_objected_at"):
            moment = getattr(contact, name)
            if moment is not None:
                yield name, self._time(moment)
        if contact.tags:
            yield "tags", printable(", ".join(sorted(contact.tags)))
        if contact.language:
            yield "language", contact.language
        for wish in contact.preferences:
            brand = "" if wish.brand == BUILT_IN_BRAND else f" ({wish.brand})"
            text = f"{wish.purpose}{brand}, {self._term(wish.frequency)}, {self._time(wish.at)}"
            yield "preference", printable(text)

    def _did(self, contact: Contact) -> Iterator[tuple[str, str]]:
        if contact.purchases:
            yield (
                "purchases",
                self._say("separator").join(self._purchase(one) for one in contact.purchases),
            )
        if contact.profiling_objected_at is not None:
            yield "frozen", self._say("frozen_text")

    def _purchase(self, purchase: Purchase) -> str:
        brand = f" ({purchase.brand})" if purchase.brand else ""
        text = printable(f"{purchase.product}{brand}, {self._spoken.date(purchase.at)}")
        if purchase.kind is Dealing.SALE:
            return text
        return f"{text} ({self._say(purchase.kind)})"

    def _link(self, link: Link) -> str:
        name = printable(link.supplier) if link.supplier else self._say("unnamed")
        date = f", {self._spoken.date(link.at)}" if link.at else ""
        disclosed = {True: "told", False: "untold", None: "untold_unknown"}[link.sender_disclosed]
        return f"{name} ({self._say(disclosed)}{date})"

    def _rectifications(self) -> Iterator[Block]:
        if not self._it.rectifications:
            return
        yield Heading(self._say("rectifications"))
        names = ("at", "field", "before", "after", "reason")
        yield self._table(
            names,
            [
                [
                    self._time(one.at),
                    self._named(change.field),
                    self._value(change.field, change.before),
                    self._value(change.field, change.after),
                    writing.motive(one.reason, self._lang),
                ]
                for one in self._it.rectifications
                for change in one.changes
            ],
        )

    def _value(self, field: str, text: str | None) -> str:
        if text is None:
            return "–"
        if field in ("audience", "source"):
            return self._term(text)
        if field in ("informed_at", "optout_offered") and text in ("true", "false"):
            return self._say("yes" if text == "true" else "no")
        if field.endswith("_at"):
            return self._time(datetime.fromisoformat(text))
        return printable(text)

    def _acts(self) -> Iterator[Block]:
        yield Heading(self._say("acts"))
        acts = self._it.contact.acts if self._it.contact else ()
        if not acts:
            kept = any(each.proof and each.proof.consent for each in self._it.mailings)
            yield Paragraph(self._say("no_acts_left" if kept else "no_acts"))
            return
        names = ("at", "purpose", "act", "method", "evidence", "channels")
        yield self._table(names, [self._act(act) for act in acts])

    def _act(self, act: ConsentAct) -> list[str]:
        kind = "pending" if act.pending else "given"
        if act.withdrawal:
            kind = "withdrawn" if self._agreed_before(act) else "refusal"
        return [
            self._time(act.at),
            writing.purpose(act, self._lang),
            self._say(kind),
            self._term(act.method or "–"),
            self._evidence(act),
            ", ".join(writing.channel(each, self._lang) for each in sorted(act.channels)),
        ]

    def _agreed_before(self, act: ConsentAct) -> bool:
        acts = self._it.contact.acts if self._it.contact else ()
        return any(
            act.is_about(each.purpose)
            and (act.brand is None or each.brand in (None, act.brand))
            and each.at <= act.at
            and not each.withdrawal
            and not each.pending
            for each in acts
        )

    def _evidence(self, act: ConsentAct) -> str:
        words = [
            self._say(
                "quoted" if name == "wording" else "stated",
                name=self._named("ip_hash" if str(value).startswith("hmac:") else name),
                text=printable(str(value)),
            )
            for name, value in msgspec.structs.asdict(act.evidence).items()
            if value is not None
        ]
        if act.came_by:
            words.append(
                self._say("came_by", collection=writing.collection(act.came_by, self._lang))
            )
        if act.conditional:
            words.append(self._say("conditional"))
        elif act.conditional is None and not act.withdrawal:
            words.append(self._say("conditional_unknown"))
        return ", ".join(words) or "–"

    def _matched_by(self, one: Suppression) -> str:
        if one.read_as is not None:
            return self._say("read_as", other=one.read_as)
        if one.domain is not None:
            return self._say("whole_domain", domain=one.domain)
        state = self._say("widened" if one.widened else "in_force")
        return state + self._given_by(self._it.authors.get((one.scope, one.origin)))

    def _lifted(self, one: LiftedSuppression) -> str:
        by = f" ({one.lifted_by})" if one.lifted_by else ""
        reason = writing.motive(one.reason, self._lang) + by
        state = self._say("lifted_at", at=self._time(one.lifted_at), reason=reason)
        return state + self._given_by(one.given_by)

    def _given_by(self, program: str | None) -> str:
        said = self._say("separator") + self._say("given_by", program=program)
        return "" if program is None else said

    def _suppressions(self) -> Iterator[Block]:
        yield Heading(self._say("suppressions"))
        orders: list[tuple[Suppression | LiftedSuppression, str]] = [
            *((one, self._matched_by(one)) for one in self._it.suppressions),
            *((one, self._lifted(one)) for one in self._it.lifted),
        ]
        rows = [
            [
                self._time(one.since),
                self._term(one.scope),
                self._term(one.origin),
                writing.motive(one.note, self._lang),
                state,
            ]
            for one, state in orders
        ]
        if not rows:
            yield Paragraph(self._say("no_suppressions"))
            return
        names = ("since", "scope", "origin", "note", "lifted")
        yield self._table(names, rows)

    # what was sent

    def _mailings(self) -> Iterator[Block]:
        yield Heading(self._say("mailings"))
        yield from writing.of_others(self._it.elsewhere, self._it.elsewhere_since, self._lang)
        if not self._it.mailings:
            yield Paragraph(self._say("no_mailings"))
            return
        names = ["when", "stream", "subject", "verdict", "proof", "upstream"]
        rows = [self._mailing(mailing) for mailing in self._it.mailings]
        sent_to = [mailing.recipient.canonical for mailing in self._it.mailings]
        if any(address != self._it.address for address in sent_to):  # a former one
            names.insert(1, "address")
            for row, address in zip(rows, sent_to, strict=True):
                row.insert(1, printable(address))
        yield self._table(names, rows)
        if self._proofs:
            yield Heading(self._say("proofs"), 3)
            yield Facts([(name, self._proof(raw)) for raw, name in self._proofs.items()])

    def _mailing(self, mailing: Mailing) -> list[str | Cell]:
        decided, own = mailing.record.decided, mailing.recipient.verdict
        verdict = told(decided, own)
        why = self._term(verdict.basis or verdict.reason)
        if own.action is not Action.ALLOW and own.reason != verdict.reason:
            why = f"{why}, {self._term(own.reason)}"
        stream = decided.decision.stream
        action = self._say(verdict.action.value)
        proof = "–"
        if mailing.proof is not None:
            raw = msgspec.json.encode(mailing.proof, order="sorted")
            proof = self._proofs.setdefault(raw, f"P{len(self._proofs) + 1}")
        if decided.observed and verdict.action is not Action.ALLOW:
            action = f"{action} ({self._say('observed')})"
        return [
            (self._time(decided.at), decided.id),
            (printable(stream.name), self._term(stream.class_name)),
            writing.subject(decided, mailing.reports_to, self._lang),
            (action, why),
            proof,
            self._upstream(mailing),
        ]

    def _upstream(self, mailing: Mailing) -> str | Cell:
        outcome = mailing.outcome
        if not mailing.record.decided.relayed:
            return self._say("not_sent")
        if outcome is None:
            return self._say("unknown")
        return printable(mailing.reply or str(outcome.code)), self._time(outcome.at)

    def _proof(self, raw: bytes) -> str:
        proof = msgspec.json.decode(raw, type=Proof)
        words = [self._term(proof.basis)]
        if proof.consent is not None:
            words.append(self._agreed(proof.consent))
        if proof.request is not None:
            words.append(self._say("request", at=self._time(proof.request.at)))
        words += [self._purchase(purchase) for purchase in proof.purchases]
        if proof.collection is not None:
            way = self._collected(proof.collection)
            words += [self._say("named", name=self._say(name), text=text) for name, text in way]
        if proof.tracking is not None:
            text = self._agreed(proof.tracking)
            words.append(self._say("named", name=self._say("tracking"), text=text))
        return self._say("separator").join(words)

    def _agreed(self, act: ConsentAct) -> str:
        at, purpose, _, method, evidence, _ = self._act(act)
        return f"{self._say('given_on', at=at)}, {purpose}, {method}, {evidence}"

    # what proves it

    def _integrity(self) -> Iterator[Block]:
        report = self._it.chain
        yield Heading(self._say("integrity"))
        counts = picked(report, "lines", "files", "compared", "wrong")
        yield Paragraph(self._say("integrity_text", **counts))
        witness = report.witness
        if witness is None or not witness.n:
            yield Paragraph(self._say("no_witness"))
        else:
            word = "kept_witness" if witness.kept else "local_witness"
            yield Paragraph(self._say(word, n=witness.n, at=self._time(witness.at)))
            yield Paragraph(self._say("unproven_rows", rows=report.unproven))
        for slot, head in report.heads.items():
            yield Paragraph(self._say("verified_to", slot=slot, n=head.n, hash=head.hash))
        yield from writing.findings(report, self._lang)
        rows = [
            (
                mailing.record.decided.id,
                self._say("place_text", file=place.file, row=str(place.n)),
                place.hash,
                self._say(f"state_{self._it.state(mailing)}"),
            )
            for mailing in self._it.mailings
            if (place := mailing.record.place) is not None
        ]
        if rows:
            yield Heading(self._say("rows"), 3)
            yield self._table(("id", "place", "hash", "proof"), rows)
