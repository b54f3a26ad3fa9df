"""Debian's MTAs that conflict with its Postfix: unpacked elsewhere, run in their own namespaces.

`python -m tests.kit.unpacked` fetches what is missing into build/. They run as root in their own
namespaces, where the tree is at `TREE` and their users exist; when the process that a test
started ends, all its descendants end too.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.kit.parts import EXIM, OPENSMTPD

TREE = Path("/mnt/tree")
PACKAGES: Mapping[Path, str] = {EXIM: "exim4-daemon-light", OPENSMTPD: "opensmtpd"}


def unpack(tree: Path, *packages: str) -> None:
    """Unpack the packages, and what they depend on and is not installed. Raises
    CalledProcessError."""
    planned = subprocess.run(
        ["apt-get", "install", "--simulate", "--no-install-recommends", *packages],
        capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=True,
    )  # fmt: skip
    new = re.findall(r"^Inst (\S+) \(", planned.stdout, re.M)  # an upgrade has [its version] first
    fetched = sorted({*packages, *new})
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-q", *fetched], cwd=folder, check=True)
        tree.mkdir(parents=True, exist_ok=True)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(tree)], check=True)


def private(
    tree: Path,
    root: Path,
    command: Sequence[str],
    *,
    users: Mapping[str, int] = {},
    empty: Sequence[str] = (),
    setup: Sequence[str] = (),
) -> list[str]:
    """The command that runs a command in new namespaces, with host name mx.example.

    `users` (with groups of the same name and number) are added, folders in `empty` replaced by
    new ones, and the shell commands in `setup` run first. Its files are in `root`.
    """
    lines = ["mount --make-rprivate /"]
    for name, entry in (("passwd", "{0}:x:{1}:{1}::/:/bin/false\n"), ("group", "{0}:x:{1}:\n")):
        added = "".join(entry.format(user, number) for user, number in users.items())
        (root / name).write_text(Path("/etc", name).read_text() + added)
        lines.append(f"mount --bind {root / name} /etc/{name}")
    lines += [f"mount -t tmpfs tmpfs {folder}" for folder in (str(TREE.parent), *empty)]
    lines += [f"mkdir {TREE}", f"mount --bind {tree} {TREE}", "hostname mx.example", *setup]
    # Not LD_LIBRARY_PATH: a program that restarts itself as another user (Exim) loses it.
    libraries = " ".join(f"{TREE}{path}/x86_64-linux-gnu" for path in ("/usr/lib", "/lib"))
    lines.append(f"/sbin/ldconfig -X -C {root}/ld.so.cache {libraries}")
    lines.append(f"mount --bind {root}/ld.so.cache /etc/ld.so.cache")
    lines.append(f"exec {' '.join(command)}")
    unshare = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
    return [*unshare, "sh", "-ec", "\n".join(lines)]


if __name__ == "__main__":
    for tree, package in PACKAGES.items():
        if not tree.exists():
            unpack(tree, package)
    sys.exit(0)
