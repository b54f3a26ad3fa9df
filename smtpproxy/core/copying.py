"""One message to several recipients as a copy each, because no two copies are the same, and the
one answer for all of them.

Where one reply serves all, a failure that may pass is answered 4xx: another attempt mails only
those without a copy. docs/adr/0011-fan-out.md says why.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from smtpproxy.core.delivering import FAILURES, Delivered, PerRecipientDelivery
from smtpproxy.core.effects import NoteCopy, Steps
from smtpproxy.core.notices import NoticeRefused, NotifyingTransaction, told, wants_no_notice
from smtpproxy.core.recording import TEMPORARY_FAILURE, Mixed, Outcome, Recipient
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.events import Client, Decided, JudgedRecipient
from smtpproxy.mail.dsn import RefusedRecipient
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import Action, Reason, Stream, Verdict
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.terminal import counted

Made = Callable[[Recipient], Steps[Iterator[bytes]]]
"""Makes a recipient's copy."""

_SINGLE_RECIPIENT = Verdict(
    Action.REFUSE, Reason.SINGLE_RECIPIENT_REQUIRED, rule="single_recipient"
)
"""Nobody could be told of a recipient that fails after another was mailed."""

_MAILED_MEANWHILE = Reply.of(250, "2.0.0", "mailed at another attempt")


class CopyingTransaction(NotifyingTransaction):
    """A transaction whose recipients may get a copy each."""

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
        self._done_before: list[Recipient] = []  # mailed or told of at an unanswered attempt
        self._mailed_before = 0  # of these
        self._one_message = False  # copies cannot be answered for, and it is only observed

    def _leave_out_done(self) -> Steps[None]:
        """Leave out who has a copy from an attempt that was answered 4xx, or not at all.

        Also of whom the sender was told that they are not mailed, once others were.
        """
        everybody = self.recipients_accepted
        paths = [recipient.path for recipient in everybody]
        found = yield from self._find([*paths, *map(told, paths)])
        self._notified.update(path for path in paths if told(path) in found)
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
        made: Made,
    ) -> Steps[list[Reply] | Outcome]:
        """Relay a copy to each of several recipients, and answer for all of them.

        Nothing of it is with the upstream yet.
        """
        if outcome.mixed and self._mixed != "each":
            changed = yield from self._notify_refused(outcome, header)
        else:
            changed = yield from self._settle(outcome)
        if changed is not None:
            return changed
        once = {recipient.path: recipient for recipient in recipients}  # named twice, one copy
        delivery = PerRecipientDelivery(
            self._services,
            mail=partial(self._mail_to, outcome.stream),
            made=made,
            answered=partial(self._answered_meanwhile, outcome),
            mailed=self._keep,
            failed=self._failed,
        )
        results = yield from delivery.deliver(list(once.values()))
        by_path = dict(zip(once, results, strict=True))
        return (yield from self._answer_copies(outcome, header, by_path))

    def _returns(self, stream: Stream) -> bool:
        """Whether bounces come back to us, by a reverse path of the recipient's own."""
        return stream.verp and self.reverse_path != "" and not self._one_message

    def _mail_to(self, stream: Stream, recipient: Recipient) -> MailParameters:
        """What MAIL is to say where it is for this recipient alone. Raises StoreUnavailable."""
        if not self._returns(stream):
            return self._mail
        make = self._services.return_path
        if make is None:
            raise StoreUnavailable("there are no keys for return paths")
        return replace(self._mail, reverse_path=make(self.id, stream.name, recipient.canonical))

    def _one_can_be_told(self, recipients: Collection[Recipient]) -> Steps[bool]:
        """Whether somebody can be told of a recipient who fails after another was mailed."""
        if self._mixed == "each" or not recipients:
            return True
        if any(wants_no_notice(recipient.rcpt) for recipient in recipients):
            return False
        return (yield from self._notices.permitted())

    def _as_one_message(self, outcome: Outcome) -> Outcome:
        """Nobody gets a copy; where it is only observed, all get the message without links."""
        self._one_message = True
        message = outcome.decided.decision.message
        if message is not None and message.action is not Action.ALLOW:
            return outcome  # observed, and refused for another reason
        return self._refused(outcome, _SINGLE_RECIPIENT)

    def _keep(self, recipient: Recipient) -> Steps[None]:
        """Where it cannot be kept, a retry may mail them twice: rather that than never."""
        if self._mixed == "each":
            return
        self._kept.add(recipient.path)
        try:
            yield from NoteCopy(self.reverse_path, self._digest, recipient.path)
        except (StoreUnavailable, OSError) as error:
            self._failed(error)

    def _answered_meanwhile(self, outcome: Outcome, recipient: Recipient) -> Steps[Reply | None]:
        """The answer where a copy is not to be sent after all.

        Another attempt has mailed it, of a client that did not wait; or the recipient may not be
        mailed any more, and that is on record.
        """
        if self._mixed != "each" and (yield from self._find([recipient.path])):
            return _MAILED_MEANWHILE
        if outcome.decided.observed:
            return None
        yield from self._refresh([recipient.canonical])
        (verdict,) = self._evaluation.judge_anew(
            outcome.stream, [recipient.canonical], self._features, self._services.now()
        )
        if verdict.action is Action.ALLOW:
            too_late = verdict.unconsented_pixels and outcome.strips
            if too_late and not outcome.without_pixels(recipient.canonical):
                return TEMPORARY_FAILURE  # another attempt makes another copy
            return None
        yield from self._record(self._decided_for(outcome, recipient, verdict))
        return outcome.reply_to(recipient, verdict)

    def _answer_copies(
        self,
        outcome: Outcome,
        header: bytes,
        results: Mapping[str, Delivered],
    ) -> Steps[list[Reply]]:
        """Answer, and see that the sender hears of everybody who was not mailed.

        Where one reply serves all, a failure that may pass is answered 4xx: another attempt
        mails only recipients without a copy.
        """
        everybody = self.recipients_accepted
        mailed = [r for r in everybody if r.path in results and results[r.path].accepted]
        found = [(r.canonical, results[r.path]) for r in everybody if r.path in results]
        perhaps = {address for address, each in found if each.accepted or each.in_doubt}
        surely_not = {address for address, _ in found} - perhaps  # by whichever path
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
        """One reply for all. Raises nothing: what the sender could not be told is a 451."""
        reply = _one_reply(
            list(results.values()), self._mailed_before, len(self._done_before), self.id
        )
        failed = [
            RefusedRecipient(r.path, results[r.path].reply, r.rcpt.orcpt)
            for r in {r.path: r for r in self.recipients_accepted}.values()
            if r.path in results and not results[r.path].accepted
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
        return replace(
            outcome.decided,
            at=self._services.now(),
            decision=replace(decision, recipients=(verdict,)),
            recipients=(JudgedRecipient(recipient.path, recipient.canonical, verdict),),
            facts={recipient.canonical: facts[recipient.canonical]},
            relayed=False,
        )

    def _refuse_the_rest(
        self, outcome: Outcome, whole: Reply, header: bytes
    ) -> Steps[Reply | None]:
        """Answer where others were mailed at an earlier attempt: a 550 would speak of them too.

        Nobody else gets it: `whole` is the reply that is not about one of them. None if the sender
        cannot be told.
        """
        refusals = outcome.refusals
        entries = [
            RefusedRecipient(r.path, refusals.get(r, whole), r.rcpt.orcpt)
            for r in {r.path: r for r in self.recipients_accepted}.values()
        ]
        try:
            if entries:  # none: all were mailed, or told of, at that attempt
                yield from self._notices.refused(entries, header)
        except NoticeRefused:
            return None
        yield from self._note_told([each.address for each in entries])
        of_all = len(self._done_before) + len(self.recipients_accepted)
        return _copies_relayed(self._mailed_before, of_all, self.id)


def _one_reply(results: Sequence[Delivered], mailed: int, done: int, id: str) -> Reply:
    """The client's answer where one has to serve all.

    `done` more were left out after an earlier attempt, `mailed` of them because they were. While a
    failure may pass it is 4xx, once somebody was mailed 250 else.
    """
    failed = [result.reply for result in results if not result.accepted]
    passing = next((reply for reply in failed if reply.code < 500), None)
    taken, of_all = len(results) - len(failed) + mailed, len(results) + done
    if not taken:
        return passing or failed[0]
    if passing is not None:
        people = counted(of_all, "recipient")
        text = f"relayed to {taken} of {people}, try again for the others, id={id}"
        return Reply.of(451, passing.enhanced or "4.0.0", text)
    return _copies_relayed(taken, of_all, id)


def _copies_relayed(taken: int, of_all: int, id: str) -> Reply:
    of_them = "" if taken == of_all else f"{taken} of "
    people = counted(of_all, "recipient")
    return Reply.of(250, "2.0.0", f"relayed to {of_them}{people}, one copy each, id={id}")
