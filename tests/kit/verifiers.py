"""OpenDKIM and rspamd as verifiers, with keys from a file or a name server."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

from tests.kit.dkim import KeyFile
from tests.kit.dns import NameServer
from tests.kit.parts import program
from tests.kit.ports import LOOPBACK, free_port, listens, wait_for
from tests.kit.processes import Running, run


def opendkim(folder: Path, message: bytes, *keys: KeyFile) -> dict[str, str]:
    """OpenDKIM's result for each selector: `pass`, `fail` …"""
    (folder / "keys.txt").write_text("".join(f"{key.name} {key.record}\n" for key in keys))
    config = folder / "opendkim.conf"
    config.write_text(f"TestPublicKeys {folder / 'keys.txt'}\nMode v\nSyslog no\n")
    (folder / "message.eml").write_bytes(message)
    done = run(
        program("opendkim"), "-x", str(config), "-vv", "-t", str(folder / "message.eml"), timeout=60
    )
    found = re.findall(r"dkim=(\w+) [^;]*?header\.s=(\S+)", done.stdout + done.stderr, re.DOTALL)
    return {selector: result for result, selector in found}


class Rspamd:
    """A private rspamd with only its DKIM module."""

    def __init__(self, folder: Path, dns: NameServer) -> None:
        self.port = free_port()
        self._folder = folder
        self._config = folder / "rspamd.conf"
        self._config.write_text(f"""\
pidfile = "{folder}/rspamd.pid"
options {{
  tempdir = "{folder}"; hs_cache_dir = "{folder}"; filters = "dkim"; local_addrs = [];
  control_socket = "{folder}/rspamd.sock mode=0600";
  dns {{ nameserver = ["{dns.address}:1"]; timeout = 2s; retransmits = 2; }}
}}
logging {{ type = "console"; level = "warning"; }}
dkim {{ check_local = true; check_authed = true; max_sigs = 10; }}
worker "normal" {{ bind_socket = "{LOOPBACK}:{self.port}"; count = 1; }}
""")
        self._running: Running | None = None

    def __enter__(self) -> "Rspamd":
        running = self._running = Running(
            [program("rspamd"), "-f", "-i", "-c", str(self._config)],
            output=self._folder / "rspamd.log",
        )

        def up() -> bool:
            assert running.alive, running.output
            return listens(self.port)

        wait_for(up, "rspamd to listen", timeout=90)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._running is not None:
            self._running.kill()

    def verdicts(self, message: bytes) -> dict[str, list[str]]:
        """The `domain:s=selector` of signatures, by symbol: `R_DKIM_ALLOW`, `R_DKIM_REJECT` …"""
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.port}/checkv2",
            data=message,
            headers={"From": "news@shop.example", "IP": "192.0.2.7"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            symbols: dict[str, Any] = json.load(response)["symbols"]
        return {
            name: symbol.get("options", [])
            for name, symbol in symbols.items()
            if name.startswith("R_DKIM")
        }
