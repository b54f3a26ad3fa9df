"""What is asked of the content of a stream's messages, from the checked models."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from smtpproxy.config import models
from smtpproxy.config.faults import Fault
from smtpproxy.config.tables import tables
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    Alignment,
    Rulebook,
    Stream,
    StreamClass,
    UndeclaredBulk,
)
from smtpproxy.settings import Settings

BULK_RECIPIENTS = 100
"""How many may be sent one text where undeclared bulk has consequences and no number is set."""


class ContentSettings(TypedDict):
    """The fields of a `Stream` that are about content."""

    alignment: Alignment
    body_optout: bool
    imprint: tuple[str, ...]
    source_statement: tuple[str, ...]
    honest_subject: bool
    undeclared_bulk: UndeclaredBulk
    bulk_recipients: int | None
    bulk_window: float


def content_settings(
    stream: models.Stream, policy: Sequence[str], rulebook: Rulebook
) -> ContentSettings:
    """`policy` is the imprint of all streams whose rulebook asks for one."""
    marketing = stream.stream_class == "marketing"
    most = stream.bulk_recipients
    if most is None and stream.undeclared_bulk != "observe":
        most = BULK_RECIPIENTS
    return ContentSettings(
        alignment=Alignment(stream.alignment),
        body_optout=stream.body_optout and marketing,
        imprint=(tuple(stream.imprint) or common_imprint(policy, rulebook)) if marketing else (),
        source_statement=tuple(stream.source_statement) if marketing else (),
        honest_subject=stream.honest_subject and marketing,
        undeclared_bulk=UndeclaredBulk(stream.undeclared_bulk),
        bulk_recipients=None if marketing else most,
        bulk_window=stream.bulk_window,
    )


def common_imprint(policy: Sequence[str], rulebook: Rulebook) -> tuple[str, ...]:
    """The imprint of a stream that has none of its own."""
    return tuple(policy) if rulebook.imprint_required else ()


_ON_MARKETING = ("body_optout", "imprint", "source_statement", "honest_subject")
_CONSEQUENCES = ("refuse", "marketing")
_ON_TRANSACTIONAL = ("undeclared_bulk", "bulk_recipients", "bulk_window")


def content_checks(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the keys that somebody set and that would do nothing."""
    for index, stream in tables(document, "stream"):
        kind = stream.get("class")
        others = {"marketing": _ON_TRANSACTIONAL, "transactional": _ON_MARKETING}.get(str(kind), ())
        for key in others:
            if stream.get(key) not in (None, False, [], "observe"):
                yield Fault(
                    ("stream", index, key), f"does nothing on a {kind} stream: leave it out"
                )
        if stream.get("source_statement") and stream.get("first_contact_notice") is not True:
            yield Fault(
                ("stream", index, "source_statement"),
                "is looked for only in first messages: set first_contact_notice = true",
            )
        counted = "bulk_recipients" in stream or stream.get("undeclared_bulk") in _CONSEQUENCES
        if "bulk_window" in stream and not counted and kind == "transactional":
            yield Fault(
                ("stream", index, "bulk_window"),
                "nobody is counted in it: set bulk_recipients = 100, or leave it out",
            )


def warnings(settings: Settings) -> Iterator[str]:
    """Yield the streams whose rulebook asks for what nobody looks for."""
    for stream in settings.streams.values():
        marketing = stream.stream_class is StreamClass.MARKETING
        book = settings.rulebooks.get(stream.rulebook)
        used = any(
            stream.name in listener.streams or listener.default_stream is None
            for listener in settings.listeners
        )
        if marketing and used and book is not None and book.imprint_required and not stream.imprint:
            yield (
                f'stream "{stream.name}".imprint: not set, and rulebook "{book.name}" asks each'
                " message for the sender's postal address: nobody looks for it"
                " (policy.imprint holds for all streams)"
            )
        own = marketing and used and stream.name != DEFAULT_STREAM.name
        if own and book is not None and book.notice_each_use and _shows_no_way_out(stream):
            yield (
                f'stream "{stream.name}".body_optout: not set, and rulebook "{book.name}" asks each'
                ' message to say how to refuse: set it, or unsubscribe = "add", or see to it'
            )


def _shows_no_way_out(stream: Stream) -> bool:
    return not stream.body_optout and stream.unsubscribe_scope is None
