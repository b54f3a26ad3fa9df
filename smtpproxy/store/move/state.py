"""What either end notes of a copy, in a table of its own for as long as that takes."""

from collections.abc import Mapping

import msgspec

from smtpproxy.store.move.ends import Begun, Reached
from smtpproxy.store.sqlite.moves import STATE as STATE

FIND = f"SELECT name, value FROM {STATE}"
NAME = "begun"
"""The row of the copy itself; those of tables, by name, say how far it is."""

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.Decoder(Begun).decode
_reached = msgspec.msgpack.Decoder(Reached).decode


def begun(noted: Mapping[str, bytes]) -> Begun | None:
    return decode(noted[NAME]) if NAME in noted else None


def reached(noted: Mapping[str, bytes], table: str) -> Reached:
    return _reached(noted[table]) if table in noted else Reached()
