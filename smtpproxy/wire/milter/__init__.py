"""The milter protocol, versions 2 to 6, from the milter's side."""

from smtpproxy.wire.milter.commands import MilterError
from smtpproxy.wire.milter.connection import NEED_DATA, PACKET_LIMIT, MilterConnection, Signal
from smtpproxy.wire.milter.flags import Actions, Stage, Steps

__all__ = [
    "NEED_DATA",
    "PACKET_LIMIT",
    "Actions",
    "MilterConnection",
    "MilterError",
    "Signal",
    "Stage",
    "Steps",
]
