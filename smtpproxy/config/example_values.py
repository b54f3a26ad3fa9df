"""What was left in a configuration as the example file has it."""

import ipaddress
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from smtpproxy.config.faults import Location, key_path
from smtpproxy.terminal import printable

_NAME = re.compile(
    r"(?<![\w.-])(?:[a-z0-9-]+\.)*(?:example\.(?:com|net|org)|[a-z0-9-]+\.example)(?![\w-]|\.\w)",
    re.IGNORECASE,
)
"""A domain name that is nobody's (RFC 2606, sections 2 and 3)."""
_NETWORKS = [
    ipaddress.ip_network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
"""Addresses that are nobody's (RFC 5737, RFC 3849)."""
_ADDRESS = re.compile(r"(?<![\w.:])[0-9a-f]*[.:][0-9a-f.:]+(?![\w.:])", re.IGNORECASE)


def example_values(path: Path) -> list[str]:
    """Return a warning about each value of a good file that only an example would have."""
    document = tomllib.loads(path.read_text("utf-8-sig"))
    return [
        printable(
            f'{key_path(document, location)}: "{found}" is an example, which is nobody\'s:'
            " put your own"
        )
        for location, text in _texts(document, ())
        for found in _examples(text)
    ]


def _texts(value: object, location: Location) -> Iterator[tuple[Location, str]]:
    if isinstance(value, str) and not value.startswith("/"):
        yield location, value
    children = value.items() if isinstance(value, dict) else ()
    for key, child in children:
        yield from _texts(child, (*location, key))
    for index, child in enumerate(value if isinstance(value, list) else ()):
        within = isinstance(child, dict)  # the entries of a list of values share its name
        yield from _texts(child, (*location, index) if within else location)


def _examples(text: str) -> Iterator[str]:
    yield from _NAME.findall(text)
    for found in _ADDRESS.findall(text):
        try:
            ip = ipaddress.ip_address(found.rpartition(":")[0] if found.count(":") == 1 else found)
        except ValueError:
            continue
        if any(ip in network for network in _NETWORKS):
            yield str(ip)
