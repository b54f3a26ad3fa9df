"""Asks the DNS: asynchronous, cached, and distinguishing "no such name" from no answer."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from smtpproxy.events import DnsOutcome
from smtpproxy.settings import DnsSettings

if TYPE_CHECKING:  # 6 MB, loaded at the first lookup
    import dns.asyncresolver
    import dns.name

Kind = Literal["TXT", "MX", "A", "AAAA", "PTR"]
Seen = Callable[[DnsOutcome], None]

_LONGEST, _LONGEST_ABSENT = 3600.0, 300.0  # seconds for which an answer is kept at most
_FAILED = 5.0  # seconds before a failed lookup is repeated
_EACH = 2.0  # seconds for one name server at most, before the next is asked
_SYSTEM = Path("/etc/resolv.conf")
_REMEMBERED = 10_000
_MOST = 100  # records of a name, however many it has


class DnsFailure(Exception):
    """There was no answer, so it is unknown whether the name exists. The text is private."""


class MxRecord(Struct, frozen=True, order=True):
    """`host` is lower-case without its last dot; "" is a null MX (RFC 7505)."""

    preference: int
    host: str


class Answer(Struct, frozen=True):
    """The records of one kind under a name; empty if the DNS says that there are none.

    `texts` are TXT records with their strings joined, `exchangers` MX records by preference,
    `values` addresses and names as text. `exists`: the name exists, with or without such records.
    """

    texts: tuple[bytes, ...] = ()
    exchangers: tuple[MxRecord, ...] = ()
    values: tuple[str, ...] = ()
    exists: bool = True


class _Kept(Struct):
    until: float
    answer: Answer | None
    failure: str = ""


@dataclass(eq=False)
class Resolver:
    """Looks names up. Use it in one event loop.

    `clock` returns monotonic seconds; `seen` is called with the outcome of each lookup.
    """

    settings: DnsSettings
    clock: Callable[[], float]
    seen: Seen = lambda outcome: None

    def __post_init__(self) -> None:
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._kept: dict[tuple[str, Kind], _Kept] = {}
        self._asked: dict[tuple[str, Kind], asyncio.Task[_Kept]] = {}

    async def lookup(self, name: str, kind: Kind) -> Answer:
        """Return what the DNS says. Raises DnsFailure if it does not answer in time."""
        key = name.lower().removesuffix("."), kind
        kept = self._kept.get(key)
        if kept is not None and kept.until > self.clock():
            self.seen("cached")
        else:
            # One lookup for all who ask at the same time; it outlives the first of them.
            task = self._asked.get(key)
            if task is None:
                task = self._asked[key] = asyncio.create_task(self._ask(*key))
                task.add_done_callback(lambda _: self._asked.pop(key, None))
            kept = await asyncio.shield(task)
        if kept.answer is None:
            raise DnsFailure(kept.failure)
        return kept.answer

    async def _ask(self, name: str, kind: Kind) -> _Kept:
        if self._resolver is None:  # other sessions have their turn while it is loaded
            await asyncio.get_running_loop().run_in_executor(
                None, import_module, "dns.asyncresolver"
            )
        import dns.exception

        try:
            answer, ttl = await self._answer(name, kind)
            self.seen("answered" if answer.exists and _any(answer) else "absent")
            kept = _Kept(self.clock() + ttl, answer)
        except (dns.exception.DNSException, OSError) as error:
            self.seen("failed")
            self._resolver = None  # the system's name servers may be others by now
            kept = _Kept(self.clock() + _FAILED, None, f"{kind} {name}: {_why(error)}")
        while len(self._kept) >= _REMEMBERED:
            del self._kept[next(iter(self._kept))]
        self._kept.pop((name, kind), None)
        self._kept[name, kind] = kept
        return kept

    async def _answer(self, name: str, kind: Kind) -> tuple[Answer, float]:
        import dns.exception
        import dns.name
        import dns.resolver

        try:
            question = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return Answer(exists=False), _LONGEST_ABSENT  # no such name can exist
        try:
            found = await self._open().resolve(
                question,
                kind,
                search=False,
                lifetime=self.settings.timeout,
                raise_on_no_answer=False,
            )
        except dns.resolver.NXDOMAIN as error:
            chain = error.response(question).resolve_chaining()  # type: ignore[no-untyped-call]
            return Answer(exists=False), min(float(chain.minimum_ttl), _LONGEST_ABSENT)
        rrset, ttl = found.rrset, float(found.chaining_result.minimum_ttl)  # of an alias too
        if rrset is None:
            return Answer(), min(ttl, _LONGEST_ABSENT)
        ttl = min(ttl, _LONGEST)
        if kind == "TXT":
            return Answer(texts=tuple(b"".join(each.strings) for each in rrset)), ttl
        if kind == "MX":
            exchangers = [MxRecord(each.preference, _text(each.exchange)) for each in rrset]
            return Answer(exchangers=tuple(sorted(exchangers)[:_MOST])), ttl
        values = [_text(each.target) if kind == "PTR" else each.address for each in rrset]
        return Answer(values=tuple(values[:_MOST])), ttl

    def _open(self) -> "dns.asyncresolver.Resolver":
        """Make the resolver, at the first lookup: without lookups it needs no name servers."""
        import dns.asyncresolver
        import dns.nameserver

        if self._resolver is None:
            made = dns.asyncresolver.Resolver(configure=False)
            if self.settings.nameservers:
                made.nameservers = [
                    dns.nameserver.Do53Nameserver(each.host, each.port)
                    for each in self.settings.nameservers
                ]
            else:
                _read_system(made)
            # Each is asked in time, whatever resolv.conf says: the first ones may be dead.
            made.timeout = min(_EACH, self.settings.timeout / len(made.nameservers))
            self._resolver = made
        return self._resolver


def _read_system(resolver: "dns.asyncresolver.Resolver") -> None:
    import dns.exception

    with _SYSTEM.open(encoding="utf-8", errors="replace") as file:  # comments may be Latin-1
        try:
            resolver.read_resolv_conf(file)
        except (ValueError, dns.exception.DNSException) as error:
            raise OSError(f"{_SYSTEM}: {error}") from None


def _why(error: Exception) -> str:
    """Return what each name server did instead of answering, in few words."""
    from dns.exception import Timeout

    said: dict[str, None] = {}  # in order, each once
    for server, tcp, _, cause, _ in getattr(error, "kwargs", {}).get("errors") or ():
        place = str(server).removeprefix("Do53:").removesuffix("@53") + (" over TCP" if tcp else "")
        reason = cause.strerror if isinstance(cause, OSError) else None
        if isinstance(cause, Timeout):  # its own text has milliseconds
            reason = "no answer"
        said[f"name server {place}: {reason or cause or type(cause).__name__}"] = None
    return "; ".join(said) or f"{type(error).__name__}: {error}"


def _any(answer: Answer) -> bool:
    return bool(answer.texts or answer.exchangers or answer.values)


def _text(name: "dns.name.Name") -> str:
    return name.to_text(omit_final_dot=True).lower().removesuffix(".")
