"""What is found out about a message only if its stream requires it: text, signatures, copies."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.core.effects import CheckSignatures, CountText, FindOrganisations, InThread, Steps
from smtpproxy.core.services import Services
from smtpproxy.mail.cutting import CannotCut
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.long_lines import with_broken_lines
from smtpproxy.mail.mime import decode_words, read_body, read_texts
from smtpproxy.mail.visible_text import VisibleText, visible_text
from smtpproxy.policy.bulk import asks_for_text
from smtpproxy.policy.campaign import Campaign, campaign_key
from smtpproxy.policy.content_checks import check_content, fingerprint
from smtpproxy.policy.decide import asks_for_signatures
from smtpproxy.policy.model import (
    Alignment,
    ConfirmLink,
    ContentFeatures,
    MessageFeatures,
    Mode,
    SignatureFinding,
    SignatureState,
    Stream,
    StreamClass,
    TrackingPixels,
    UndeclaredBulk,
)
from smtpproxy.policy.pixels import pixels_of, without_pixels
from smtpproxy.policy.rules.message import stream_in_force
from smtpproxy.relay.content import Body

READ_LIMIT = 2 * 1024 * 1024
"""Octets of a body that are searched for its text; attachments come after it."""

ON_LOOP = 64 * 1024  # octets of a body that are read on the loop: some milliseconds
_FEEDBACK_ID = "Feedback-ID"
_LONGEST_FIELD = 4_096  # octets of To and Cc that are read
_ALLOW_PIXELS = TrackingPixels.ALLOW
_ACTS_ON_PIXELS = (TrackingPixels.REFUSE, TrackingPixels.STRIP)

T = TypeVar("T")


class Message(Struct, frozen=True):
    """What a listener has of a message at its end.

    `body` makes the body that the relay hands on and may sign. It is None if an MTA keeps the
    message; then `text` is what can be read of it.
    """

    headers: HeaderBlock
    size: int
    body: Callable[[], Body] | None = None
    text: Body | None = None

    def readable(self) -> Body | None:
        return self.text if self.body is None else self.body()


def with_content(
    services: Services,
    stream: Stream,
    features: MessageFeatures,
    message: Message,
    reverse_path: str,
    people: Sequence[str],
) -> Steps[MessageFeatures]:
    """Find out what else the rules of the stream look at, except for what only the DNS knows.

    `people` are its canonical recipients, for whom the text is counted if the stream counts texts.
    Raises StoreUnavailable if a verdict depends on that count.
    """
    headers = message.headers
    if stream.max_recipients is not None:
        features = replace(features, recipients=len(people))
    if stream.checks_content or (
        stream.tracking_pixels is not _ALLOW_PIXELS
        and b"content-type" in headers.by_name
        and _looks_for_pixels(stream, headers)
    ):
        if message.body is not None:
            features = _with_own_signature(services, stream, features)
        features = yield from _with_content_checks(
            services, stream, features, message, reverse_path, people
        )
    return features


def reads_body(stream: Stream, headers: HeaderBlock) -> bool:
    """Whether this stream looks at the body of a message with this header."""
    return _reads_text(stream, headers) or _looks_for_pixels(stream, headers)


def _reads_text(stream: Stream, headers: HeaderBlock) -> bool:
    transactional = stream.stream_class is StreamClass.TRANSACTIONAL
    if stream.trial is not None and not _feedback_ids(headers):
        return True
    return stream.reads_text or (transactional and asks_for_text(headers))


def _looks_for_pixels(stream: Stream, headers: HeaderBlock) -> bool:
    if not stream.looks_for_pixels:
        return False
    types = b"".join(headers.by_name.get(b"content-type", ())).lower()
    return types.find(b"html") >= 0 or types.find(b"multipart") >= 0


def with_dns(
    services: Services,
    stream: Stream,
    features: MessageFeatures,
    message: Message,
) -> Steps[tuple[MessageFeatures, str]]:
    """Find out what the DNS knows, if a rule asks; also return what failed ("" if nothing did)."""
    failures: list[str] = []
    if services.asks_organisations and stream.alignment is Alignment.RELAXED:
        features, failure = yield from FindOrganisations(stream, features)
        failures += [failure] if failure else []
    if services.checks_signatures and asks_for_signatures(stream, features):
        signing_keys = services.signing_keys if message.body is not None else None
        if signing_keys and signing_keys(features.from_domains, stream.name, services.now()):
            features = replace(features, signed_by_relay=True)  # the relay's own signature will do
        else:
            body = None if message.body is None else message.body()
            found = yield from CheckSignatures(message.headers, body)
            features, failure = _with_signatures(features, found)
            failures += [failure] if failure else []
    return features, "; ".join(failures)


def _with_content_checks(
    services: Services,
    stream: Stream,
    features: MessageFeatures,
    message: Message,
    reverse_path: str,
    people: Sequence[str],
) -> Steps[MessageFeatures]:
    counts = services.counts_texts and stream.bulk_recipients is not None
    headers, text = message.headers, message.readable()

    def check() -> tuple[MessageFeatures, VisibleText | None, bytes | None]:
        visible = _visible_text(headers, text) if _reads_text(stream, headers) else None
        found = features
        if stream.checks_content:
            sender = _leaving(services, stream, reverse_path)
            found = check_content(stream, features, headers, sender, visible, people)
        if stream.permission:
            found = _with_confirm_link(services, stream, found, visible, people)
        found = _with_pixels(services, stream, found, message)
        if stream.trial is not None:
            found = _with_campaign(stream, found, headers, people, visible)
        if visible is None or not counts:
            return found, visible, None
        return found, visible, fingerprint(visible, people, _names(headers))

    found, visible, text_fingerprint = yield from _in_thread_if_large(text, check)
    if text_fingerprint is not None:
        found = yield from _with_count(services, stream, found, people, text_fingerprint)
    in_force = stream_in_force(stream, found, services.undeclared)
    if in_force is stream:
        return found

    def undeclared() -> MessageFeatures:
        read = in_force.reads_text and visible is None
        seen = _visible_text(headers, text) if read else visible
        judged = _as_undeclared(stream, in_force, found, headers, reverse_path, seen, people)
        return _with_pixels(services, in_force, judged, message)

    return (yield from _in_thread_if_large(text, undeclared))


def _leaving(services: Services, stream: Stream, reverse_path: str) -> str:
    """The reverse path that the message leaves with, or one at the same domain."""
    if stream.verp and reverse_path and services.return_domain:
        return f"bounces@{services.return_domain}"
    return reverse_path


def _with_campaign(
    stream: Stream,
    features: MessageFeatures,
    headers: HeaderBlock,
    people: Sequence[str],
    visible: VisibleText | None,
) -> MessageFeatures:
    """Note which campaign the message is of."""
    ids, text = _feedback_ids(headers), None
    if visible is not None and not ids:
        text = fingerprint(visible, people, _names(headers), numbers=True)
    key = campaign_key(stream.name, ids, text)
    if key is None:
        return features
    content = replace(features.content or ContentFeatures(), campaign=Campaign(key))
    return replace(features, content=content)


def _feedback_ids(headers: HeaderBlock) -> list[bytes]:
    """Return those that name a campaign: messages with an empty one have nothing in common."""
    return [value for value in headers.values(_FEEDBACK_ID) if value]


def _with_pixels(
    services: Services, stream: Stream, features: MessageFeatures, message: Message
) -> MessageFeatures:
    """Note what in the message reports that it was opened, if the stream asks."""
    headers, text = message.headers, message.readable()
    if text is None or not _looks_for_pixels(stream, headers):
        return features
    octets, whole = _beginning(text.pieces())
    texts, _, malformed = read_texts(headers, octets)
    if malformed is not None and stream.tracking_pixels in _ACTS_ON_PIXELS:
        features = replace(features, malformed=features.malformed or malformed)
    pixels = pixels_of(texts)
    if not pixels:
        return features
    fixed = False
    if stream.tracking_pixels is TrackingPixels.STRIP:
        fixed = message.body is None or _signed_by_others(services, stream, features, headers)
        try:
            fixed = fixed or not without_pixels(headers, octets, whole=whole)
        except CannotCut:
            fixed = True
    content = features.content or ContentFeatures()
    return replace(features, content=replace(content, pixels=pixels, pixels_fixed=fixed))


def _signed_by_others(
    services: Services, stream: Stream, features: MessageFeatures, headers: HeaderBlock
) -> bool:
    """Whether a cut would break a signature that the relay does not replace by its own."""
    if not features.dkim_fields and not headers.count("ARC-Message-Signature"):
        return False
    keys = services.signing_keys
    return keys is None or not keys(features.from_domains, stream.name, services.now())


def body_without_pixels(headers: HeaderBlock, body: Body) -> Steps[Body]:
    """Return the body without what reports that it was opened, as far as that can be cut out."""
    octets, whole = _beginning(body.pieces())
    edited = yield from _in_thread_if_large(
        body, lambda: without_pixels(headers, octets, whole=whole)
    )

    def pieces() -> Iterator[bytes]:
        yield edited
        skip = len(octets)
        for piece in () if whole else body.pieces():
            if skip < len(piece):
                yield piece[skip:]
            skip = max(skip - len(piece), 0)

    return Body(pieces, body.size - len(octets) + len(edited))


def _with_confirm_link(
    services: Services,
    stream: Stream,
    features: MessageFeatures,
    visible: VisibleText | None,
    people: Sequence[str],
) -> MessageFeatures:
    """Note the state of the link by which the reader can consent."""
    found, links = ConfirmLink.MISSING, services.confirm_links
    if visible is not None and links is not None:
        found = links.found(visible.unbroken().links, people, stream, services.now())
    look = replace(features.content or ContentFeatures(), confirm_link=found)
    return replace(features, content=look)


def _in_thread_if_large(body: Body | None, work: Callable[[], T]) -> Steps[T]:
    """Do the work in a thread if the body is large."""
    if body is None or body.size <= ON_LOOP:
        return work()
    return (yield from InThread(work))


def _as_undeclared(
    stream: Stream,
    undeclared: Stream,
    features: MessageFeatures,
    headers: HeaderBlock,
    reverse_path: str,
    visible: VisibleText | None,
    people: Sequence[str],
) -> MessageFeatures:
    """Return the features of undeclared bulk, with those that its stream in force looks at."""
    found = features.content or ContentFeatures()
    features = check_content(undeclared, features, headers, reverse_path, visible, people)
    look = replace(
        features.content or ContentFeatures(),
        bulk_markers=found.bulk_markers,
        bulk_text=found.bulk_text,
        alike=found.alike,
        declared_stream=stream.name,
    )
    return replace(features, content=look)


def _with_own_signature(
    services: Services, stream: Stream, features: MessageFeatures
) -> MessageFeatures:
    """Note that the relay signs the message for its From domain, if alignment matters."""
    if stream.alignment is Alignment.OFF or services.signing_keys is None:
        return features
    keys = services.signing_keys(features.from_domains, stream.name, services.now())
    return replace(features, signed_by_relay=True) if keys else features


def _with_count(
    services: Services,
    stream: Stream,
    features: MessageFeatures,
    people: Sequence[str],
    text: bytes,
) -> Steps[MessageFeatures]:
    """Count the text, identified by its fingerprint, for these people."""
    if stream.bulk_recipients is None:
        return features
    matters = stream.undeclared_bulk is not UndeclaredBulk.OBSERVE
    alike = yield from CountText(
        stream.name.encode() + b"\0" + text,
        people,
        services.now(),
        stream.bulk_window,
        stream.bulk_recipients,
        matters and stream.mode is Mode.ENFORCE,
    )
    if alike <= 1:
        return features
    return replace(features, content=replace(features.content or ContentFeatures(), alike=alike))


def _with_signatures(
    features: MessageFeatures, found: Sequence[SignatureFinding]
) -> tuple[MessageFeatures, str]:
    """The features with the findings, and DNS failures if no signature is valid."""
    failures = [each.detail for each in found if each.state is SignatureState.UNKNOWN]
    valid = any(each.state is SignatureState.VALID for each in found)
    kept = tuple(replace(f, detail="") if f.state is SignatureState.UNKNOWN else f for f in found)
    return replace(features, signatures=kept), "" if valid else "; ".join(failures)


def _visible_text(headers: HeaderBlock, body: Body | None) -> VisibleText:
    """The text that readers see, from the beginning of the body."""
    if body is None:
        return VisibleText("", (), whole=False)
    octets, whole = _beginning(body.pieces())
    visible = visible_text(read_body(headers, octets))
    delivered = with_broken_lines(octets)
    if delivered is not None:
        visible = visible.delivered(visible_text(read_body(headers, delivered)))
    return visible if whole else replace(visible, whole=False)


def _beginning(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """The first READ_LIMIT octets, and whether they are the whole."""
    taken, size = [], 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size > READ_LIMIT:
            return b"".join(taken)[:READ_LIMIT], False
    return (taken[0] if len(taken) == 1 else b"".join(taken)), True


def _names(headers: HeaderBlock) -> list[str]:
    """What the header calls the recipients."""
    return [
        decode_words(value[:_LONGEST_FIELD].decode("utf-8", "replace"))
        for name in ("To", "Cc")
        for value in headers.values(name)[:1]
    ]
