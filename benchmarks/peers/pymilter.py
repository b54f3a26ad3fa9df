"""The smallest milter that pymilter (Debian's python3-milter, unpacked locally) can make.

Like smtpproxy it requests every recipient and the end of each message, but it looks nobody up.

    python3 -m benchmarks.peers.pymilter PORT     with Debian's own python3
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "build" / "pymilter"
PYTHON = "/usr/bin/python3"
_MODULES = FOLDER / "usr/lib/python3/dist-packages"


def install() -> str | None:
    """Unpack it once; return why it is absent, or None."""
    if not _MODULES.exists():
        if shutil.which("apt-get") is None:
            return "there is no apt-get"
        with tempfile.TemporaryDirectory() as folder:
            packages = ["python3-milter", "libmilter1.0.1"]
            done = subprocess.run(
                ["apt-get", "download", "-q", *packages],
                cwd=folder, capture_output=True, check=False, timeout=120,
            )  # fmt: skip
            if done.returncode != 0:
                return "apt-get cannot fetch python3-milter"
            for package in Path(folder).glob("*.deb"):
                subprocess.run(["dpkg", "-x", str(package), str(FOLDER)], check=True)
    return None if _runs() else f"{PYTHON} cannot import it"


def _runs() -> bool:
    command = [PYTHON, "-c", "import Milter"]
    if not Path(PYTHON).exists():
        return False
    return (
        subprocess.run(command, env=environment(), capture_output=True, check=False).returncode == 0
    )


def environment() -> dict[str, str]:
    """The environment in which Debian's python3 finds pymilter."""
    libraries = FOLDER / "usr/lib/x86_64-linux-gnu"
    return {**os.environ, "PYTHONPATH": str(_MODULES), "LD_LIBRARY_PATH": str(libraries)}


def command(port: int) -> list[str]:
    return [PYTHON, str(Path(__file__)), str(port)]


def main(port: str) -> None:
    Milter: Any = importlib.import_module("Milter")

    class Smallest(Milter.Base):  # type: ignore[misc]
        @Milter.noreply  # type: ignore[untyped-decorator]
        def connect(self, host: str, family: int, address: object) -> int:
            return int(Milter.CONTINUE)

        @Milter.noreply  # type: ignore[untyped-decorator]
        def hello(self, host: str) -> int:
            return int(Milter.CONTINUE)

        @Milter.noreply  # type: ignore[untyped-decorator]
        def envfrom(self, path: str, *parameters: str) -> int:
            return int(Milter.CONTINUE)

        def envrcpt(self, path: str, *parameters: str) -> int:
            return int(Milter.CONTINUE)

        @Milter.noreply  # type: ignore[untyped-decorator]
        def header(self, name: str, value: str) -> int:
            return int(Milter.CONTINUE)

        @Milter.noreply  # type: ignore[untyped-decorator]
        def body(self, chunk: bytes) -> int:
            return int(Milter.CONTINUE)

        def eom(self) -> int:
            return int(Milter.CONTINUE)

    Milter.factory = Smallest
    Milter.runmilter("smallest", f"inet:{port}@127.0.0.1", 60)


if __name__ == "__main__":
    main(sys.argv[1])
