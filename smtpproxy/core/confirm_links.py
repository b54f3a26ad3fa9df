"""Whether a permission message carries the link by which its reader can say yes.

The app gets the link from `smtpproxy consent link` or the API and puts it into its text; here
each of ours is opened, so that an invented, altered or borrowed one is refused.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from smtpproxy.mail.confirmation_token import PATH, Confirmation
from smtpproxy.mail.unsubscribe_token import TokenError
from smtpproxy.policy.model import ConfirmLink, Stream

_MOST = 20  # links of ours in one message: text, button, footer


class ConfirmLinks:
    """Reads them with `open_token` (`store.link_keys.LinkReader.open_confirmation`)."""

    def __init__(self, public_url: str, open_token: Callable[[str], Confirmation]) -> None:
        self._base = public_url + PATH
        self._open = open_token

    def found(
        self, links: Sequence[str], people: Sequence[str], stream: Stream, now: datetime
    ) -> ConfirmLink:
        """Return what all of ours are: one that is wrong is one too many.

        `people` are the canonical recipients of the message. Raises StoreUnavailable.
        """
        ours = list(dict.fromkeys(link for link in links if link.startswith(self._base)))
        if not ours:
            return ConfirmLink.MISSING
        if len(people) != 1:
            return ConfirmLink.SEVERAL
        if len(ours) > _MOST:
            return ConfirmLink.UNKNOWN
        for link in ours:
            state = self._state(link.removeprefix(self._base), people[0], stream, now)
            if state is not ConfirmLink.VALID:
                return state
        return ConfirmLink.VALID

    def _state(self, token: str, person: str, stream: Stream, now: datetime) -> ConfirmLink:
        try:
            told = self._opened(token)
        except TokenError:
            return ConfirmLink.UNKNOWN
        meant = ("permission", person, stream.brand, stream.purpose)
        if (told.kind, told.recipient, told.brand, told.purpose) != meant:
            return ConfirmLink.FOREIGN
        return ConfirmLink.OVER if now > told.until else ConfirmLink.VALID

    def _opened(self, token: str) -> Confirmation:
        """In plain text a `_` behind it may be of the token, or mark what is emphasised."""
        for _ in range(2):  # as `__` does
            try:
                return self._open(token)
            except TokenError:
                if not token.endswith("_"):
                    raise
                token = token.removesuffix("_")
        return self._open(token)
