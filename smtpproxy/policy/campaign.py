"""A new campaign on trial: its first recipients show what the others would make of it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b

from msgspec import Struct

_LONGEST_ID = 1_000  # octets of a Feedback-ID that are looked at
_MILLION = 1_000_000


class Trial(Struct, frozen=True, omit_defaults=True):
    """What a stream asks of a campaign that is new on it. Shares are parts per million."""

    recipients: int  # the first ones, who get it
    strangers: int | None = 500_000  # of them, for a pause; None: any
    dead_addresses: int | None = 50_000
    wait: float = 14_400.0  # seconds that the others wait
    silent_after: float = 31_536_000.0  # seconds without a sign of life


class Campaign(Struct, frozen=True, omit_defaults=True):
    """What is known of a campaign from those who were to get it first."""

    key: str  # which campaign it is, in hex
    people: int = 0
    strangers: int = 0  # of these: never mailed before, or silent for long
    dead: int = 0  # of these: their address does not exist
    full_at: datetime | None = None  # when there were enough of them
    dead_at: datetime | None = None  # when too many were dead


def campaign_key(stream: str, feedback_ids: Sequence[bytes], text: bytes | None) -> str | None:
    """Return which campaign a message is of, by its Feedback-ID, else by the fingerprint of its
    text; None where it has neither."""
    if feedback_ids:
        told = b"id\0" + b" ".join(feedback_ids[0][:_LONGEST_ID].lower().split())
    elif text is not None:
        told = b"text\0" + text
    else:
        return None
    return blake2b(stream.encode() + b"\0" + told, digest_size=16).hexdigest()


def held_until(campaign: Campaign, trial: Trial) -> datetime | None:
    """Return until when a campaign waits; None: it never had to."""
    if campaign.full_at is None:
        return None
    wait, moments = timedelta(seconds=trial.wait), []
    share = trial.strangers
    if share is not None and campaign.strangers * _MILLION >= share * campaign.people:
        moments.append(campaign.full_at + wait)
    if campaign.dead_at is not None and trial.dead_addresses is not None:
        moments.append(max(campaign.full_at, campaign.dead_at) + wait)
    return max(moments, default=None)
