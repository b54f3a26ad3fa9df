"""Which streams a client may use (design.md section 3, steps 1 to 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.policy.model import DEFAULT_STREAM, Mode, Stream
from smtpproxy.settings import ListenerSettings, SenderRule, Settings


@dataclass(frozen=True, slots=True)
class StreamChoice:
    """The streams that a message may still turn out to be on.

    `permitted` may be named by the stream header; without one the message is on
    `default`. `candidates` is all of these, the default first.
    """

    permitted: tuple[Stream, ...]
    default: Stream
    candidates: tuple[Stream, ...]

    @classmethod
    def of(cls, permitted: Sequence[Stream], default: Stream) -> "StreamChoice":
        others = tuple(stream for stream in permitted if stream is not default)
        return cls(tuple(permitted), default, (default, *others))

    @property
    def certain(self) -> bool:
        return len(self.candidates) == 1


class StreamTable:
    """Finds the choice by listener and reverse path; sender rules narrow, never widen."""

    def __init__(self, settings: Settings) -> None:
        self._streams = settings.streams
        self._undeclared = settings.streams.get(DEFAULT_STREAM.name, DEFAULT_STREAM)
        self._rules = {rule.sender.lower(): rule for rule in settings.sender_rules}
        self._listeners: dict[str, StreamChoice] = {}
        self._narrowed: dict[tuple[str, str], StreamChoice] = {}
        for listener in settings.listeners:
            self._listeners[listener.name] = self._of_listener(listener)
            for key, rule in self._rules.items():
                self._narrowed[listener.name, key] = self._of_rule(listener, rule)

    @property
    def observing_by_default(self) -> bool:
        return self._undeclared.mode is Mode.OBSERVE

    def choice(self, listener: str, reverse_path: str) -> StreamChoice:
        if self._rules:
            sender = _sender(reverse_path)
            for key in (sender, "@" + sender.rpartition("@")[2]):
                if key in self._rules:
                    return self._narrowed[listener, key]
        return self._listeners[listener]

    def _of_listener(self, listener: ListenerSettings) -> StreamChoice:
        return self._choice(listener.streams, listener.default_stream)

    def _of_rule(self, listener: ListenerSettings, rule: SenderRule) -> StreamChoice:
        """A listener without streams grants none, so a rule cannot grant any there either."""
        names = tuple(name for name in rule.streams if name in listener.streams)
        default = rule.default_stream or listener.default_stream
        return self._choice(names, default if default in names else None)

    def _choice(self, names: Sequence[str], default: str | None) -> StreamChoice:
        streams: Mapping[str, Stream] = self._streams
        permitted = [streams[name] for name in names]
        return StreamChoice.of(permitted, streams[default] if default else self._undeclared)


def _sender(reverse_path: str) -> str:
    """The form in which sender rules are kept; a path that is no address matches none."""
    try:
        return canonical(reverse_path)
    except AddressError:
        return ""
