"""What is said of a store that was copied to another, or is being filled with a copy."""

import re

CLOSED = "the store was copied to"
"""How the text begins that refuses what is done with a store after that."""


FILLING = "the store is being filled with a copy of"
"""How the text begins that refuses what is done with a store before such a copy is whole."""


def closed_text(url: str, place: str) -> str:
    """Say that the store of `url` was copied to `place`, and what to do."""
    if place.startswith(FILLING):
        return f"{place}; smtpproxy store copy brings it to its end"
    return (
        f"{CLOSED} {place}, which counts now; let store.url name that, or undo it with "
        f"smtpproxy store reopen '{without_password(url)}'"
    )


def without_password(url: str) -> str:
    """Return a store's URL as it may be shown."""
    shown = re.sub(r"(//[^/?#:@]*):[^/?#]*@", r"\1@", url)
    return re.sub(r"([?&](?:ssl)?password)=[^&]*", r"\1=...", shown)


def says_closed(text: str) -> bool:
    """Tell whether it was such a text that refused a write."""
    return CLOSED in text or FILLING in text
