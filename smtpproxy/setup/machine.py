"""What this machine shows: its Postfix, its open ports, and the DNS records of names.

It is used for proposals only, and may be wrong, slow or hostile: each source has a time limit and a
size limit, and anything that is not plain text on one line is left out.
"""

import asyncio
import ipaddress
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from smtpproxy.resolver import Answer, DnsFailure
from smtpproxy.resolver import Kind as RecordKind

Lookup = Callable[[str, RecordKind], Awaitable[Answer]]

PARAMETERS = (
    "myhostname",
    "mydomain",
    "myorigin",
    "relayhost",
    "content_filter",
    "smtpd_milters",
    "smtpd_recipient_restrictions",
    "smtpd_end_of_data_restrictions",
    "recipient_delimiter",
)
"""Parameters of Postfix that proposals, notes and the lines for Postfix are made from."""

_SEARCH = ":/usr/local/sbin:/usr/sbin:/sbin"  # not in a user's PATH
_LONGEST = 64 * 1024  # octets of postconf's answer
_LONGEST_VALUE = 1_000
_LONGEST_TABLE = 1024 * 1024  # octets of /proc/net/tcp, where listening sockets come first
_LISTENS = "0A"
_NEAR = {"00000000", "0100007F", "0" * 32, "0" * 24 + "01000000"}  # any address, or loopback
_MOST_NAMES = 50


class Machine(Struct, frozen=True):
    """`postfix` has the parameters that are set, empty without Postfix; `ports` are those with a
    listener reachable from this machine. `notes` say what could not be read."""

    hostname: str = ""
    postfix: Mapping[str, str] = {}
    ports: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def free_port(self, port: int) -> int:
        """Return `port`, or the next one without a listener."""
        return next((each for each in range(port, 65_536) if each not in self.ports), port)


async def look(timeout: float) -> Machine:
    """Look at the machine. `timeout`: seconds for Postfix to answer."""
    postfix, notes = await _postfix(timeout)
    return Machine(_plain(socket.gethostname()), postfix, _ports(), tuple(notes))


async def _postfix(timeout: float) -> tuple[dict[str, str], list[str]]:
    program = shutil.which("postconf", path=os.environ.get("PATH", "") + _SEARCH)
    if program is None:
        return {}, []
    try:
        answer = await _output(program, "-x", *PARAMETERS, timeout=timeout)
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or f"no answer within {timeout:g} seconds"
        return {}, [f"postconf: {why}: there are no proposals from Postfix"]
    found, notes = {}, []
    for line in answer.decode("utf-8", "replace").split("\n"):
        name, equals, value = line.partition("=")
        if not equals or name.strip() not in PARAMETERS:
            continue
        text = _plain(value.strip())
        if text:
            found[name.strip()] = text
        elif value.strip():
            notes.append(f"postconf: {name.strip()} is not plain text: check it yourself")
    if signs := found.get("recipient_delimiter", "").replace("+", ""):
        notes.append(
            f"postconf: recipient_delimiter has {signs}, but here only + separates a tag: at your"
            f" own domains, anna{signs[0]}news is not the same person as anna"
        )
    return found, notes


async def _output(*command: str, timeout: float) -> bytes:
    """Return a program's output, up to a limit. Raises OSError, TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    read = bytearray()
    try:
        async with asyncio.timeout(timeout):
            while len(read) < _LONGEST and (piece := await process.stdout.read(4096)):
                read += piece
    finally:
        with suppress(ProcessLookupError):  # ends everything that it started
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                # asyncio also waits for the pipe's end, which a full pipe hides.
                while await process.stdout.read(_LONGEST):
                    pass
                await process.wait()
    return bytes(read[:_LONGEST])


def _plain(text: str) -> str:
    """Return text that fits on one printable line, or ""."""
    return text if text.isprintable() and len(text) <= _LONGEST_VALUE else ""


def _ports() -> frozenset[int]:
    """Return the ports with a listener reachable from this machine."""
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            with table.open(encoding="ascii", errors="replace") as file:
                lines = file.read(_LONGEST_TABLE).splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 3 and fields[3] == _LISTENS:
                address, _, port = fields[1].partition(":")
                if address in _NEAR:
                    with suppress(ValueError):
                        found.add(int(port, 16))
    return frozenset(found)


class Names(Struct, frozen=True):
    """The public addresses of the relay's name, and notes on the DNS."""

    addresses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


async def takes_mail(domain: str, lookup: Lookup, timeout: float) -> bool:
    """Return whether a domain has an MX record that accepts mail."""
    try:
        async with asyncio.timeout(timeout):
            found = await lookup(domain, "MX")
    except (DnsFailure, TimeoutError):
        return False
    return any(exchanger.host for exchanger in found.exchangers)


async def ask_dns(
    hostname: str, domains: Iterable[str], web: str | None, lookup: Lookup, timeout: float
) -> Names:
    """Ask about the relay's own name, the From domains and the host of the pages.

    `timeout`: seconds for all questions.
    """
    asked = [(domain, "the From domain") for domain in list(domains)[:_MOST_NAMES]]
    asked += [(web, "the host of the pages")] if web else []
    addresses: list[str] = []

    async def own() -> str | None:
        for kind in ("A", "AAAA"):
            answer = await lookup(hostname, kind)
            addresses.extend(each for each in answer.values if _public(each))
            if not answer.exists:
                return f"{hostname}: not in the DNS; other servers may reject mail of that name"
        return None

    async def other(name: str, what: str) -> str | None:
        answer = await lookup(name, "MX" if what == "the From domain" else "A")
        return None if answer.exists else f"{name}: {what} is not in the DNS"

    async def one(name: str, question: Awaitable[str | None]) -> str | None:
        try:
            async with asyncio.timeout(timeout):
                return await question
        except (DnsFailure, TimeoutError):
            return f"{name}: the DNS does not answer; smtpproxy doctor asks again"

    questions = [one(hostname, own()), *(one(name, other(name, what)) for name, what in asked)]
    notes = await asyncio.gather(*questions)
    return Names(tuple(dict.fromkeys(addresses)), tuple(note for note in notes if note))


def _public(address: str) -> bool:
    return ipaddress.ip_address(address).is_global
