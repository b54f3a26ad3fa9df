"""A private OpenSMTPD: Debian's package, see tests/kit/unpacked.py. Needs root."""

import shutil

from tests.kit.folders import server_folder
from tests.kit.parts import OPENSMTPD
from tests.kit.ports import LOOPBACK, listens, wait_for
from tests.kit.processes import Running
from tests.kit.unpacked import TREE, private

# Mail of its own domain (bounces) goes straight to the MTA at the end; the first match counts.
PRIVATE = """\
listen on {loopback} port {port}
action "own" relay host "smtp://{upstream}"
match from any for domain "shop.example" action "own"
{lines}"""


class OpensmtpdInstance:
    """Started by `with`. `lines` are those of its configuration; mail for shop.example, the
    domain of senders, goes to `upstream` without them."""

    def __init__(self, lines: str, port: int, upstream: str) -> None:
        self.port = port
        self.root = server_folder("opensmtpd")
        self.root.chmod(0o755)
        config = PRIVATE.format(loopback=LOOPBACK, port=port, upstream=upstream, lines=lines)
        (self.root / "smtpd.conf").write_text(config)
        self._running: Running | None = None

    @property
    def log(self) -> str:
        return (self.root / "output").read_text(errors="replace")

    def __enter__(self) -> "OpensmtpdInstance":
        programs = "/usr/libexec/opensmtpd"
        command = [f"{TREE}/usr/sbin/smtpd", "-dv", "-f", f"{self.root}/smtpd.conf"]
        running = Running(
            private(
                OPENSMTPD,
                self.root,
                command,
                users={"opensmtpd": 64_901, "opensmtpq": 64_902},
                empty=("/run", "/var/spool", "/var/lib", "/usr/libexec"),
                setup=[
                    f"mkdir -p /var/lib/opensmtpd/empty {programs}",
                    f"mount --bind {TREE}{programs} {programs}",
                ],
            ),
            output=self.root / "output",
        )
        self._running = running

        def up() -> bool:
            assert running.alive, f"smtpd ended:\n{self.log}"
            return listens(self.port)

        wait_for(up, "OpenSMTPD to listen")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._running is not None:
            self._running.kill()
        shutil.rmtree(self.root, ignore_errors=True)
