"""How single values are written: sizes, durations, addresses, host names, names.

Each function takes what the TOML said and returns plain units, or raises ValueError
with what is wrong and what would be right.
"""

import ipaddress
import math
import re
from datetime import time
from pathlib import Path
from urllib.parse import urlsplit

import idna

from smtpproxy.locale.texts import LANGS
from smtpproxy.mail.address import canonical
from smtpproxy.mail.entry import entered
from smtpproxy.mail.shown import folded
from smtpproxy.policy.frequency import Cap, parse_cap
from smtpproxy.policy.periods import Period, Unit, at_least_years
from smtpproxy.settings import Address, TcpAddress, UnixAddress
from smtpproxy.terminal import printable

_LEAST_HEADER = 4 * 1024
_MOST_HEADER = 1024 * 1024
SIZE_UNITS = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
PERIOD_UNITS = {"h": Unit.HOURS, "d": Unit.DAYS, "m": Unit.MONTHS, "y": Unit.YEARS}

_SHORTEST_PASSAGE = 10  # characters: what is shorter stands in any text
_MOST_OF = {Unit.HOURS: 100_000, Unit.DAYS: 40_000, Unit.MONTHS: 1_200, Unit.YEARS: 100}
_SUPPRESSION_YEARS = 3
_PERIOD = re.compile(r"(\d{1,6})\s*([hdmy])", re.ASCII)
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_UNIX_PATH_LIMIT = 107  # octets of sun_path, less its NUL
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LIST_ID = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
_FIELD_NAME = re.compile(r"[!-9;-~]{1,70}")  # RFC 5322 2.2: printable ASCII, no colon
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)


def shown(value: object) -> str:
    """Return a TOML value as it would be written in the file, cut to a readable length."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = f'"{printable(value)}"'
    elif isinstance(value, list):
        text = "[" + ", ".join(map(shown, value)) + "]"
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def size(value: object) -> int:
    """Return bytes of `1048576`, `"10MB"` (1000²) or `"25MiB"` (1024²)."""
    right = 'a size such as "25MiB", "10MB" or a number of bytes'
    amount, unit = _amount(value, right)
    if unit == "":
        unit = "B"
    if unit not in SIZE_UNITS:
        raise ValueError(f"{shown(value)} is not {right}; units: {', '.join(SIZE_UNITS)}")
    octets = amount * SIZE_UNITS[unit]
    if octets < 1 or octets != int(octets):
        raise ValueError(f"{shown(value)} is not a whole number of bytes above 0")
    return int(octets)


def header_size(value: object) -> int:
    """Return bytes that a header section may have."""
    octets = size(value)
    if not _LEAST_HEADER <= octets <= _MOST_HEADER:
        raise ValueError(
            f"{shown(value)} is not from 4KiB (less would refuse honest mail)"
            " to 1MiB (more would hold up other sessions while it is read)"
        )
    return octets


def duration(value: object) -> float:
    """Return seconds of `30`, `"30s"`, `"5m"`, `"2h"` or `"1d"`."""
    right = 'a time such as "30s", "5m", "2h", "1d" or a number of seconds'
    amount, unit = _amount(value, right)
    if unit == "":
        unit = "s"
    if unit not in DURATION_UNITS:
        raise ValueError(f"{shown(value)} is not {right}; units: {', '.join(DURATION_UNITS)}")
    if amount <= 0:
        raise ValueError(f"{shown(value)} must be more than 0")
    return amount * DURATION_UNITS[unit]


def period(value: object) -> Period | None:
    """Return the calendar period of `"3y"`, `"13m"`, `"30d"` or `"48h"`; None of `"forever"`."""
    if value == "forever":
        return None
    match = _PERIOD.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f'{shown(value)} is not a period such as "3y" (years), "13m" (months), "30d" or "48h"'
        )
    count, unit = int(match[1]), PERIOD_UNITS[match[2]]
    if not 1 <= count <= _MOST_OF[unit]:
        raise ValueError(f"{shown(value)}: must be from 1 to {_MOST_OF[unit]} {unit}")
    return Period(count, unit)


def period_with_end(value: object) -> Period:
    """Return a period of data that names people: such data is never kept for ever."""
    found = period(value)
    if found is None:
        raise ValueError(
            '"forever" is not lawful for data that names people: they are kept no longer than'
            ' necessary (RGPD 5(1)(e), docs/law.md A34); set a period such as "3y"'
        )
    return found


def suppression_period(value: object) -> Period | None:
    """Return how long a suppression is kept at least: three years, by law."""
    found = period(value)
    if found is not None and not at_least_years(found, _SUPPRESSION_YEARS):
        raise ValueError(
            f"{shown(value)} is too short: an objection is honoured for at least"
            f' {_SUPPRESSION_YEARS} years (docs/law.md A34 and A35); "3y" or more, or "forever"'
        )
    return found


def time_of_day(value: object) -> time:
    """Return the time of `"03:30"` or `"03:30:15"`."""
    match = _TIME_OF_DAY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{shown(value)} is not a time of day such as "03:30"')
    return time(int(match[1]), int(match[2]), int(match[3] or 0))


def _amount(value: object, right: str) -> tuple[float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value, ""
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not {right}")
    number = match[1]
    return (float(number) if "." in number else int(number)), match[2]


def address(value: object) -> Address:
    """Return where to listen or connect: `host:port`, `[v6]:port` or `unix:/path`."""
    right = '"host:port", "[v6]:port" or "unix:/path"'
    if not isinstance(value, str):
        raise ValueError(f"must be {right}, not {shown(value)}")
    if value.startswith("unix:"):
        return _unix_address(value)
    host, colon, port = value.rpartition(":")
    if not colon or not host or value.endswith("]"):
        raise ValueError(f"{shown(value)} is not {right}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ip(host, 6):
            raise ValueError(f"{shown(value)}: what stands in brackets is not an IPv6 address")
    elif ":" in host:
        raise ValueError(f'{shown(value)}: an IPv6 address goes in brackets, "[::1]:2525"')
    elif not _is_ip(host, 4):
        host = hostname(host)
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{shown(value)}: the port must be a number from 1 to 65535")
    return TcpAddress(host, int(port))


def _unix_address(value: str) -> UnixAddress:
    path = value.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError(f'{shown(value)}: write an absolute path, "unix:/run/smtpproxy/smtp"')
    if len(path.encode()) > _UNIX_PATH_LIMIT:
        raise ValueError(f"the path of a Unix socket is at most {_UNIX_PATH_LIMIT} octets")
    return UnixAddress(Path("/" + path.lstrip("/")))


def _is_ip(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host).version == version
    except ValueError:
        return False


def ip_address(value: object) -> str:
    """Return an address of IPv4 or IPv6 in its usual form."""
    try:
        if isinstance(value, str):
            return str(ipaddress.ip_address(value))
    except ValueError:
        pass
    raise ValueError(f'{shown(value)} is not an IP address such as "192.0.2.25" or "2001:db8::25"')


def hostname(value: object) -> str:
    """Return a host or domain name as lower-case A-labels, without a final dot."""
    if not isinstance(value, str):
        raise ValueError(f'must be a host name such as "relay.example.com", not {shown(value)}')
    wrong = f'{shown(value)} is not a host name such as "relay.example.com"'
    try:
        encoded = idna.encode(value.removesuffix("."), uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise ValueError(wrong) from None
    if len(encoded) > 253 or encoded.rpartition(".")[2].isdigit():
        raise ValueError(wrong)
    return encoded


def name(value: object) -> str:
    """Return the name of a listener or stream: it stands in replies and metric labels."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not a name: lower-case letters, digits, - and _, at most 63,"
            " beginning with a letter or digit"
        )
    return value


def purpose(value: object) -> str:
    """Return what people consent to; it stands in the scope of a suppression."""
    if not isinstance(value, str) or not _PURPOSE.fullmatch(value):
        raise ValueError(
            f"{shown(value)} is not a purpose: letters, digits, -, _ and ., at most 63,"
            " beginning with a letter or digit"
        )
    return value


def field_name(value: object) -> str:
    """Return the name of a header field (RFC 5322 2.2)."""
    if not isinstance(value, str) or not _FIELD_NAME.fullmatch(value):
        raise ValueError(f'{shown(value)} is not the name of a header field, "X-Mail-Stream"')
    return value


def domain(value: object) -> str:
    """Return a domain of From addresses as lower-case A-labels."""
    if isinstance(value, str) and value.startswith(("@", "*", ".")):
        bare = value.lstrip("@*.")
        raise ValueError(f"{shown(value)}: write the domain alone, {shown(bare)}")
    return hostname(value)


def sender(value: object) -> str:
    """Return a reverse path, `news@example.com`, or all those of a domain, `@example.com`."""
    right = '"news@example.com", or "@example.com" for a whole domain'
    if not isinstance(value, str) or "@" not in value:
        raise ValueError(f"{shown(value)} is not {right}")
    if value.startswith("@"):
        return "@" + hostname(value[1:])
    try:
        return entered(value)
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not {right}: {error}") from None


def mailbox(value: object) -> str:
    """Return an ASCII mail address as it is written in a header field."""
    wrong = f'{shown(value)} is not an address such as "unsubscribe@example.com"'
    if not isinstance(value, str) or not value.isascii() or value.count("@") != 1:
        raise ValueError(wrong)
    try:
        return canonical(value)
    except ValueError as error:
        raise ValueError(f"{wrong}: {error}") from None


def list_id(value: object) -> str:
    """Return a list identifier, without angle brackets (RFC 2919 section 2)."""
    if not isinstance(value, str) or len(value) > 255 or not _LIST_ID.fullmatch(value):
        raise ValueError(
            f'{shown(value)} is not a list identifier such as "offers.example.com": letters,'
            " digits and dots, at most 255, without brackets (RFC 2919)"
        )
    return value.lower()


def word(value: object) -> str:
    """Return a product or topic, without space around it."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f'must be text such as "shoes", not {shown(value)}')
    return value.strip()


def passage(value: object) -> str:
    """Return words that are looked for in the text of messages."""
    if not isinstance(value, str) or len(folded(value)) < _SHORTEST_PASSAGE:
        raise ValueError(
            f"must be text of at least {_SHORTEST_PASSAGE} characters, as it stands in the"
            f" message, not {shown(value)}"
        )
    return value


def line(value: object) -> str:
    """Return words that people read, on one line."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError(f"must be text on one line, not {shown(value)}")
    return value.strip()


def language(value: object) -> str:
    if value not in LANGS:
        raise ValueError(f"{shown(value)} is no language here; there are {', '.join(LANGS)}")
    return str(value)


def absolute_path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{shown(value)} is not an absolute path; it must begin with /")
    return value


def frequency_cap(value: object) -> Cap:
    """Return how many messages a person may get in how much time, `3/7d`."""
    if not isinstance(value, str):
        raise ValueError(f'must be text such as "3/7d", not {shown(value)}')
    try:
        return parse_cap(value)
    except ValueError as error:
        raise ValueError(f"{shown(value)} {error}") from None


def store_url(value: object) -> str:
    """Return where contacts and suppressions are kept. It may hold a password: never shown."""
    scheme, _, rest = value.partition("://") if isinstance(value, str) else ("", "", "")
    if scheme in ("postgresql", "postgres"):
        raise ValueError('PostgreSQL is not available in this version: use "sqlite:///PATH"')
    if scheme != "sqlite" or not rest.strip("/"):
        raise ValueError('must be a URL such as "sqlite:///var/lib/smtpproxy/smtpproxy.db"')
    if not rest.startswith("/"):
        raise ValueError(
            "the path must be absolute, behind three slashes:"
            f' "sqlite:///var/lib/smtpproxy/{rest.rpartition("/")[2]}"'
        )
    return "sqlite:///" + rest.lstrip("/")


def public_url(value: object) -> str:
    """Return the base of the links that recipients get, without a final slash."""
    wrong = f'{shown(value)} is not an https URL such as "https://unsubscribe.example.com"'
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise ValueError(wrong)
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port  # a wrong port is found only when it is read
    except ValueError:
        raise ValueError(wrong) from None
    on_this_machine = host in ("localhost", "127.0.0.1", "::1")
    if not host or not (url.scheme == "https" or (url.scheme == "http" and on_this_machine)):
        raise ValueError(f"{wrong} (RFC 8058 3.1 asks for https)")
    if url.query or url.fragment or url.username is not None:
        raise ValueError(f"{shown(value)} must be scheme, host and perhaps a path, nothing more")
    return url.geturl().rstrip("/")
