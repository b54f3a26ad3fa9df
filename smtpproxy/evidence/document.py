"""An evidence file as a document: headings, facts and tables, whatever they are written in."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from smtpproxy.evidence.gather import Evidence, Mailing, Proof
from smtpproxy.locale.phrase import Phrase, Value, say
from smtpproxy.locale.texts import Lang, texts
from smtpproxy.policy.model import Action, ConsentAct, Contact, Dealing, Link, Purchase, Suppression
from smtpproxy.policy.rules.record import links
from smtpproxy.sinks.audit.seal import State
from smtpproxy.terminal import printable

_MOMENTS = (
    "collected_at",
    "informed_at",
    "last_activity_at",
    "first_contacted_at",
    "profiling_objected_at",
)


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


Block = Heading | Paragraph | Facts | Table


def document(evidence: Evidence, lang: Lang) -> list[Block]:
    """Return the document. Every text in it is safe to show, and on one line."""
    return list(_Writer(evidence, lang).blocks())


class _Writer:
    def __init__(self, evidence: Evidence, lang: Lang) -> None:
        self._it = evidence
        self._lang = lang
        self._words = _words(lang)
        self._proofs: dict[bytes, str] = {}

    def blocks(self) -> Iterator[Block]:
        it = self._it
        yield Heading(self._say("title", address=printable(it.address)), 1)
        yield Paragraph(self._say("made", at=_time(it.at), relay=it.relay))
        yield from self._summary()
        yield from self._contact()
        yield from self._rectifications()
        yield from self._acts()
        yield from self._suppressions()
        yield from self._mailings()
        yield from self._integrity()

    def _say(self, word: str, **values: Value) -> str:
        return say(Phrase(f"evidence.{word}", values), self._lang)

    def _term(self, word: object) -> str:
        return texts(self._lang).term(word)

    def _known(self, value: bool | None) -> str:
        return self._words["not_on_record" if value is None else "yes" if value else "no"]

    def _summary(self) -> Iterator[Block]:
        it = self._it
        fates = [_fate(mailing) for mailing in it.mailings]
        rows = [
            (self._words[fate], str(fates.count(fate)))
            for fate in ("passed", "refused", "undetermined")
        ]
        if it.mailings:
            first, last = it.mailings[0].record.decided.at, it.mailings[-1].record.decided.at
            rows.append((self._words["period"], self._from_to(first, last)))
        acts = it.contact.acts if it.contact else ()
        rows.append((self._words["consents"], str(len(acts))))
        rows.append((self._words["suppressed"], str(len(it.suppressions))))
        rows.append((self._words["chain"], self._words["unsound" if it.chain.wrong else "sound"]))
        unproven = [it.state(mailing) for mailing in it.mailings].count(State.UNPROVEN)
        if unproven:
            rows.append((self._words["unproven"], str(unproven)))
        yield Heading(self._words["summary"])
        yield Facts(rows)

    def _from_to(self, first: datetime, last: datetime) -> str:
        return self._say("from_to", first=f"{first:%Y-%m-%d}", last=f"{last:%Y-%m-%d}")

    # what is stored

    def _contact(self) -> Iterator[Block]:
        yield Heading(self._words["contact"])
        contact = self._it.contact
        if contact is None:
            yield Paragraph(self._words["nothing"])
        else:
            yield Facts([(self._words[name], text) for name, text in self._profile(contact)])

    def _profile(self, contact: Contact) -> Iterator[tuple[str, str]]:
        yield "audience", self._term(contact.audience)
        yield "source", self._term(contact.source or "unknown")
        for name in _MOMENTS:
            moment = getattr(contact, name)
            if moment is not None:
                yield name, _time(moment)
            elif name == "informed_at":
                yield name, self._words["no" if contact.never_informed else "not_on_record"]
        yield "optout_offered", self._known(contact.optout_offered)
        for name in ("occupations", "tags"):
            words = getattr(contact, name)
            if words:
                yield name, printable(", ".join(sorted(words)))
        if contact.provenance is not None:
            hands = links(contact.provenance)
            yield "provenance", " → ".join(self._link(link) for link in hands)
        if contact.purchases:
            yield "purchases", "; ".join(self._purchase(one) for one in contact.purchases)
        if contact.profiling_objected_at is not None:
            yield "frozen", self._words["frozen_text"]

    def _purchase(self, purchase: Purchase) -> str:
        text = printable(f"{purchase.at:%Y-%m-%d} {purchase.product}")
        if purchase.kind is Dealing.SALE:
            return text
        return f"{text} ({self._words[purchase.kind]})"

    def _link(self, link: Link) -> str:
        name = printable(link.supplier) if link.supplier else self._words["unnamed"]
        date = f", {link.at:%Y-%m-%d}" if link.at else ""
        told = {True: "told", False: "untold", None: "untold_unknown"}[link.sender_disclosed]
        return f"{name} ({self._words[told]}{date})"

    def _rectifications(self) -> Iterator[Block]:
        if not self._it.rectifications:
            return
        yield Heading(self._words["rectifications"])
        names = ("at", "field", "before", "after", "reason")
        yield Table(
            [self._words[name] for name in names],
            [
                [
                    _time(one.at),
                    self._words.get(change.field, change.field),
                    self._value(change.field, change.before),
                    self._value(change.field, change.after),
                    printable(one.reason),
                ]
                for one in self._it.rectifications
                for change in one.changes
            ],
        )

    def _value(self, field: str, text: str | None) -> str:
        if text is not None and field in ("audience", "source"):
            return self._term(text)
        return printable(text or "–")

    def _acts(self) -> Iterator[Block]:
        yield Heading(self._words["acts"])
        acts = self._it.contact.acts if self._it.contact else ()
        if not acts:
            yield Paragraph(self._words["no_acts"])
            return
        names = ("at", "purpose", "act", "method", "evidence", "channels")
        yield Table([self._words[name] for name in names], [self._act(act) for act in acts])

    def _act(self, act: ConsentAct) -> list[str]:
        kind = "withdrawn" if act.withdrawal else "pending" if act.pending else "given"
        return [
            _time(act.at),
            printable(act.purpose),
            self._words[kind],
            self._term(act.method or "–"),
            self._evidence(act),
            printable(", ".join(sorted(act.channels))),
        ]

    def _evidence(self, act: ConsentAct) -> str:
        words = [
            f"{self._words.get(name, name)} {printable(str(value))}"
            for name, value in msgspec.structs.asdict(act.evidence).items()
            if value is not None
        ]
        if act.conditional:
            words.append(self._words["conditional"])
        return ", ".join(words) or "–"

    def _matched_by(self, one: Suppression) -> str:
        if one.read_as is not None:
            return self._say("read_as", other=one.read_as)
        if one.domain is not None:
            return self._say("whole_domain", domain=one.domain)
        return self._words["widened" if one.widened else "in_force"]

    def _suppressions(self) -> Iterator[Block]:
        yield Heading(self._words["suppressions"])
        it = self._it
        rows = [
            [
                _time(one.since),
                self._term(one.scope),
                self._term(one.origin),
                printable(one.note or "–"),
                self._matched_by(one),
            ]
            for one in it.suppressions
        ]
        rows += [
            [
                _time(one.since),
                self._term(one.scope),
                self._term(one.origin),
                printable(one.note or "–"),
                self._say("lifted_at", at=_time(one.lifted_at), reason=printable(one.reason)),
            ]
            for one in it.lifted
        ]
        if not rows:
            yield Paragraph(self._words["no_suppressions"])
            return
        names = ("since", "scope", "origin", "note", "lifted")
        yield Table([self._words[name] for name in names], rows)

    # what was sent

    def _mailings(self) -> Iterator[Block]:
        yield Heading(self._words["mailings"])
        if not self._it.mailings:
            yield Paragraph(self._words["no_mailings"])
            return
        names = ("at", "id", "stream", "subject", "verdict", "why", "proof", "upstream")
        rows = [self._mailing(mailing) for mailing in self._it.mailings]
        headings = [self._words[name] for name in names]
        sent_to = [mailing.recipient.canonical for mailing in self._it.mailings]
        if any(address != self._it.address for address in sent_to):  # one that they had before
            headings.insert(2, self._words["address"])
            for row, address in zip(rows, sent_to, strict=True):
                row.insert(2, printable(address))
        yield Table(headings, rows)
        if self._proofs:
            yield Heading(self._words["proofs"], 3)
            yield Facts([(name, self._proof(raw)) for raw, name in self._proofs.items()])

    def _mailing(self, mailing: Mailing) -> list[str]:
        decided, verdict = mailing.record.decided, mailing.recipient.verdict
        message = decided.decision.message
        if verdict.action is Action.ALLOW and message and message.action is not Action.ALLOW:
            verdict = message
        stream = decided.decision.stream
        told = self._words[verdict.action.value]
        proof = "–"
        if mailing.proof is not None:
            raw = msgspec.json.encode(mailing.proof, order="sorted")
            proof = self._proofs.setdefault(raw, f"P{len(self._proofs) + 1}")
        return [
            _time(decided.at),
            decided.id,
            f"{printable(stream.name)} ({self._term(stream.stream_class)})",
            printable(decided.subject or "–"),
            f"{told} ({self._words['observed']})" if decided.observed else told,
            self._term(verdict.basis or verdict.reason),
            proof,
            self._upstream(mailing),
        ]

    def _upstream(self, mailing: Mailing) -> str:
        outcome = mailing.outcome
        if not mailing.record.decided.relayed:
            return self._words["not_sent"]
        if outcome is None:
            return self._words["unknown"]
        return f"{_time(outcome.at)} {printable(mailing.reply or str(outcome.code))}"

    def _proof(self, raw: bytes) -> str:
        proof = msgspec.json.decode(raw, type=Proof)
        words = [self._term(proof.basis)]
        if proof.consent is not None:
            at, purpose, act, method, evidence, _ = self._act(proof.consent)
            words.append(f"{act} {at}, {purpose}, {method}, {evidence}")
        if proof.request is not None:
            words.append(self._say("request", at=_time(proof.request.at)))
        words += [self._purchase(purchase) for purchase in proof.purchases]
        if proof.informed_at is not None:
            words.append(f"{self._words['informed_at']} {_time(proof.informed_at)}")
        words += [printable(word) for word in sorted(proof.occupations)]
        return "; ".join(words)

    # what proves it

    def _integrity(self) -> Iterator[Block]:
        report = self._it.chain
        yield Heading(self._words["integrity"])
        yield Paragraph(
            self._say(
                "integrity_text",
                lines=report.lines,
                files=report.files,
                compared=report.compared,
                wrong=report.wrong,
            )
        )
        witness = report.witness
        if witness is None or not witness.n:
            yield Paragraph(self._words["no_witness"])
        else:
            word = "kept_witness" if witness.kept else "local_witness"
            yield Paragraph(self._say(word, n=witness.n, at=_time(witness.at)))
            yield Paragraph(self._say("unproven_rows", rows=report.unproven))
        for slot, head in report.heads.items():
            yield Paragraph(self._say("verified_to", slot=slot, n=head.n, hash=head.hash))
        for finding in report.findings:
            where = finding.file if finding.line is None else f"{finding.file}:{finding.line}"
            yield Paragraph(f"{finding.kind}: {printable(f'{where}: {finding.what}')}")
        rows = [
            [
                mailing.record.decided.id,
                place.file,
                str(place.n),
                place.hash,
                self._words[f"state_{self._it.state(mailing)}"],
            ]
            for mailing in self._it.mailings
            if (place := mailing.record.place) is not None
        ]
        if rows:
            yield Heading(self._words["rows"], 3)
            yield Table(
                [self._words[name] for name in ("id", "file", "row", "hash", "proof")], rows
            )


def _words(lang: Lang) -> Mapping[str, str]:
    """The texts of the document by their keys alone."""
    phrases = texts(lang).phrases
    found = {key: text for key, text in phrases.items() if isinstance(text, str)}
    return {
        key.removeprefix("evidence."): text
        for key, text in found.items()
        if key.startswith("evidence.")
    }


def _fate(mailing: Mailing) -> str:
    decided = mailing.record.decided
    if not decided.relayed or (
        mailing.recipient.verdict.action is not Action.ALLOW and not decided.observed
    ):
        return "refused"
    accepted = mailing.outcome is not None and mailing.outcome.code < 300
    return "passed" if accepted else "undetermined"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
