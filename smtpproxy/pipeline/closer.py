"""A closer look at a message, for the streams that ask for it: its text, and who else got it."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from smtpproxy.mail.encoded_words import decode
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import read_body
from smtpproxy.mail.shown import ShownText, shown_text
from smtpproxy.pipeline.parts import Parts
from smtpproxy.pipeline.streams import StreamChoice
from smtpproxy.policy.closer import look_closer
from smtpproxy.policy.decide import choose_stream
from smtpproxy.policy.fingerprint import fingerprint
from smtpproxy.policy.model import (
    Alignment,
    CloserLook,
    MessageFeatures,
    Mode,
    Stream,
    UndeclaredBulk,
    Verdict,
)
from smtpproxy.policy.rules.content import stream_in_force
from smtpproxy.relay.content import Body

READ_LIMIT = 2 * 1024 * 1024
"""Octets of a body in which its text is looked for; attachments come after it."""

_LONGEST_FIELD = 4_096  # octets of To and Cc that are looked at
_ON_LOOP = 64 * 1024  # octets of a body that are read on the loop: some milliseconds

T = TypeVar("T")


async def with_closer_look(
    parts: Parts,
    stream: Stream,
    features: MessageFeatures,
    headers: HeaderBlock,
    reverse_path: str,
    people: Collection[str],
    body: Body | None,
) -> MessageFeatures:
    """Return the features with what the stream asks for.

    Its text is counted for `people` (canonical addresses) where the stream counts. Raises
    StoreUnavailable where a verdict depends on that.
    """
    counts = parts.alike is not None and stream.bulk_recipients is not None

    def looked() -> tuple[MessageFeatures, ShownText | None, bytes | None]:
        shown = read_shown(headers, body) if stream.reads_text else None
        found = look_closer(stream, features, headers, reverse_path, shown)
        if shown is None or not counts:
            return found, shown, None
        return found, shown, fingerprint(shown, people, _names(headers))

    def undeclared(shown: ShownText | None, found: MessageFeatures) -> MessageFeatures:
        if shown is None and parts.undeclared.reads_text:
            shown = read_shown(headers, body)
        return as_undeclared(stream, parts.undeclared, found, headers, reverse_path, shown)

    found, shown, text = await _apart(parts, body, looked)
    if text is not None:
        found = await _counted(parts, stream, found, people, text)
    if stream_in_force(stream, found, parts.undeclared) is stream:
        return found
    return await _apart(parts, body, partial(undeclared, shown, found))


async def _apart(parts: Parts, body: Body | None, work: Callable[[], T]) -> T:
    """Do what takes long for a large body in a thread: other sessions go on meanwhile."""
    if body is None or body.size <= _ON_LOOP:
        return work()
    return await asyncio.get_running_loop().run_in_executor(parts.threads, work)


def without_counting(
    choice: StreamChoice,
    undeclared: Stream,
    features: MessageFeatures,
    raw: bytes,
    reverse_path: str,
) -> MessageFeatures:
    """Return the features of a whole message for somebody who asks what would become of it.

    Whom else the text was sent to is not known.
    """
    stream = choose_stream(choice.permitted, choice.default, features.stream_header)
    if isinstance(stream, Verdict) or not stream.looks_closer:
        return features
    head, empty, rest = raw.partition(b"\r\n\r\n")
    headers, body = HeaderBlock(head + empty), Body(lambda: iter((rest,)), len(rest))
    shown = read_shown(headers, body) if stream.reads_text else None
    features = look_closer(stream, features, headers, reverse_path, shown)
    if stream_in_force(stream, features, undeclared) is stream:
        return features
    if shown is None and undeclared.reads_text:
        shown = read_shown(headers, body)
    return as_undeclared(stream, undeclared, features, headers, reverse_path, shown)


def as_undeclared(
    stream: Stream,
    undeclared: Stream,
    features: MessageFeatures,
    headers: HeaderBlock,
    reverse_path: str,
    shown: ShownText | None,
) -> MessageFeatures:
    """Return the features of undeclared bulk with what the stream that it falls to asks for."""
    found = features.closer or CloserLook()
    features = look_closer(undeclared, features, headers, reverse_path, shown)
    look = replace(
        features.closer or CloserLook(),
        bulk_markers=found.bulk_markers,
        alike=found.alike,
        came_on=stream.name,
    )
    return replace(features, closer=look)


def with_own_signature(parts: Parts, stream: Stream, features: MessageFeatures) -> MessageFeatures:
    """Note that the relay signs the message for its From domain, where alignment asks."""
    if stream.alignment is Alignment.OFF or parts.signer is None:
        return features
    keys = parts.signer.keys(features.from_domains, stream.name, parts.now())
    return replace(features, signed_by_relay=True) if keys else features


def read_shown(headers: HeaderBlock, body: Body | None) -> ShownText:
    """Return the text that readers see, from the beginning of the body."""
    if body is None:
        return ShownText("", (), whole=False)
    octets, whole = _beginning(body.pieces())
    shown = shown_text(read_body(headers, octets))
    return shown if whole else replace(shown, whole=False)


def _beginning(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """The first octets, and whether they are all."""
    taken, size = [], 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size > READ_LIMIT:
            return b"".join(taken)[:READ_LIMIT], False
    return (taken[0] if len(taken) == 1 else b"".join(taken)), True


async def _counted(
    parts: Parts,
    stream: Stream,
    features: MessageFeatures,
    people: Collection[str],
    text: bytes,
) -> MessageFeatures:
    """Count the text, known by its fingerprint, for these people."""
    if parts.alike is None or stream.bulk_recipients is None:
        return features
    matters = stream.undeclared_bulk is not UndeclaredBulk.OBSERVE
    exact = matters and stream.mode is Mode.ENFORCE
    count = parts.alike.count if exact else parts.alike.estimate
    key = stream.name.encode() + b"\0" + text
    alike = await count(key, people, parts.now(), stream.bulk_window, stream.bulk_recipients)
    if alike <= 1:
        return features
    return replace(features, closer=replace(features.closer or CloserLook(), alike=alike))


def _names(headers: HeaderBlock) -> list[str]:
    """What the header calls the readers."""
    return [
        decode(value[:_LONGEST_FIELD].decode("utf-8", "replace"))
        for name in ("To", "Cc")
        for value in headers.values(name)[:1]
    ]
