"""One message on its way to the upstream (design.md section 3)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from msgspec.structs import replace

from smtpproxy.core.content_checks import Message, body_without_pixels
from smtpproxy.core.copying import CopyingTransaction
from smtpproxy.core.delivering import FAILURES
from smtpproxy.core.edits import edited, identifying_fields
from smtpproxy.core.effects import AskUpstream, BeginData, SendContent, Steps, Upstream
from smtpproxy.core.notices import NoticeRefused, wants_no_notice, wants_success
from smtpproxy.core.recording import Mixed, Outcome, Recipient
from smtpproxy.core.services import Services, StreamChoice
from smtpproxy.core.transaction import CHANGES_TOO_FAST, MAX_RECHECKS
from smtpproxy.events import Client, Limited
from smtpproxy.mail.eight_bit import EXTENSIONS, needed_extensions
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.reply import RECEIVED_LIMIT, Reply, received
from smtpproxy.policy.rules.message import adds_unsubscribe
from smtpproxy.relay.connection import UpstreamError
from smtpproxy.relay.content import Body, Content
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.wire.commands import Rcpt
from smtpproxy.wire.content import unstuffed

_LOOP = Reply.of(554, "5.4.6", f"mail loop: {RECEIVED_LIMIT} Received fields")


class RelayTransaction(CopyingTransaction):
    """Judges recipients as they come and the message at its end, and relays it.

    Call `recipients` any number of times, then `message` once, or `abort`. An internal failure is a
    451 and an event for the log, never an exception.
    """

    __slots__ = (
        *("_body_without_pixels", "_makes_copies", "_may_return", "_protocol"),
        *("_upstream_reverse_path", "_upstream"),
    )

    def __init__(
        self,
        services: Services,
        client: Client,
        mail: MailParameters,
        choice: StreamChoice,
        protocol: str,
        mixed: Mixed | None = None,
    ) -> None:
        super().__init__(services, client, mail, choice, mixed)
        self._protocol = protocol
        self._upstream: Upstream = services.open_upstream(mail)
        self._upstream_reverse_path = mail.reverse_path
        self._makes_copies = choice.makes_copies
        self._may_return = choice.returns  # applies to the first recipients
        self._body_without_pixels: Body | None = None  # made for the first copy that needs it

    @property
    def accepted(self) -> int:
        """How many recipients were accepted."""
        return len(self.recipients_accepted)

    def recipients(self, asked: Sequence[Rcpt]) -> Steps[list[Reply]]:
        """Judge recipients and offer the permitted ones to the upstream; return one reply each."""
        self._resume()
        permitted, replies = yield from self._judge_rcpts(asked, early=True)
        answered = (yield from self._offer_upstream(permitted)) if permitted else []
        self._pause()
        if len(answered) == len(replies):
            return answered
        answers = iter(answered)
        return [next(answers) if reply is None else reply for reply in replies]

    def message(
        self, content: Content, client_is_there: Callable[[], bool] = lambda: True
    ) -> Steps[list[Reply]]:
        """Judge the message and its remaining recipients, record that, and relay the message.

        Returns a reply for each accepted recipient, in order: all are the same unless `mixed` is
        "each". A client that has gone will try again.
        """
        accepted = len(self.recipients_accepted)
        self._digest = content.digest
        self._resume()
        try:
            replies = yield from self._judge_and_relay(content)
        except FAILURES as error:
            self.abort()
            replies = [self._failed(error, recipients=accepted, messages=1)]
            if not self._upstream.in_doubt:
                yield from self._not_mailed()
        if self._lacks_outcome:
            yield from self._note_outcome(replies[0])
        if self._kept:
            final = client_is_there() and not any(400 <= r.code < 500 for r in replies)
            yield from self._end_attempt(final=final)
        self._pause()
        self._ended()
        return replies if len(replies) > 1 else replies * accepted

    def abort(self) -> None:
        """Give up; nothing has been mailed."""
        self._upstream.abort()

    def _offer_upstream(self, permitted: Sequence[Recipient]) -> Steps[list[Reply]]:
        try:
            if self._may_return:
                self._may_return = False
                if len(permitted) == 1:
                    self._open_upstream(
                        self._mail_parameters_for(self._choice.default, permitted[0])
                    )
            ask = AskUpstream(self._upstream, [recipient.rcpt for recipient in permitted])
            answers: list[Reply] = yield ask
        except (UpstreamError, StoreUnavailable) as error:
            answers = [self._failed(error)] * len(permitted)
        self._upstream.begin_client_turn(self._note_hold_expired)
        for recipient, answer in zip(permitted, answers, strict=True):
            if answer.code < 300:
                self.recipients_accepted.append(recipient)
        return answers

    def _note_hold_expired(self) -> None:
        self._services.emit(Limited(self.client.listener, self.client.peer, "upstream_hold"))

    def _judge_and_relay(self, content: Content) -> Steps[list[Reply]]:
        headers = HeaderBlock(unstuffed(content.header()))
        if len(headers.by_name.get(b"received", ())) >= RECEIVED_LIMIT:
            self.abort()
            return [_LOOP]
        if self._mixed == "split" and any(
            wants_no_notice(r.rcpt) for r in self.recipients_accepted
        ):
            self._mixed = "refuse"  # a recipient must not be left out silently
        if self._makes_copies and self._mixed != "each":
            yield from self._leave_out_done()
        outcome = yield from self._decide(Message(headers, content.size, content.body))
        self._upstream.end_client_turn()
        for _ in range(MAX_RECHECKS):
            done = yield from self._carry_out(outcome, headers, content)
            if type(done) is not Outcome:  # isinstance takes ten times as long for a Struct
                return done
            outcome = done  # by the store as it is now
        raise StoreUnavailable(CHANGES_TOO_FAST)

    def _carry_out(
        self, outcome: Outcome, headers: HeaderBlock, content: Content
    ) -> Steps[list[Reply] | Outcome]:
        """Carry out an outcome; return a new one if the store has changed."""
        if not outcome.passes:
            return (yield from self._refuse(outcome, headers.raw))
        unfit = self._unfit(content)
        if unfit is not None:
            return (yield from self._refuse_unfit(outcome, unfit, headers.raw))
        fields = self._own_fields(outcome, headers)
        if len(fields) > 1 or (self._done_before and (fields or not self.accepted)):
            self.abort()  # the upstream transaction that all of them are in
            if not (yield from self._failures_can_be_reported(fields)):
                return self._as_one_message(outcome)
            header, people = headers.raw, list(fields)
            copy = lambda r: self._outgoing(outcome, headers, content, fields[r], r)  # noqa: E731
            return (yield from self._relay_copies(outcome, header, people, copy))
        mixed, unsubscribe = outcome.mixed, next(iter(fields.values())) if fields else b""
        if mixed and self._mixed == "split":
            made = partial(self._outgoing, outcome, headers, content, unsubscribe)
            return (yield from self._split(outcome, headers, made))
        outgoing = yield from self._outgoing(outcome, headers, content, unsubscribe)
        yield from self._upstream_for(outcome)
        done = yield from self._deliver(outcome, outgoing)
        if type(done) is Outcome:
            return done
        if done.code < 300 and not self._upstream.notifies:
            yield from self._tell_relayed(b"" if mixed else headers.raw)
        if not mixed:
            return [done]
        refused = outcome.refusals
        return [refused.get(recipient, done) for recipient in self.recipients_accepted]

    # nobody gets it

    def _refuse(self, outcome: Outcome, header: bytes) -> Steps[list[Reply]]:
        self.abort()
        yield from self._not_mailed()
        yield from self._refresh([r.canonical for r in self.recipients_accepted])
        yield from self._record(outcome.decided)
        if self._done_before and outcome.refusal.code >= 500:
            sole_reply = yield from self._refuse_the_rest(outcome, outcome.refusal, header)
            if sole_reply is not None:
                return [sole_reply]
        if self._mixed == "each" and outcome.for_nobody:
            refusals = outcome.refusals
            return [refusals[recipient] for recipient in self.recipients_accepted]
        return [outcome.refusal]

    def _refuse_unfit(
        self, outcome: Outcome, unfit: Reply, header: bytes
    ) -> Steps[list[Reply] | Outcome]:
        self.abort()
        changed = yield from self._recheck_and_record(outcome)
        if changed is not None:
            return changed
        yield from self._not_mailed()
        yield from self._note_outcome(unfit)
        if self._done_before:
            sole_reply = yield from self._refuse_the_rest(outcome, unfit, header)
            if sole_reply is not None:
                return [sole_reply]
        refused = outcome.refusals if self._mixed == "each" else {}
        return [refused.get(recipient, unfit) for recipient in self.recipients_accepted]

    def _unfit(self, content: Content) -> Reply | None:
        """The refusal of content that needs an extension that the upstream lacks, or None."""
        if self._upstream.offers_all:
            # What the content needs is not looked up, so another connection must offer all that
            # MAIL asked for.
            self._mail = replace(self._mail, needs=EXTENSIONS)
            return None
        needs = needed_extensions(content.pieces)
        self._mail = replace(self._mail, needs=needs)
        return self._upstream.refusal_of(needs)

    # one transaction with the upstream

    def _permitted(self, outcome: Outcome) -> list[Recipient]:
        if not outcome.mixed:
            return self.recipients_accepted
        refused = {recipient for recipient, _ in outcome.refused}
        return [r for r in self.recipients_accepted if r not in refused]

    def _open_upstream(self, mail: MailParameters) -> None:
        self._upstream = self._services.open_upstream(mail)
        self._upstream_reverse_path = mail.reverse_path

    def _upstream_for(self, outcome: Outcome) -> Steps[None]:
        """Make sure that the upstream transaction has the permitted recipients and the right
        reverse path; begin a new one if not.

        No connection is held while waiting for another. Raises UpstreamError unless the upstream
        accepts every recipient again.
        """
        recipients, mail = self._permitted(outcome), self._mail
        rcpts = [recipient.rcpt for recipient in recipients]
        if outcome.stream.verp:  # so there is one recipient
            mail = self._mail_parameters_for(outcome.stream, recipients[0])
        upstream = self._upstream
        if (
            upstream.is_open
            and upstream.accepted == rcpts
            and self._upstream_reverse_path == mail.reverse_path
        ):
            return
        self.abort()
        self._open_upstream(mail)
        replies: list[Reply] = yield AskUpstream(self._upstream, rcpts)
        refused = [reply.code for reply in replies if reply.code >= 300]
        if refused:
            self.abort()
            raise UpstreamError(f"a recipient accepted earlier is now refused: {refused[0]}")

    def _deliver(self, outcome: Outcome, outgoing: Iterator[bytes]) -> Steps[Reply | Outcome]:
        """Send the content to the upstream; the decision is recorded before the end of data.

        If the upstream is slow to read it, the store is asked once more before its end.
        Returns a new outcome if the store has changed; then the upstream has nothing.
        """
        upstream = self._upstream
        reply: Reply | None = None
        failure = None
        try:
            reply = yield BeginData(upstream)
        except UpstreamError as error:
            failure = error  # raised once the decision is on record
        changed = yield from self._recheck_and_record(outcome)
        if changed is not None:
            self.abort()
            return changed
        if failure is not None:
            raise failure
        if reply is None:
            while (reply := (yield SendContent(upstream, outgoing))) is None:
                changed = yield from self._recheck_recorded(outcome)
                if changed is not None:
                    self.abort()
                    return changed
                outgoing = iter(())
        yield from self._note_outcome(reply, len(upstream.accepted))
        if reply.code >= 300:
            yield from self._not_mailed()
        return reply

    def _split(
        self, outcome: Outcome, headers: HeaderBlock, made: Callable[[], Steps[Iterator[bytes]]]
    ) -> Steps[list[Reply] | Outcome]:
        """Relay to the permitted only. The sender's notice goes first: once a recipient is mailed,
        nothing may keep the sender from learning who was not."""
        self.abort()  # the notice needs a connection too
        outgoing = yield from made()  # first: if it cannot be signed, no notice may have gone
        unnotified = yield from self._notify_refused(outcome, headers.raw)
        if unnotified is not None:
            return unnotified
        yield from self._upstream_for(outcome)
        done = yield from self._deliver(outcome, outgoing)
        if isinstance(done, Outcome):
            return done
        if done.code < 300 and not self._upstream.notifies:
            yield from self._tell_relayed(headers.raw)
        return [done]

    def _tell_relayed(self, header: bytes) -> Steps[None]:
        """Send the notice of success; a failure is only logged, since the mail is accepted."""
        accepted = self._upstream.accepted
        if not any(map(wants_success, accepted)):
            return
        try:
            yield from self._notices.relayed(accepted, header)
        except NoticeRefused:
            pass  # on record
        except FAILURES as error:
            self._failed(error)

    # what leaves

    def _own_fields(self, outcome: Outcome, headers: HeaderBlock) -> dict[Recipient, bytes]:
        """The fields to add to each permitted recipient's copy, which may be b""; an empty dict if
        nobody gets their own copy. Raises StoreUnavailable.
        """
        stream = outcome.stream
        if stream.unsubscribe_scope is None and not stream.verp:
            return {}
        fields = self._unsubscribe_fields(outcome, headers)
        if not self._returns(stream):
            return fields
        own = {}
        for recipient in self._permitted(outcome):
            path = self._mail_parameters_for(stream, recipient).reverse_path
            own[recipient] = fields.get(recipient, b"") + identifying_fields(headers, stream, path)
        return own

    def _unsubscribe_fields(self, outcome: Outcome, headers: HeaderBlock) -> dict[Recipient, bytes]:
        """The fields with each recipient's own link; an empty dict if the relay adds none.

        Raises StoreUnavailable.
        """
        stream, features = outcome.stream, self._features
        if (
            stream.unsubscribe_scope is None
            or not adds_unsubscribe(stream, features)
            or self._one_message
        ):
            return {}
        links = self._services.links
        if links is None:
            raise StoreUnavailable("there are no keys for unsubscribe links")
        has_list_id = bool(headers.raw_values("List-Id"))
        return {
            recipient: links.fields(stream, recipient.canonical, self.id, has_list_id=has_list_id)
            for recipient in self._permitted(outcome)
        }

    def _outgoing(
        self,
        outcome: Outcome,
        headers: HeaderBlock,
        content: Content,
        unsubscribe: bytes,
        only: Recipient | None = None,
    ) -> Steps[Iterator[bytes]]:
        """The content with its edits. Raises SigningFailed."""
        accepted, client = self.recipients_accepted, self.client
        if only is None and len(accepted) == 1:
            only = accepted[0]
        trace = received(
            helo=client.helo,
            peer=client.peer,
            hostname=self._services.hostname,
            protocol=self._protocol,
            id=self.id,
            at=outcome.decided.at,
            recipient=None if only is None else only.path,
        )
        decided, body, found = outcome.decided, None, self._features.content
        address = None if only is None else only.canonical
        if found is not None and found.pixels and outcome.without_pixels(address):
            body = self._body_without_pixels
            if body is None:
                body = yield from body_without_pixels(headers, content.body())
                self._body_without_pixels = body
        return (
            yield from edited(self._services, decided, headers, content, trace, unsubscribe, body)
        )
