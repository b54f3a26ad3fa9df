"""`smtpproxy suppress key`: what stands for an address in exports, in the feed and in webhooks."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from smtpproxy.cli.common import config_option, fail
from smtpproxy.cli.stores import output_option
from smtpproxy.mail.address import AddressError
from smtpproxy.mail.entry import entered_name
from smtpproxy.settings import Settings
from smtpproxy.store import store_path
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.keys import KeyRing, is_key_text


@click.command("key")
@click.argument("address_or_file", metavar="ADDRESS|FILE")
@output_option
@config_option
def key(settings: Settings, address_or_file: str, output: BinaryIO) -> int:
    """Print the key text of an address, or of each line of a file (- is standard input).

    Of a file each line becomes KEY,ADDRESS. While the key is being replaced there are two
    lines for each address, the newest key first. Exits with 1 when a line is no address.
    """
    if not store_path(settings.store).exists():
        fail("there is no key yet: smtpproxy serve makes it with the database, or an import")
    ring = load_keys(settings.server.state_dir)
    path = Path(address_or_file)
    if address_or_file != "-" and not path.is_file():
        try:
            output.writelines(f"{text}\n".encode() for text in key_texts(ring, address_or_file))
        except ValueError as error:
            raise click.BadParameter(
                f"{address_or_file!r} is neither a file nor an address: {error}"
            ) from None
        return 0
    if address_or_file == "-":
        return _all(ring, sys.stdin.buffer, output)
    with path.open("rb") as lines:
        return _all(ring, lines, output)


def key_texts(ring: KeyRing, address: str) -> list[str]:
    """Return the key text under each live key. Raises AddressError, a ValueError."""
    name = address if is_key_text(address) else entered_name(address)
    return [key.text(pair) for key, pair in ring.places(name)]


def _all(ring: KeyRing, lines: Iterable[bytes], output: BinaryIO) -> int:
    wrong = 0
    for number, address in _addresses(lines):
        try:
            texts = key_texts(ring, address)
        except (AddressError, ValueError) as error:
            wrong += 1
            click.echo(f"line {number}: {error}", err=True)
            continue
        written = os.fsencode(address)
        output.writelines(text.encode() + b"," + written + b"\n" for text in texts)
    return 1 if wrong else 0


def _addresses(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        address = line.strip(b" \t\r\n\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        if address:
            yield number, address
