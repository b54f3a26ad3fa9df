"""The trial of a new campaign: its first recipients show how the others would react."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b

from msgspec import Struct

_LONGEST_ID = 1_000  # octets of a Feedback-ID that are read
_MILLION = 1_000_000


class Trial(Struct, frozen=True, omit_defaults=True):
    """What a stream requires of a new campaign. Shares are parts per million."""

    recipients: int  # how many get it first
    strangers: int | None = 500_000  # the share of them that makes the others wait; None: none does
    dead_addresses: int | None = 50_000
    wait: float = 14_400.0  # seconds that the others wait
    silent_after: float = 31_536_000.0  # seconds without a sign of life


class Campaign(Struct, frozen=True, omit_defaults=True):
    """What is known about a campaign from its first recipients."""

    key: str  # identifies the campaign, in hex
    people: int = 0
    strangers: int = 0  # of these, never mailed before or long silent
    dead: int = 0  # of these, with an address that does not exist
    full_at: datetime | None = None  # when enough people had been counted
    dead_at: datetime | None = None  # when too many of them were dead


def campaign_key(stream: str, feedback_ids: Sequence[bytes], text: bytes | None) -> str | None:
    """Return the key of a message's campaign, from its Feedback-ID or else the fingerprint of its
    text; None if it has neither."""
    if feedback_ids:
        identity = b"id\0" + b" ".join(feedback_ids[0][:_LONGEST_ID].lower().split())
    elif text is not None:
        identity = b"text\0" + text
    else:
        return None
    return blake2b(stream.encode() + b"\0" + identity, digest_size=16).hexdigest()


def held_until(campaign: Campaign, trial: Trial) -> datetime | None:
    """Return until when a campaign waits; None: it need not."""
    if campaign.full_at is None:
        return None
    wait, moments = timedelta(seconds=trial.wait), []
    share = trial.strangers
    if share is not None and campaign.strangers * _MILLION >= share * campaign.people:
        moments.append(campaign.full_at + wait)
    if campaign.dead_at is not None and trial.dead_addresses is not None:
        moments.append(max(campaign.full_at, campaign.dead_at) + wait)
    return max(moments, default=None)
