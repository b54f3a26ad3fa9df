"""The answers needed to write a first configuration."""

from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from smtpproxy.settings import (
    Address,
    BrandSettings,
    ServerSettings,
    StreamSettings,
    TcpAddress,
)
from smtpproxy.toml_tables import keys_of

STREAM_HEADER = keys_of(ServerSettings)["stream_header"].default
"""The default header field by which applications choose a stream."""


class Route(StrEnum):
    """How mail gets to smtpproxy; docs/deploy has a page for each."""

    APPS = "apps"
    RELAYHOST = "relayhost"
    MILTER = "milter"
    BEFORE_QUEUE = "before-queue"
    AFTER_QUEUE = "after-queue"
    POLICY = "policy"

    @property
    def protocol(self) -> str:
        """The protocol of the listener."""
        spoken = {Route.MILTER: "milter", Route.POLICY: "policy", Route.AFTER_QUEUE: "lmtp"}
        return spoken.get(self, "smtp")

    @property
    def relays(self) -> bool:
        """Whether smtpproxy relays mail; otherwise the MTA keeps it and only asks."""
        return self not in (Route.MILTER, Route.POLICY)

    @property
    def port(self) -> int:
        """The port to listen on, unless it is taken."""
        return {Route.MILTER: 8891, Route.POLICY: 8892}.get(self, 2525)

    @property
    def upstream(self) -> str:
        """The MTA behind smtpproxy, if the route determines it: the second smtpd in its lines."""
        if self in (Route.MILTER, Route.BEFORE_QUEUE, Route.AFTER_QUEUE):
            return "127.0.0.1:10026"
        return "127.0.0.1:25" if self is Route.POLICY else ""


class Answers(Struct, frozen=True):
    """All answers, each as its setting reads it."""

    hostname: str
    route: Route
    upstream: Address
    listen: Address
    web: Address
    state_dir: Path
    rulebook: str
    brands: tuple[BrandSettings, ...]
    streams: tuple[StreamSettings, ...]
    public_url: str | None = None
    selector: str | None = None  # None: the relay does not sign
    nameservers: tuple[TcpAddress, ...] = ()

    @property
    def default_stream(self) -> StreamSettings:
        """The stream of mail that names none: the strictest."""
        return min(self.streams, key=lambda stream: stream.stream_class != "marketing")

    @property
    def domains(self) -> tuple[str, ...]:
        """All From domains, in their order."""
        return tuple(dict.fromkeys(d for b in self.brands for d in sorted(b.from_domains)))
