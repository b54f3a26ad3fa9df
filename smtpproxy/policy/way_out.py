"""Whether a message gets its way out from the relay (`unsubscribe = "add"`).

The rules judge what will go out, so they ask here what that will be.
"""

from smtpproxy.policy.model import MessageFeatures, Stream
from smtpproxy.policy.terms import ExistingUnsubscribe

_KEEP, _REPLACE = ExistingUnsubscribe.KEEP, ExistingUnsubscribe.REPLACE


def added(stream: Stream, features: MessageFeatures) -> bool:
    """Whether the relay puts List-Unsubscribe and List-Unsubscribe-Post into the message.

    Not into one whose header cannot be read, which only passes where it is observed.
    """
    return (
        stream.unsubscribe_scope is not None
        and features.malformed is None
        and (not features.unsubscribe_fields or stream.existing_unsubscribe is _REPLACE)
    )


def unwanted(stream: Stream, features: MessageFeatures) -> bool:
    """Whether the message has a way out of its own where only the relay's may be."""
    return (
        stream.unsubscribe_scope is not None
        and features.unsubscribe_fields > 0
        and stream.existing_unsubscribe not in (_KEEP, _REPLACE)
    )
