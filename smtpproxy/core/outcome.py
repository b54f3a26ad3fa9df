"""What was decided about a message, and how it is answered. Pure records."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from smtpproxy.events import Decided
from smtpproxy.mail.address import AddressError, AmbiguousAddress
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import Action, Reason, Stream, Verdict
from smtpproxy.policy.replies import message_reply, recipient_reply, recipients_reply
from smtpproxy.wire.commands import Rcpt

TEMPORARY_FAILURE = Reply.of(451, "4.3.0", "temporary_failure")
BAD_ADDRESS = Reply.of(553, "5.1.3", "recipient address cannot be read")
AMBIGUOUS_ADDRESS = Reply.of(
    553,
    "5.1.3",
    "recipient address may be read as too many others: write it without %, ! or quotes",
)

Mixed = Literal["refuse", "split", "each"]
"""What becomes of a message that only some may get: nobody gets it, the others get it and
the sender a notice, or each recipient has a reply of its own (LMTP, PRDR)."""


class Recipient(Struct, frozen=True):
    """A recipient as the client asked for it."""

    rcpt: Rcpt
    canonical: str

    @property
    def path(self) -> str:
        return self.rcpt.forward_path


Refused = tuple[Recipient, Verdict]


class Outcome(Struct, frozen=True):
    """A decided message. `refused` are the recipients that it is not for, observed or not."""

    decided: Decided
    refused: tuple[Refused, ...]
    passes: bool

    @property
    def stream(self) -> Stream:
        return self.decided.decision.stream

    @property
    def mixed(self) -> bool:
        """Whether it is to go to some of its recipients only."""
        return self.passes and bool(self.refused) and not self.decided.observed

    @property
    def refusal(self) -> Reply:
        """The one reply for a message that does not pass."""
        stream, verdict = self.stream.name, self.decided.decision.message
        if verdict is not None and verdict.reason is not Reason.RECIPIENTS_REFUSED:
            return message_reply(verdict, stream, self.decided.id)
        return refusal_of(self.refused, stream, self.decided.id)

    @property
    def refusals(self) -> dict[Recipient, Reply]:
        """The reply to each recipient that it is not for."""
        stream, id = self.stream.name, self.decided.id
        return {
            recipient: recipient_reply(recipient.path, verdict, stream, id)
            for recipient, verdict in self.refused
        }

    @property
    def for_nobody(self) -> bool:
        """Whether the message is refused for its recipients' sake alone, each of them refused."""
        message = self.decided.decision.message
        return (
            message is not None
            and message.reason is Reason.RECIPIENTS_REFUSED
            and len(self.refused) == len(self.decided.recipients)
        )


def refusal_of(refused: Sequence[Refused], stream: str, id: str) -> Reply:
    """The one reply for a message that nobody gets for these recipients' sake."""
    named = [(recipient.path, verdict) for recipient, verdict in refused]
    if len(named) == 1:
        return recipient_reply(*named[0], stream, id)
    return recipients_reply(named, stream, id)


def unreadable(error: AddressError) -> Reply:
    """The reply about a recipient that cannot be judged by its address."""
    return AMBIGUOUS_ADDRESS if isinstance(error, AmbiguousAddress) else BAD_ADDRESS


def refused_as_a_whole(refused: Sequence[Refused]) -> Verdict:
    """The verdict on a message that is refused for some recipients' sake.

    Refusals come before deferrals, so that nobody retries the impossible.
    """
    actions = {verdict.action for _, verdict in refused}
    action = Action.REFUSE if Action.REFUSE in actions else Action.DEFER
    return Verdict(action, Reason.RECIPIENTS_REFUSED, rule="on_mixed")
