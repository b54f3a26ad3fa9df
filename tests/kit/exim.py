"""A private Exim: Debian's light daemon, see tests/kit/unpacked.py. Needs root."""

import shutil

from tests.kit.folders import server_folder
from tests.kit.parts import EXIM
from tests.kit.ports import listens, wait_for
from tests.kit.processes import Running
from tests.kit.unpacked import TREE, private

USER = "Debian-exim"

# What only a private instance needs: its own folders, no DNS, and mail of its own domain
# (bounces) straight to the MTA at the end.
PRIVATE = """\
exim_path = {tree}/usr/sbin/exim4
primary_hostname = mx.example
spool_directory = {root}/spool
log_file_path = {root}/spool/%slog
pid_file_path = {root}/spool/pid
keep_environment =
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
tls_advertise_hosts =
host_lookup =
acl_smtp_rcpt = accept
acl_smtp_data = accept
domainlist local_domains = shop.example
begin routers
{router}
own:
  driver = manualroute
  transport = own
  route_list = * {host}::{upstream} byname
  self = send
begin transports
{transport}
own:
  driver = smtp
  allow_localhost
begin retry
* * F,10m,2s
"""


class EximInstance:
    """Started by `with`. `router` and `transport` are the lines of its configuration; mail
    for shop.example, the domain of senders, goes to `upstream` without them."""

    def __init__(self, router: str, transport: str, port: int, upstream: str) -> None:
        self.port = port
        self.root = server_folder("exim")
        self.root.chmod(0o755)
        (self.root / "spool").mkdir()
        host, _, upstream_port = upstream.rpartition(":")
        (self.root / "exim.conf").write_text(
            PRIVATE.format(
                root=self.root,
                tree=TREE,
                port=port,
                router=router,
                transport=transport,
                host=host,
                upstream=upstream_port,
            )
        )
        self._running: Running | None = None

    @property
    def log(self) -> str:
        path = self.root / "spool/mainlog"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> "EximInstance":
        command = [f"{TREE}/usr/sbin/exim4", "-C", f"{self.root}/exim.conf", "-bdf", "-q1s"]
        running = Running(
            private(
                EXIM,
                self.root,
                command,
                users={USER: 64_903},
                setup=[f"chown {USER}:{USER} {self.root}/spool"],
            ),
            output=self.root / "output",
        )
        self._running = running

        def up() -> bool:
            assert running.alive, f"exim ended:\n{running.output}\n{self.log}"
            return listens(self.port)

        wait_for(up, "Exim to listen")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._running is not None:
            self._running.kill()
        shutil.rmtree(self.root, ignore_errors=True)
