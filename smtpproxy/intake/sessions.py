"""Which session speaks the protocol of a listener."""

import asyncio
from collections.abc import Callable, Mapping

from smtpproxy.intake.door import Door
from smtpproxy.intake.milter import MilterSession
from smtpproxy.intake.policy import PolicySession
from smtpproxy.intake.smtp import SmtpSession

SESSIONS: Mapping[str, Callable[[Door], asyncio.Protocol]] = {
    "smtp": SmtpSession,
    "lmtp": SmtpSession,
    "milter": MilterSession,
    "policy": PolicySession,
}
"""By `protocol` of the listener; one session is made for each connection."""
