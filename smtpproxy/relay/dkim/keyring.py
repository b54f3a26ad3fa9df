"""Which keys sign a message: by the domain of From, the stream and the date."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from smtpproxy.relay.dkim.keys import SigningKey, read_key
from smtpproxy.settings import DkimSettings

_REMEMBERED = 4096
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RingKey:
    """A key with the name under which verifiers find it."""

    settings: DkimSettings
    key: SigningKey

    @property
    def since(self) -> datetime:
        return self.settings.since or _EARLIEST


class Keyring:
    """The configured keys. Which are in force for a message is remembered until a date of
    rotation passes."""

    def __init__(self, keys: Iterable[RingKey]) -> None:
        self._keys: dict[str, list[RingKey]] = {}
        for each in keys:
            self._keys.setdefault(each.settings.domain, []).append(each)
        self._remembered: dict[tuple[tuple[str, ...], str], tuple[RingKey, ...]] = {}
        self._until = _EARLIEST

    @classmethod
    def of(cls, settings: Sequence[DkimSettings]) -> "Keyring":
        """Read the key files. Raises KeyFault."""
        return cls([RingKey(each, read_key(each.key)) for each in settings])

    def in_force(
        self, from_domains: tuple[str, ...], stream: str, now: datetime
    ) -> tuple[RingKey, ...]:
        """Return what signs: at most one key of each type, none where no key fits.

        All addresses of From have to be of the key's domain. The domain itself comes before
        one above it, a key for the stream before one for all, and of several the one whose
        date came last.
        """
        if now >= self._until or len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
            dates = [each.since for keys in self._keys.values() for each in keys]
            self._until = min((date for date in dates if date > now), default=_LATEST)
        known = self._remembered.get((from_domains, stream))
        if known is None:
            known = self._remembered[from_domains, stream] = self._find(from_domains, stream, now)
        return known

    def _find(
        self, from_domains: tuple[str, ...], stream: str, now: datetime
    ) -> tuple[RingKey, ...]:
        domains = set(from_domains)
        if len(domains) != 1:
            return ()
        domain = domains.pop()
        above = domain
        while above:
            usable = [
                each
                for each in self._keys.get(above, ())
                if each.since <= now
                and (above == domain or each.settings.subdomains)
                and (not each.settings.streams or stream in each.settings.streams)
            ]
            if usable:
                return _newest(usable)
            above = above.partition(".")[2]
        return ()


def _newest(usable: Sequence[RingKey]) -> tuple[RingKey, ...]:
    """One of each type, RSA first: every verifier knows it, and some look at one field only."""
    found: dict[str, RingKey] = {}
    for each in sorted(usable, key=lambda each: (bool(each.settings.streams), each.since)):
        found[each.key.record.key_type] = each
    return tuple(found[kind] for kind in ("rsa", "ed25519") if kind in found)
