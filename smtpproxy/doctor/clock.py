"""Whether something keeps the clock right: dates in records, caps and signatures rest on it.

Nobody is asked what time it is. The kernel knows whether its clock is being disciplined
(adjtimex(2)), and systemd-timesyncd leaves a mark when it has synchronised once.
"""

import ctypes
import errno
import os
from pathlib import Path

from msgspec import Struct

from smtpproxy.doctor.finding import Check, Finding, Status

_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5
_STA_UNSYNC = 0x40
_FAR_OFF = 1.0  # seconds
_SUBJECT = "clock"
_MEND = "run chrony, ntpd or systemd-timesyncd (in a container: on its host)"


class ClockSeen(Struct, frozen=True):
    """`synchronised` is None where the kernel did not tell; `error` is its bound, in seconds."""

    synchronised: bool | None
    error: float = 0.0
    marked: bool = False  # by systemd-timesyncd
    failure: str = ""


def clock() -> Finding:
    return judge_clock(look())


def judge_clock(seen: ClockSeen) -> Finding:
    if seen.synchronised:
        text = f"kept right, to within {seen.error:.3f} s by the kernel's own account"
        if seen.error > _FAR_OFF:
            return Finding(Check.CLOCK, _SUBJECT, Status.WARN, text, _MEND)
        return Finding(Check.CLOCK, _SUBJECT, Status.PASS, text)
    if seen.marked:
        text = "systemd-timesyncd has synchronised it"
        return Finding(Check.CLOCK, _SUBJECT, Status.PASS, text)
    if seen.synchronised is None:
        text = f"the kernel does not tell: {seen.failure}"
        return Finding(Check.CLOCK, _SUBJECT, Status.UNKNOWN, text, _MEND)
    text = "nothing tells the kernel that its clock is right"
    return Finding(Check.CLOCK, _SUBJECT, Status.WARN, text, _MEND)


class _Timex(ctypes.Structure):
    """struct timex of Linux, as far as it is read; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def look() -> ClockSeen:
    """Read the kernel's account. Asks for no privilege: nothing is set."""
    marked = _SYNCHRONISED.exists()
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return ClockSeen(None, marked=marked, failure="there is no adjtimex here")
    timex = _Timex()
    state = adjtimex(ctypes.byref(timex))
    if state < 0:
        name = errno.errorcode.get(ctypes.get_errno(), "")
        text = f"adjtimex: {os.strerror(ctypes.get_errno())} {name}".rstrip()
        return ClockSeen(None, marked=marked, failure=text)
    synchronised = state != _TIME_ERROR and not timex.status & _STA_UNSYNC
    return ClockSeen(synchronised, timex.maxerror / 1e6, marked)
