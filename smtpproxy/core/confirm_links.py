"""Whether a permission message carries the link by which its reader can consent.

The app gets the link from `smtpproxy consent link` or the API and puts it into its text. Here each
such link is opened, so that an invented, altered or borrowed one is refused.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from smtpproxy.mail.confirmation_token import PATH, Confirmation
from smtpproxy.mail.unsubscribe_token import TokenError
from smtpproxy.policy.model import ConfirmLink, Stream

_MAX_LINKS = 20  # different ones in a message: text, button, footer


class ConfirmLinks:
    """Opens confirm links with `open_token` (`store.link_keys.LinkReader.open_confirmation`)."""

    def __init__(self, public_url: str, open_token: Callable[[str], Confirmation]) -> None:
        self._base = public_url + PATH
        self._open = open_token

    def found(
        self, links: Sequence[str], people: Sequence[str], stream: Stream, now: datetime
    ) -> ConfirmLink:
        """Return the state of all confirm links among `links`, which is VALID only if each one is.

        `people` are the canonical recipients of the message. Raises StoreUnavailable.
        """
        ours = list(dict.fromkeys(link for link in links if link.startswith(self._base)))
        if not ours:
            return ConfirmLink.MISSING
        if len(people) != 1:
            return ConfirmLink.SEVERAL
        if len(ours) > _MAX_LINKS:
            return ConfirmLink.UNKNOWN
        for link in ours:
            state = self._state(link.removeprefix(self._base), people[0], stream, now)
            if state is not ConfirmLink.VALID:
                return state
        return ConfirmLink.VALID

    def _state(self, token: str, person: str, stream: Stream, now: datetime) -> ConfirmLink:
        try:
            link = self._opened(token)
        except TokenError:
            return ConfirmLink.UNKNOWN
        expected = ("permission", person, stream.brand, stream.purpose)
        if (link.kind, link.recipient, link.brand, link.purpose) != expected:
            return ConfirmLink.FOREIGN
        return ConfirmLink.OVER if now > link.until else ConfirmLink.VALID

    def _opened(self, token: str) -> Confirmation:
        """Open a token. A `_` at its end may belong to it, or be plain text's mark of emphasis."""
        for _ in range(2):  # as `__` does
            try:
                return self._open(token)
            except TokenError:
                if not token.endswith("_"):
                    raise
                token = token.removesuffix("_")
        return self._open(token)
