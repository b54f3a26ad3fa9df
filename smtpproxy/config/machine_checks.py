"""What a relay needs of its machine: folders, room on the disk, addresses, the right user."""

import errno
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from smtpproxy.disk import exists, is_dir, little_left
from smtpproxy.settings import Address, Settings, TcpAddress, UnixAddress

PRIVILEGED = (
    "a port below 1024 needs the capability CAP_NET_BIND_SERVICE (docs/operations.md, Install)"
)
_PRIVILEGED_PORTS = 1024


def folder_fault(folder: Path) -> str | None:
    """Return why no files can be kept in `folder`, which would be created if missing."""
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    try:
        is_folder = stat.S_ISDIR(there.stat().st_mode)
    except OSError as error:
        return f"{there}: {error.strerror}"
    if not is_folder:
        return f"{there} is not a folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return (
            f"{user_name(os.geteuid())} cannot write to {there}: it must belong to the user that"
            " smtpproxy runs as, on a disk that can be written to"
        )
    return None


def user(settings: Settings) -> Iterator[str]:
    """Yield a warning if root checks what another user is to run."""
    state = settings.server.state_dir
    if os.geteuid() == 0 and is_dir(state) and (owner := state.stat().st_uid):
        name = user_name(owner)
        yield (
            f"server.state_dir: it belongs to {name}, but this was checked as root, who may read"
            f" and write more: runuser -u {name} -- smtpproxy check"
        )


def disk(settings: Settings) -> Iterator[str]:
    """Yield a warning if the disk may not be there, or is nearly full: no decision could be
    recorded."""
    above = settings.server.state_dir.parent
    if not exists(above):
        yield (
            f"server.state_dir: there is no {above} yet: serve creates it, and then knows nobody;"
            " is a disk not mounted?"
        )
    left = little_left(settings.server.state_dir)
    if left is not None:
        yield f"server.state_dir: {left}; once it is full, all mail is answered 451"


def addresses(settings: Settings) -> Iterator[tuple[str, str, bool]]:
    """Yield the key of each address that cannot be listened on, why, and whether it is a fault."""
    places = [(f'listener "{each.name}"', each.address) for each in settings.listeners]
    if settings.web is not None:
        places.append(("web", settings.web.address))
    if settings.feedback is not None and settings.feedback.address is not None:
        places.append(("feedback", settings.feedback.address))
    for where, address in places:
        fault = _address_fault(address)
        if fault is not None:
            yield f"{where}.address", fault, True
        elif isinstance(address, TcpAddress) and _is_denied(address):
            yield f"{where}.address", f"this user may not listen on {address}: {PRIVILEGED}", False


def _address_fault(address: Address) -> str | None:
    """Return why nothing could listen there, even if something does now."""
    if isinstance(address, UnixAddress):
        there = os.path.lexists(address.path) and not address.path.is_socket()
        return f"{address.path} exists and is not a socket" if there else None
    try:
        _bind(TcpAddress(address.host, 0))
    except socket.gaierror as error:
        return f"{address.host} has no address: {error.strerror}"
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{address.host} is not an address of this machine"
        return f"{address}: {error.strerror}"
    return None


def _is_denied(address: TcpAddress) -> bool:
    """Return whether this user may not listen there, and nobody does now.

    The unit may have a capability that the user of a command lacks: it is not a fault.
    """
    if address.port >= _PRIVILEGED_PORTS:
        return False
    try:
        _bind(address)
    except OSError as error:
        return error.errno == errno.EACCES and not _is_answered(address)
    return False


def _bind(address: TcpAddress) -> None:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.bind(where)


def _is_answered(address: TcpAddress) -> bool:
    try:
        socket.create_connection((address.host, address.port), timeout=1.0).close()
    except OSError:
        return False
    return True


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
