"""Which decisions of a journal are asked for."""

import msgspec
from msgspec import Struct

from smtpproxy.events import Decided
from smtpproxy.policy.model import Action, Reason, Verdict


class Chosen(Struct, frozen=True):
    """Which decisions; None is any. What concerns a verdict holds for one of the same recipient.

    `recipient` is a canonical address, `app` a listener or `Client.app`, `message_id` without
    angle brackets.
    """

    recipient: str | None = None
    stream: str | None = None
    verdict: Action | None = None
    reason: Reason | None = None
    app: str | None = None
    message_id: str | None = None

    @property
    def needle(self) -> bytes:
        """What stands in every line that is chosen; the rarest that is known, or nothing."""
        if self.recipient is not None:
            return msgspec.json.encode(self.recipient)
        if self.message_id is not None:
            return msgspec.json.encode(self.message_id)[1:-1]
        return b"" if self.reason is None else b'"reason":"%b"' % self.reason.encode()

    def has(self, decided: Decided) -> bool:
        client, recipient = decided.client, self.recipient
        return (
            (self.stream is None or decided.decision.stream.name == self.stream)
            and (self.app is None or self.app in (client.listener, client.app))
            and (self.message_id is None or _bare(decided.message_id) == _bare(self.message_id))
            and (recipient is None or recipient in [r.canonical for r in decided.recipients])
            and ((self.verdict is None and self.reason is None) or self._has_verdict(decided))
        )

    def _has_verdict(self, decided: Decided) -> bool:
        message = decided.decision.message
        found = [] if message is None or message.action is Action.ALLOW else [message]
        return any(
            self.verdict in (None, verdict.action) and self.reason in (None, verdict.reason)
            for verdict in (*found, *verdicts(decided))
        )


def _bare(message_id: str | None) -> str:
    return (message_id or "").strip().removeprefix("<").removesuffix(">")


def verdicts(decided: Decided) -> list[Verdict]:
    """What became of each recipient: a message that was refused has its reason at each."""
    message, each = decided.decision.message, [one.verdict for one in decided.recipients]
    if message is None or message.action is Action.ALLOW:
        return each
    return [message if verdict.action is Action.ALLOW else verdict for verdict in each]
