"""The rate of one-click POSTs that the links accept: `python -m benchmarks.unsubscribe`.

wrk (Debian package wrk) posts each person's own link once, over persistent connections, for
some seconds. Every answer is durable. The CPU time covers all threads of the web process.
"""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from smtpproxy.events import UlidFactory
from smtpproxy.mail.unsubscribe_token import Unsubscription, stream_tag
from smtpproxy.store.link_keys import link_ring
from tests.kit.parts import program
from tests.kit.relay import RelayProcess

SECONDS = 5
CONNECTIONS = 64
LINKS = 40_000
_SCRIPT = """
local links, sent = {}, 0
for link in io.lines("LINKS") do links[#links + 1] = link end
local head = {["Content-Type"] = "application/x-www-form-urlencoded"}
request = function()
    sent = sent + 1
    return wrk.format("POST", links[(sent - 1) % #links + 1], head, "List-Unsubscribe=One-Click")
end
"""


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        stream = {"name": "offers", "class": "marketing", "purpose": "offers", "unsubscribe": "add"}
        config = {"web": {"public_url": "https://unsubscribe.example.com"}, "stream": [stream]}
        with RelayProcess(folder, "127.0.0.1:9", config) as relay:
            print(_measured(relay, folder))


def _measured(relay: RelayProcess, folder: Path) -> str:
    new_id = UlidFactory(lambda: time.time_ns() // 1_000_000, os.urandom)
    ring, tag = link_ring(Path(relay.config["server"]["state_dir"])), stream_tag("offers")
    with (folder / "links").open("w") as file:
        for number in range(LINKS):
            who = f"person{number}@people{number % 997}.example"
            told = Unsubscription(who, "purpose:offers", new_id(), tag)
            file.write(f"/u/{ring.seal(told)}\n")
    script = folder / "links.lua"
    script.write_text(_SCRIPT.replace("LINKS", str(folder / "links")))
    (pid,) = relay.children("web")
    before = _cpu(pid)
    said = subprocess.run(
        [program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s",
         str(script), relay.url],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    spent = _cpu(pid) - before
    done = int(re.findall(r"(\d+) requests in", said)[0])
    rate = re.findall(r"Requests/sec:\s+(\S+)", said)[0]
    late = {share: re.findall(rf"{share}%\s+(\S+)", said)[0] for share in (50, 99)}
    failed = re.findall(r"Non-2xx or 3xx responses: (\d+)", said) or ["0"]
    load = os.getloadavg()[0]
    return (
        f"{rate} POST/s, p50 {late[50]}, p99 {late[99]}, {failed[0]} of {done} refused;"
        f" {spent / done * 1e6:.0f} µs of CPU each; load average {load:.1f}"
    )


def _cpu(pid: int) -> float:
    """The CPU time a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
