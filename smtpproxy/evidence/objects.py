"""Records and reports of the audit log as programs get them: objects for JSON."""

from typing import Any

from smtpproxy.evidence.gather import Evidence, Mailing
from smtpproxy.settings import RetentionSettings
from smtpproxy.sinks.audit.findings import Report
from smtpproxy.sinks.audit.lines import is_erased
from smtpproxy.sinks.audit.reader import Record
from smtpproxy.sinks.audit.seal import State


def record_object(record: Record, state: State | None = None) -> dict[str, Any]:
    """Everything that is on record of one decision. `state` is that of its seal, if known."""
    decided, message = record.decided, record.decided.decision.message
    outcome, place = record.outcome, record.place
    return {
        "id": decided.id,
        "at": decided.at,
        "stage": decided.stage,
        "listener": decided.client.listener,
        "peer": decided.client.peer,
        "helo": decided.client.helo,
        "login": decided.client.login,
        "queue_id": decided.client.queue_id,
        "mail_from": decided.reverse_path,
        "message_id": decided.message_id,
        "subject": decided.subject,
        "from": decided.header_from,
        "source_announced": decided.features.source_statement if decided.features else None,
        "size": decided.size,
        "stream": decided.decision.stream.name,
        "rulebook": decided.decision.rulebook,
        "observed": decided.observed,
        "undecided": decided.undecided,
        "message": message and {"verdict": message.action, "reason": message.reason},
        "recipients": [
            {
                "address": entry.address,
                "verdict": entry.verdict.action,
                "reason": entry.verdict.reason,
                "basis": entry.verdict.basis,
                "rule": entry.verdict.rule,
                "detail": entry.verdict.detail,
                "facts": decided.facts.get(entry.canonical),
                "erased": is_erased(entry),
                **_own(record, index),
            }
            for index, entry in enumerate(decided.recipients)
        ],
        "relayed": decided.relayed,
        "upstream": outcome and {"at": outcome.at, "code": outcome.code, "reply": outcome.reply},
        "proof": place
        and {
            "file": place.file,
            "row": place.n,
            "hash": place.hash,
            **({} if state is None else {"state": state}),
        },
    }


def _own(record: Record, index: int) -> dict[str, Any]:
    """The upstream's answer for one recipient, where each had a message of his own."""
    if record.outcome is None or not record.outcome.each:
        return {}
    return {"upstream": record.outcome.each[index]}


def evidence_object(evidence: Evidence) -> dict[str, Any]:
    """The whole evidence file. It names no other recipient of the messages."""
    return {
        "address": evidence.address,
        "at": evidence.at,
        "relay": evidence.relay,
        "controller": evidence.controller,
        "retention": _retention_object(evidence.retention),
        "contact": evidence.contact,
        "suppressions": evidence.suppressions,
        "lifted_suppressions": evidence.lifted,
        "rectifications": evidence.rectifications,
        "decisions": [_mailing_object(mailing, evidence) for mailing in evidence.mailings],
        "audit_log": report_object(evidence.chain),
    }


def _retention_object(of: RetentionSettings) -> dict[str, str | None]:
    names = ("prospects", "customers", "suppressions", "lifted_suppressions", "audit")
    periods = {name: getattr(of, name) for name in names}
    return {name: None if period is None else str(period) for name, period in periods.items()}


def _mailing_object(mailing: Mailing, evidence: Evidence) -> dict[str, Any]:
    whole, recipients = (
        record_object(mailing.record, evidence.state(mailing)),
        mailing.record.decided.recipients,
    )
    index = next(i for i, each in enumerate(recipients) if each is mailing.recipient)
    outcome = mailing.outcome
    upstream = outcome and {"at": outcome.at, "code": outcome.code, "reply": mailing.reply}
    others = {"other_recipients": len(recipients) - 1, "based_on": mailing.proof}
    own = whole["recipients"][index]
    return {**whole, "recipients": [own], "upstream": upstream, **others}


def report_object(report: Report) -> dict[str, Any]:
    """What a look through the journal found."""
    return {
        "sound": not report.wrong,
        "wrong": report.wrong,
        "witness": report.witness,
        "proven": {str(slot): n for slot, n in report.proven.items()},
        "unproven": report.unproven,
        "files": report.files,
        "lines": report.lines,
        "decisions": report.decisions,
        "erased": report.erased,
        "anchors": report.anchors,
        "compared": report.compared,
        "heads": {str(slot): {"n": h.n, "hash": h.hash} for slot, h in report.heads.items()},
        "counts": {kind.value: count for kind, count in report.counts.items()},
        "findings": [
            {
                "kind": finding.kind,
                "wrong": finding.kind.wrong,
                "file": finding.file,
                "line": finding.line,
                "row": finding.n,
                "id": finding.id,
                "what": finding.what,
                "meaning": finding.meaning,
            }
            for finding in report.findings
        ],
    }
