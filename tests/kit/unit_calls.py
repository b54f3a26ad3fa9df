"""Runs a program with only the system calls that the service unit allows.

`python -m tests.kit.unit_calls PROGRAM…` forbids what systemd would forbid, then becomes PROGRAM.
"""

import ctypes
import errno
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tests.kit.parts import program
from tests.kit.processes import run

UNIT = Path(__file__).parents[2] / "systemd" / "smtpproxy.service"
BEFORE = (sys.executable, "-m", "tests.kit.unit_calls")
"""The words to put before a command."""

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # SCMP_ACT_… of libseccomp
_AS_ROOT = {"chown", "fchown"}
"""Tests may run as root, which gives files to the relay's user; the unit runs as that user."""


def allowed() -> frozenset[str]:
    """The names of the allowed calls, applying the unit's lines in order (systemd.exec(5))."""
    found = _named("@default")
    for line in UNIT.read_text().splitlines():
        key, _, value = line.partition("=")
        if key != "SystemCallFilter":
            continue
        names = {name for word in value.lstrip("~").split() for name in _named(word)}
        found = found - names if value.startswith("~") else found | names
    return found


@cache
def _named(word: str) -> frozenset[str]:
    """A call, or all calls of a group and its subgroups."""
    if not word.startswith("@"):
        return frozenset({word})
    done = run(program("systemd-analyze"), "syscall-filter", "--no-pager", word)
    assert done.returncode == 0, done.stderr
    words = [line.strip() for line in done.stdout.splitlines()[1:]]
    return frozenset().union(*(_named(each) for each in words if each and each[0] != "#"))


def forbid_all_but(names: Iterable[str]) -> None:
    """Make every other call fail with EPERM, in this process and its children."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM)))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # others do not exist on this processor
            assert library.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0) == 0, name
    assert library.seccomp_load(context) == 0


if __name__ == "__main__":
    forbid_all_but(allowed() | _AS_ROOT)
    os.execv(sys.argv[1], sys.argv[1:])
