"""The way out that the relay puts into a message: a link of each recipient's own."""

from collections.abc import Callable

from smtpproxy.mail.unsubscribe import unsubscribe_fields
from smtpproxy.mail.unsubscribe_token import TokenRing, Unsubscription, fits, stream_tag
from smtpproxy.policy.model import ExistingUnsubscribe, Stream

PATH = "/u/"


class UnsubscribeLinks:
    """Makes the fields with the link. Links are below `public_url`."""

    def __init__(self, ring: TokenRing, public_url: str, key_text: Callable[[str], str]) -> None:
        """`key_text` makes the key text of a suppression; it may raise StoreUnavailable."""
        self._ring = ring
        self._base = public_url + PATH
        self._key_text = key_text
        self._tags: dict[str, bytes] = {}

    def fields(self, stream: Stream, address: str, id: str, *, has_list_id: bool) -> bytes:
        """Return the fields for a canonical address, on a stream that adds them.

        `id` is the decision's. A List-Id of the message stays, unless the stream replaces.
        Raises StoreUnavailable.
        """
        scope = stream.unsubscribe_scope or "marketing"
        tag = self._tags.get(stream.name) or self._tags.setdefault(
            stream.name, stream_tag(stream.name)
        )
        told = (
            Unsubscription(address, scope, id, tag)
            if fits(address, scope)
            else Unsubscription(self._key_text(address), scope, id)
        )
        token = self._ring.seal(told)
        keeps = has_list_id and stream.existing_unsubscribe is not ExistingUnsubscribe.REPLACE
        return unsubscribe_fields(
            self._base + token,
            token,
            mailto=stream.unsubscribe_mailto,
            list_id=None if keeps else stream.list_id,
        )
