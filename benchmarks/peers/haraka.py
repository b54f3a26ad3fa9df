"""Haraka (Node.js) with its smtp_proxy queue, installed by npm into build/ if possible."""

import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.data import BUILD
from tests.kit.ports import LOOPBACK

FOLDER = BUILD / "haraka"
PACKAGE = {
    "private": True,
    "dependencies": {"Haraka": "3.1.1"},
    # Newer versions need a newer Haraka, or are not on every mirror.
    "overrides": {
        "encoding-japanese": "2.2.0",
        "libqp": "2.1.1",
        "libmime": "5.3.7",
        "libbase64": "1.3.0",
    },
}
OPEN = "exports.hook_connect = (next, c) => { c.relaying = true; next(); };\n"


def install() -> str | None:
    """Install it once; return why it is absent, or None."""
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm"
    if (FOLDER / "node_modules/.bin/haraka").exists():
        return None
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text(json.dumps(PACKAGE))
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional"]
    try:
        done = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False
        )
    except subprocess.TimeoutExpired:
        return "npm took more than five minutes"
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        return f"npm could not install it: {lines[0] if lines else done.returncode}"
    return None


def configure(root: Path, port: int, upstream_port: int) -> list[str]:
    """Write a configuration into `root`; return the command to run."""
    config = root / "config"
    for folder in (config, root / "plugins", root / "queue"):
        folder.mkdir()
    shutil.copy(FOLDER / "node_modules/Haraka/config/connection.ini", config)
    (config / "smtp.ini").write_text(f"listen={LOOPBACK}:{port}\nnodes=0\n")
    (config / "smtp_proxy.ini").write_text(
        f"host={LOOPBACK}\nport={upstream_port}\nenable_outbound=true\nmax_connections=1000\n"
    )
    (config / "plugins").write_text("open\nqueue/smtp_proxy\n")
    (config / "loglevel").write_text("LOGCRIT\n")
    (config / "me").write_text("haraka.example\n")
    (root / "plugins/open.js").write_text(OPEN)
    return [str(FOLDER / "node_modules/.bin/haraka"), "-c", str(root)]
