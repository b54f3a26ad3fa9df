"""How a store refuses work because it was copied to another, or is still being filled with a
copy."""

import re

# Both are kept in databases, and recognised there: older releases wrote them, too.
CLOSED = "the store was copied to"
FILLING = "the store is being filled with a copy of"


def closed_text(url: str, place: str) -> str:
    """Return why the store at `url`, which was copied to `place`, refuses work, and what to do."""
    if place.startswith(FILLING):
        return f"{place}; smtpproxy store copy finishes it"
    return (
        f"{CLOSED} {place}, which replaces it; set store.url to that, or undo the copy with "
        f"smtpproxy store reopen '{without_password(url)}'"
    )


def without_password(url: str) -> str:
    shown = re.sub(r"(//[^/?#:@]*):[^/?#]*@", r"\1@", url)
    return re.sub(r"([?&](?:ssl)?password)=[^&]*", r"\1=...", shown)


def says_closed(text: str) -> bool:
    """Return whether the text of a database error is such a refusal."""
    return CLOSED in text or FILLING in text
