"""One message to several recipients as one copy each, because no two copies are the same, and the
one answer for all of them.

If one reply has to serve all, a temporary failure is answered 4xx: the next attempt mails only
those without a copy. docs/adr/0011-fan-out.md says why.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from smtpproxy.core.delivering import FAILURES, CopyMaker, Delivered, PerRecipientDelivery
from smtpproxy.core.effects import FindCopies, ForgetCopies, NoteCopy, Steps
from smtpproxy.core.notices import (
    NoticeRefused,
    NotifyingTransaction,
    is_notice_entry,
    notice_entry,
    wants_no_notice,
)
from smtpproxy.core.recording import TEMPORARY_FAILURE, Mixed, Outcome, Recipient
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.events import Client, Decided, JudgedRecipient
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import Action, Reason, Stream, Verdict
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.terminal import counted

_SINGLE_RECIPIENT = Verdict(
    Action.REFUSE, Reason.SINGLE_RECIPIENT_REQUIRED, rule="single_recipient"
)
"""The verdict if nobody could be told of a recipient that fails after another was mailed."""

_HAD_ENOUGH = frozenset({Reason.FREQUENCY_CAP, Reason.PREFERENCE_FREQUENCY})
_NOT_YET = Verdict(Action.ALLOW)

_MAILED_MEANWHILE = Reply.of(250, "2.0.0", "mailed at another attempt")


class CopyingTransaction(NotifyingTransaction):
    """A transaction whose recipients may each get their own copy."""

    __slots__ = ("_done_before", "_mail", "_mailed_before", "_one_message")

    def __init__(
        self,
        services: Services,
        client: Client,
        mail: MailParameters,
        choice: StreamChoice,
        mixed: Mixed | None = None,
    ) -> None:
        super().__init__(services, client, mail.reverse_path, choice, mixed, envid=mail.envid)
        self._mail = mail
        self._done_before: list[Recipient] = []  # mailed, or told of, at an earlier attempt
        self._mailed_before = 0  # of these
        self._one_message = False  # observed, where copies are not possible

    def _without_retried(
        self, people: Sequence[Recipient], verdicts: Sequence[Verdict]
    ) -> Steps[Sequence[Verdict]]:
        """Let recipients pass who have a copy of a message that was answered 4xx because of others.

        That copy alone may have used up their limit. At the end of data they are left out if this
        is the same message; otherwise they are judged.
        """
        if not self._choice.makes_copies or self._mixed == "each":
            return verdicts
        judged = list(zip(people, verdicts, strict=True))
        paths = [recipient.path for recipient, verdict in judged if verdict.reason in _HAD_ENOUGH]
        if not paths:
            return verdicts
        waiting = yield from FindCopies(self.reverse_path, self._announced, paths)
        return [_NOT_YET if recipient.path in waiting else verdict for recipient, verdict in judged]

    def _announced(self) -> bytes:
        """What MAIL says of the message, instead of its digest."""
        return f"{self._mail.size} {self._mail.envid}".encode()

    def _end_attempt(self, *, final: bool) -> Steps[None]:
        """Forget who has a copy once the client has its final answer. Until then also keep that
        they have a copy of a message announced so: at RCPT no more is known of it."""
        mailed = sorted(entry for entry in self._kept if not is_notice_entry(entry))
        try:
            if not final:
                for path in mailed:
                    yield from NoteCopy(self.reverse_path, self._announced, path)
                return
            if self._done_before:
                yield from ForgetCopies(self.reverse_path, self._announced, mailed)
        except (StoreUnavailable, OSError) as error:
            self._failed(error)
        yield from self._forget()

    def _leave_out_done(self) -> Steps[None]:
        """Leave out those who have a copy from an attempt that was answered 4xx or not at all.

        If there are any, also leave out those that the sender was told are not mailed.
        """
        everybody = self.recipients_accepted
        paths = [recipient.path for recipient in everybody]
        found = yield from self._find([*paths, *map(notice_entry, paths)])
        self._notified.update(path for path in paths if notice_entry(path) in found)
        done = found | self._notified
        if found.intersection(paths):
            self._done_before = [r for r in everybody if r.path in done]
            self._mailed_before = sum(path in found for path in paths)
            self.recipients_accepted = [r for r in everybody if r.path not in done]

    def _relay_copies(
        self,
        outcome: Outcome,
        header: bytes,
        recipients: Sequence[Recipient],
        make_copy: CopyMaker,
    ) -> Steps[list[Reply] | Outcome]:
        """Relay a copy to each of several recipients, and answer for all of them.

        The upstream has nothing of it yet.
        """
        if outcome.mixed and self._mixed != "each":
            changed = yield from self._notify_refused(outcome, header)
        else:
            changed = yield from self._recheck_and_record(outcome)
        if changed is not None:
            return changed
        once = {r.path: r for r in recipients}  # one copy even if named twice
        delivery = PerRecipientDelivery(
            self._services,
            mail_parameters=partial(self._mail_parameters_for, outcome.stream),
            make_copy=make_copy,
            answer_instead=partial(self._answered_meanwhile, outcome),
            note_mailed=self._note_copied,
            report_failure=self._failed,
            reply_for_each=self._mixed == "each",
        )
        results = yield from delivery.deliver(list(once.values()))
        by_path = dict(zip(once, results, strict=True))
        return (yield from self._answer_copies(outcome, header, by_path))

    def _returns(self, stream: Stream) -> bool:
        """Whether each copy gets its own reverse path, so that bounces come back to us."""
        return stream.verp and self.reverse_path != "" and not self._one_message

    def _mail_parameters_for(self, stream: Stream, recipient: Recipient) -> MailParameters:
        """The parameters of MAIL for this recipient alone. Raises StoreUnavailable."""
        if not self._returns(stream):
            return self._mail
        make = self._services.return_path
        if make is None:
            raise StoreUnavailable("there are no keys for return paths")
        return replace(self._mail, reverse_path=make(self.id, stream.name, recipient.canonical))

    def _failures_can_be_reported(self, recipients: Collection[Recipient]) -> Steps[bool]:
        """Whether a recipient who fails after another was mailed can be reported to the sender."""
        if self._mixed == "each" or not recipients:
            return True
        if any(wants_no_notice(recipient.rcpt) for recipient in recipients):
            return False
        return (yield from self._notices.permitted())

    def _as_one_message(self, outcome: Outcome) -> Outcome:
        """Refuse the message; if it is only observed, all get it as one message without links."""
        self._one_message = True
        message = outcome.decided.decision.message
        if message is not None and message.action is not Action.ALLOW:
            return outcome  # observed, and refused for another reason
        return self._refused(outcome, _SINGLE_RECIPIENT)

    def _note_copied(self, recipient: Recipient) -> Steps[None]:
        """Note that a recipient has a copy. If that fails, a retry may mail them twice."""
        if self._mixed == "each":
            return
        self._kept.add(recipient.path)
        try:
            yield from NoteCopy(self.reverse_path, self._digest, recipient.path)
        except (StoreUnavailable, OSError) as error:
            self._failed(error)

    def _answered_meanwhile(self, outcome: Outcome, recipient: Recipient) -> Steps[Reply | None]:
        """The reply about a copy that is not to be sent after all, or None.

        Either another attempt of a client that did not wait has mailed it, or the recipient may no
        longer be mailed, which is then recorded.
        """
        if self._mixed != "each" and (yield from self._find([recipient.path])):
            return _MAILED_MEANWHILE
        if outcome.decided.observed:
            return None
        yield from self._refresh([recipient.canonical])
        (verdict,) = self._evaluation.judge_again(
            outcome.stream, [recipient.canonical], self._features, self._services.now()
        )
        if verdict.action is Action.ALLOW:
            too_late = verdict.unconsented_pixels and outcome.strips
            if too_late and not outcome.without_pixels(recipient.canonical):
                return TEMPORARY_FAILURE  # the next attempt makes a new copy
            return None
        yield from self._record(self._decided_for(outcome, recipient, verdict))
        return outcome.reply_to(recipient, verdict)

    def _answer_copies(
        self,
        outcome: Outcome,
        header: bytes,
        results: Mapping[str, Delivered],
    ) -> Steps[list[Reply]]:
        """Answer, and make sure that the sender learns of everybody who was not mailed.

        If one reply has to serve all, a temporary failure is answered 4xx: the next attempt mails
        only recipients without a copy.
        """
        everybody = self.recipients_accepted
        mailed = [r for r in everybody if r.path in results and results[r.path].accepted]
        found = [(r.canonical, results[r.path]) for r in everybody if r.path in results]
        perhaps = {address for address, each in found if each.accepted or each.in_doubt}
        surely_not = {address for address, _ in found} - perhaps  # by any of their paths
        if surely_not:
            yield from self._not_mailed(surely_not)
        each = tuple(str(results[r.path].reply) if r.path in results else "" for r in everybody)
        if self._mixed == "each":
            reply = _one_reply(list(results.values()), 0, 0, self.id)
        else:
            reply = yield from self._one_reply(header, results)
        yield from self._note_outcome(reply, len(mailed), each)
        if not all(result.notifies for result in results.values()):
            try:
                yield from self._notices.relayed([r.rcpt for r in mailed], header)
            except NoticeRefused:
                pass  # on record
            except FAILURES as error:
                self._failed(error)
        if self._mixed != "each":
            return [reply]
        answers = {recipient.path: refusal for recipient, refusal in outcome.refusals.items()}
        answers.update({path: result.reply for path, result in results.items()})
        return [answers[recipient.path] for recipient in everybody]

    def _one_reply(self, header: bytes, results: Mapping[str, Delivered]) -> Steps[Reply]:
        """One reply for all. Raises nothing: if the sender could not be told, it is a 451."""
        reply = _one_reply(
            list(results.values()), self._mailed_before, len(self._done_before), self.id
        )
        failed = [
            RefusedRecipient(r.path, results[r.path].reply, r.rcpt.orcpt)
            for r in {r.path: r for r in self.recipients_accepted}.values()
            if r.path in results
            and not results[r.path].accepted
            and r.path not in self._notified  # refused at an earlier attempt, and permitted since
        ]
        try:
            if reply.code < 300 and failed:
                yield from self._notices.undelivered(failed, header)
                yield from self._note_told([each.address for each in failed])
        except NoticeRefused as error:
            return self._failed(UpstreamError(str(error)))
        except FAILURES as error:
            return self._failed(error)
        return reply

    def _decided_for(self, outcome: Outcome, recipient: Recipient, verdict: Verdict) -> Decided:
        """The decision on one recipient, made after the one on the message."""
        decision = outcome.decided.decision
        facts = self._evaluation.facts
        before = zip(self.recipients_accepted, decision.recipients, strict=True)
        return replace(
            outcome.decided,
            at=self._services.now(),
            permitted_before=tuple([v.basis or "" for each, v in before if each is recipient]),
            decision=replace(decision, recipients=(verdict,)),
            recipients=(JudgedRecipient(recipient.path, recipient.canonical, verdict),),
            facts={recipient.canonical: facts[recipient.canonical]},
            relayed=False,
        )

    def _refuse_the_rest(
        self, outcome: Outcome, whole: Reply, header: bytes
    ) -> Steps[Reply | None]:
        """Answer if others were mailed at an earlier attempt: a 550 would be about them too.

        None of the rest gets it: `whole` is the reply for those without their own. None if the
        sender cannot be told.
        """
        refusals = outcome.refusals
        entries = [
            RefusedRecipient(r.path, refusals.get(r, whole), r.rcpt.orcpt)
            for r in {r.path: r for r in self.recipients_accepted}.values()
        ]
        try:
            if entries:  # otherwise all were settled at that attempt
                yield from self._notices.refused(entries, header)
        except NoticeRefused:
            return None
        yield from self._note_told([each.address for each in entries])
        of_all = len(self._done_before) + len(self.recipients_accepted)
        return _copies_relayed(self._mailed_before, of_all, self.id)


def _one_reply(results: Sequence[Delivered], mailed: int, done: int, id: str) -> Reply:
    """The client's answer if one has to serve all.

    `done` more recipients were settled at an earlier attempt, `mailed` of them by a copy. A
    temporary failure makes it a 4xx; otherwise it is 250 if anybody was mailed.
    """
    failed = [result.reply for result in results if not result.accepted]
    deferral = next((reply for reply in failed if reply.code < 500), None)
    taken, of_all = len(results) - len(failed) + mailed, len(results) + done
    if not taken:
        return deferral or failed[0]
    if deferral is not None:
        people = counted(of_all, "recipient")
        text = f"relayed to {taken} of {people}, try again for the others, id={id}"
        return Reply.of(451, deferral.enhanced or "4.0.0", text)
    return _copies_relayed(taken, of_all, id)


def _copies_relayed(taken: int, of_all: int, id: str) -> Reply:
    of_them = "" if taken == of_all else f"{taken} of "
    people = counted(of_all, "recipient")
    return Reply.of(250, "2.0.0", f"relayed to {of_them}{people}, one copy each, id={id}")
