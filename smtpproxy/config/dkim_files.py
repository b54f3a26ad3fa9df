"""Whether the files of `[[dkim]]` can serve, and whether it is certain which key signs when."""

from collections.abc import Iterator
from datetime import UTC, datetime

from smtpproxy.config.faults import ConfigError
from smtpproxy.relay.dkim.keys import GOOD_BITS, MOST_BITS, KeyFault, SigningKey, read_key
from smtpproxy.settings import DkimSettings, Settings


def check_dkim_files(settings: Settings, filename: str, now: datetime | None = None) -> list[str]:
    """Return warnings about keys that are good, each `key.path: what and why`.

    Raises ConfigError with every fault in them.
    """
    faults: list[str] = []
    warned: list[str] = []
    keys: list[tuple[int, DkimSettings, SigningKey]] = []
    for index, each in enumerate(settings.dkim):
        try:
            key = read_key(each.key)
        except KeyFault as fault:
            faults.append(f"{filename}: dkim[{index}].key: {fault}")
            continue
        keys.append((index, each, key))
        if key.record.key_type == "rsa" and key.bits < GOOD_BITS:
            warned.append(f"dkim[{index}].key: {each.key} has {key.bits} bits; use {GOOD_BITS}")
        if key.bits > MOST_BITS:
            warned.append(
                f"dkim[{index}].key: {each.key} has {key.bits} bits; not everybody can verify more"
                f" than {MOST_BITS} (RFC 8301 3.2)"
            )
    faults += [f"{filename}: {text}" for text in _ambiguous(keys)]
    if faults:
        raise ConfigError(faults)
    return [*warned, *_not_yet(keys, now or datetime.now(UTC))]


def _ambiguous(keys: list[tuple[int, DkimSettings, SigningKey]]) -> Iterator[str]:
    """Two keys of one type that would begin at the same moment for the same mail."""
    for position, (index, each, key) in enumerate(keys):
        for other_index, other, other_key in keys[:position]:
            same_type = key.record.key_type == other_key.record.key_type
            both = each.streams & other.streams or each.streams == other.streams
            if same_type and both and (each.domain, each.since) == (other.domain, other.since):
                yield (
                    f"dkim[{index}].from: dkim[{other_index}] is an {key.record.key_type} key of"
                    f" {each.domain} too, from the same moment on: say from when this one signs"
                )


def _not_yet(keys: list[tuple[int, DkimSettings, SigningKey]], now: datetime) -> Iterator[str]:
    started = {each.domain for _, each, _ in keys if each.since is None or each.since <= now}
    for index, each, _ in keys:
        if each.since is not None and each.since > now and each.domain not in started:
            yield (
                f"dkim[{index}].from: no key of {each.domain} signs before {each.since:%Y-%m-%d},"
                " and its mail leaves unsigned until then"
            )
