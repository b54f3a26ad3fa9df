"""The product as users run it: `smtpproxy serve` with a configuration file."""

import json
import os
import signal
import smtplib
import socket
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from smtpproxy.cli import main
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.processes import Running, descendants, name, run
from tests.kit.toml import to_toml

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "smtpproxy")

CONTROLLER = {
    "name": "Example SA",
    "address": "1 rue de l'Exemple, 75001 Paris",
    "contact": "privacy@shop.example",
    "officer": "Ada Martin, dpo@shop.example",
    "purposes": ["newsletters and offers by e-mail", "receipts for orders"],
    "recipients": ["Example Hosting SA, Lyon", "the recipient's mailbox provider"],
    "authority": "CNIL, 3 place de Fontenoy, 75007 Paris, www.cnil.fr",
}
STREAMS: list[dict[str, Any]] = [
    {
        "name": "offers",
        "class": "marketing",
        "purpose": "offers",
        "products": ["shoes"],
        "from_domains": ["shop.example"],
    },
    {"name": "receipts", "class": "transactional", "from_domains": ["shop.example"]},
    {
        "name": "appeals",
        "class": "marketing",
        "purpose": "appeals",
        "nature": "charity",
        "from_domains": ["charity.example"],
    },
    {
        "name": "b2b",
        "class": "marketing",
        "purpose": "b2b",
        "topics": ["finance"],
        "from_domains": ["shop.example"],
    },
]
"""The streams of tests/kit/store.py's people."""


def relay_config(root: Path, upstream: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """A complete configuration on free ports, with its state in `root`.

    Its listener `apps` may use every stream, by default the first. `overrides` change it:
    tables are merged, other values replaced, and None removes a key.
    """
    streams = [stream["name"] for stream in (overrides or {}).get("stream", STREAMS)]
    base: dict[str, Any] = {
        "server": {"hostname": "relay.example", "state_dir": str(root / "state")},
        "listener": [
            {
                "name": "apps",
                "protocol": "smtp",
                "address": f"{LOOPBACK}:{free_port()}",
                "streams": streams,
                "default_stream": streams[0],
            }
        ],
        "upstream": {"address": upstream},
        "store": {"url": f"sqlite://{root / 'state' / 'smtpproxy.db'}"},
        "web": {"address": f"{LOOPBACK}:{free_port()}"},
        "policy": {"rulebook": "fr"},
        "controller": CONTROLLER,
        "stream": STREAMS,
    }
    return _merge(base, overrides or {})


def listener(name: str, *streams: str, default: str | None = None, **more: Any) -> dict[str, Any]:
    """A `[[listener]]` on a free port for the `listener` key of a configuration."""
    table = {"name": name, "protocol": "smtp", "address": f"{LOOPBACK}:{free_port()}", **more}
    table["streams"] = list(streams)
    return table if default is None else {**table, "default_stream": default}


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


class RelayProcess:
    """`smtpproxy serve`, started by `start()` or `with`.

    `root` is usually tmp_path; `config` has overrides for `relay_config`. Without `web` there is
    no web process, which is a third of the cost of a start. A stopped relay can be started
    again on the same state and ports.
    """

    def __init__(self, root: Path, upstream: str, config: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self.config: dict[str, Any] = relay_config(root, upstream, {"web": None, **(config or {})})
        self.config_path = root / "smtpproxy.toml"
        Path(self.config["server"]["state_dir"]).mkdir(parents=True, exist_ok=True)
        self.write_config()
        self.cold = False  # see tests/kit/warm.py
        self.before: tuple[str, ...] = ()  # a program that becomes the relay
        self._running: Running | None = None

    def write_config(self) -> None:
        """Write `self.config` again after a test changed it."""
        self.config_path.write_text(to_toml(self.config))

    def port(self, listener: str | None = None) -> int:
        """The port of a listener, by default the first."""
        for each in self.config["listener"]:
            if listener in (None, each["name"]):
                return int(each["address"].rpartition(":")[2])
        raise KeyError(listener)

    @property
    def address(self) -> str:
        """host:port of the first listener."""
        return f"{LOOPBACK}:{self.port()}"

    @property
    def url(self) -> str:
        return f"http://{self.config['web']['address']}"

    @property
    def pid(self) -> int:
        assert self._running is not None, "not started"
        return self._running.pid

    @property
    def pids(self) -> list[int]:
        """The main process and all its descendants."""
        return [self.pid, *descendants(self.pid)]

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return self.children("worker")

    def children(self, role: str) -> list[int]:
        """The process ids of the children with that role."""
        return [pid for pid in descendants(self.pid) if name(pid).partition("-")[0] == role]

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.alive

    @property
    def output(self) -> str:
        path = self.root / "relay.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def log(self) -> list[dict[str, Any]]:
        """The structured log so far, without lines that are not JSON."""
        lines = (line for line in self.output.splitlines() if line.startswith("{"))
        return [json.loads(line) for line in lines]

    def start(self, timeout: float = 30.0) -> None:
        """Start, and wait until it reports ready as to systemd and its listeners greet.

        A test that plays systemd (NOTIFY_SOCKET in its environment) is notified instead.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind("")  # an address chosen by the kernel
            told.setblocking(False)
            ours = told.getsockname().replace(b"\0", b"@").decode()
            self._running = Running(
                [*self.before, *COMMAND, "serve", "--config", str(self.config_path)],
                output=self.root / "relay.log",
                env={"NOTIFY_SOCKET": ours, **os.environ},
                cwd=REPOSITORY,
                cold=self.cold,
            )
            if "NOTIFY_SOCKET" not in os.environ:
                wait_for(lambda: self._says_ready(told), "the relay to be ready", timeout=timeout)
        wait_for(self._greets, "the relay's listeners to greet", timeout=timeout)

    def _says_ready(self, told: socket.socket) -> bool:
        assert self.alive, f"the relay ended:\n{self.output[-3000:]}"
        with suppress(BlockingIOError):
            return told.recv(512) == b"READY=1"
        return False

    def _greets(self) -> bool:
        assert self.alive, f"the relay ended:\n{self.output[-3000:]}"
        return all(
            greets(self.port(each["name"]))
            for each in self.config["listener"]
            if each.get("protocol", "smtp") == "smtp"
            and each.get("tls") != "implicit"
            and not each.get("proxy_protocol")
        )

    def ready(self) -> bool:
        """Whether /readyz answers 200 now."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def terminate(self, timeout: float = 60.0) -> int:
        """SIGTERM, wait for the drain, and return the exit code."""
        assert self._running is not None, "not started"
        return self._running.terminate(timeout)

    def ask_to_end(self) -> None:
        """Send SIGTERM without waiting."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL the main process and its workers, like a crash."""
        if self._running is not None:
            self._running.kill()
            self._running = None

    def __enter__(self) -> "RelayProcess":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def command(
        self, *arguments: str, stdin: bytes = b"", timeout: float = 120.0
    ) -> tuple[int, str, str]:
        """Run `smtpproxy COMMAND… --config` for this relay; return (exit code, stdout, stderr).

        Only `serve` gets its own process. Others run in a thread here (a test may have a
        loop), which saves the start; tests/cli and tests/demo run them as users do.
        """
        given = [*arguments, "--config", str(self.config_path)]
        if arguments[0] == "serve":
            run_alone = run(*COMMAND, *given, stdin=stdin, timeout=timeout, cwd=REPOSITORY)
            return run_alone.returncode, run_alone.stdout, run_alone.stderr
        with ThreadPoolExecutor(1) as aside:
            invoked = aside.submit(CliRunner().invoke, main, given, input=stdin)
            done = invoked.result(timeout)
        return done.exit_code, done.stdout, done.stderr

    def must(self, *arguments: str) -> str:
        """Run a command that must end with 0; return its stdout."""
        code, stdout, stderr = self.command(*arguments)
        assert code == 0, f"smtpproxy {' '.join(arguments)}: {code}\n{stdout}\n{stderr}"
        return stdout

    def fill(self, contacts: Sequence[str], suppressions: Sequence[str] = ()) -> None:
        """Import NDJSON lines of contacts and CSV lines of suppressions."""
        if contacts:
            path = self.root / "contacts.ndjson"
            path.write_text("\n".join(contacts) + "\n")
            self.must("contact", "import", str(path))
        if suppressions:
            path = self.root / "suppressions.csv"
            path.write_text("\n".join(["address,scope,origin,since,note", *suppressions]) + "\n")
            self.must("suppress", "import", str(path))

    def send(
        self,
        message: bytes,
        *recipients: str,
        sender: str = "news@shop.example",
        listener: str | None = None,
    ) -> tuple[int, str]:
        """Send with smtplib; return code and text of the decisive reply.

        That is the reply to the end of data, or the first refusal before it.
        """
        with smtplib.SMTP(LOOPBACK, self.port(listener), timeout=60) as client:
            client.ehlo("client.example")
            code, text = client.mail(sender, [f"size={len(message)}"])
            for recipient in recipients:
                if code < 400:
                    code, text = client.rcpt(recipient)
            if code < 400:
                code, text = client.data(message)
            return code, text.decode(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics as `name{label="value",…}`, labels in name order."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as response:
            return parse_metrics(response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples with that name and at least these labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        return sum(
            value
            for sample, value in self.metrics().items()
            if sample.partition("{")[0] == name
            and wanted <= set(sample.partition("{")[2].rstrip("}").split(","))
        )


def parse_metrics(text: str) -> dict[str, float]:
    """Read the Prometheus text format."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def greets(port: int, host: str = LOOPBACK) -> bool:
    """Whether an SMTP server answers 220 there."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            return connection.recv(512).startswith(b"220")
    except OSError:
        return False
