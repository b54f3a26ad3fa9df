"""A change of a suppression as others are told it: in the feed and in webhooks alike."""

from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import SuppressionChange


def change_object(change: SuppressionChange) -> dict[str, object]:
    """Return the object of one change. It holds no address and no note."""
    return {
        "seq": change.seq,
        "at": written_time(change.at),
        "action": change.action,
        "key": change.key,
        "scope": change.scope,
        "origin": str(change.origin),
        "since": written_time(change.since),
    }
