"""What msgspec finds wrong with a value, in words for people."""

import re

_WORDED = (
    (r".* matching regex .*0-9A-Fa-f.*", "is not a SHA-256"),
    (r".* matching regex .*", "holds a line end or another control character"),
    (r".* of length >= 1.*", "is empty"),
    (r"Expected `array` of length <= (\d+).*", r"has more than \1 entries"),
    (r".* of length <= (\d+).*", r"has more than \1 characters"),
    (r"Expected `datetime` with a timezone component", "has no time zone"),
    (r"Invalid RFC3339 encoded datetime", "is not a time"),
    (r"Expected `object.*", "is not an object"),
    (r"Expected `array.*", "is not a list"),
    (r"Expected `bool.*", "is neither true nor false"),
    (r"Expected `str.*", "is not text"),
    (r"Expected `datetime.*", "is not a time"),
    (r"Invalid enum value '?(.*?)'?", r"'\1' is unknown"),
    (r"Object missing required field `(\w+)`", r"the field `\1` is missing"),
)


def in_words(text: str) -> str:
    """Say what msgspec found without its types and patterns."""
    for pattern, words in _WORDED:
        if match := re.fullmatch(pattern, text):
            return match.expand(words)
    return (text[:1].lower() + text[1:]).removeprefix("object ")
