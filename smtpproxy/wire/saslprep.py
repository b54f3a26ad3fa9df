"""SASLprep: one form for user names and passwords, however they were typed (RFC 4013)."""

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class NotPreparable(ValueError):
    """A character that a user name or password cannot have; the text names no character."""


def saslprep(text: str) -> str:
    """Return the prepared form of a query: unassigned code points may stand in it.

    Raises NotPreparable.
    """
    if text.isascii():
        if not text.isprintable():
            raise NotPreparable("holds a control character")
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(char) for char in prepared for prohibited in _PROHIBITED):
        raise NotPreparable("holds a character that it cannot have")
    right_to_left = [stringprep.in_table_d1(char) for char in prepared]
    if any(right_to_left):  # RFC 3454, section 6
        mixed = any(map(stringprep.in_table_d2, prepared))
        if mixed or not (right_to_left[0] and right_to_left[-1]):
            raise NotPreparable("mixes directions of writing")
    return prepared
