"""A private Sendmail: Debian's packages unpacked elsewhere, since they conflict with Postfix's.

`python -m tests.kit.sendmail` fetches and unpacks them once, into build/sendmail. Needs root.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kit import unpacked
from tests.kit.folders import server_folder
from tests.kit.parts import SENDMAIL
from tests.kit.ports import listens, wait_for
from tests.kit.processes import Running, run

TREE = SENDMAIL
BINARY = TREE / "usr/libexec/sendmail/sendmail"
CF = TREE / "usr/share/sendmail/cf"

# What only a private instance needs: no DNS, its own folders and port.
PRIVATE = """\
divert(0)dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `mx.example')dnl
define(`ALIAS_FILE', `{root}/aliases')dnl
define(`STATUS_FILE', `{root}/statistics')dnl
define(`HELP_FILE', `{root}/helpfile')dnl
define(`confPID_FILE', `{root}/sendmail.pid')dnl
define(`QUEUE_DIR', `{root}/queue')dnl
define(`confSERVICE_SWITCH_FILE', `{root}/service.switch')dnl
define(`confDONT_BLAME_SENDMAIL', `TrustStickyBit')dnl
define(`confTO_IDENT', `0')dnl
define(`confCW_FILE', `{root}/local-host-names')dnl
define(`confLOG_LEVEL', `15')dnl
define(`LOCAL_MAILER_PATH', `/bin/true')dnl
define(`SMART_HOST', `esmtp:[{host}]')dnl
define(`ESMTP_MAILER_ARGS', `TCP $h {port}')dnl
define(`confDELIVERY_MODE', `interactive')dnl
define(`confQUEUE_LA', `1000')dnl
define(`confREFUSE_LA', `1000')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
FEATURE(`accept_unqualified_senders')dnl
FEATURE(`promiscuous_relay')dnl
FEATURE(`no_default_msa')dnl
{macros}
MAILER(`local')dnl
MAILER(`smtp')dnl
"""


class SendmailInstance:
    """Started by `start()` or `with`. All mail goes on to `smart_host`; `macros` are lines of
    sendmail.mc, in which DAEMON_OPTIONS must name `port`."""

    def __init__(
        self, smart_host: str, macros: str, port: int, aliases: Sequence[str] = ()
    ) -> None:
        self.port = port
        self.root = server_folder("sendmail")
        self._running: Running | None = None
        host, _, smart_port = smart_host.rpartition(":")
        text = PRIVATE.format(root=self.root, host=host, port=smart_port, macros=macros)
        (self.root / "queue").mkdir(mode=0o700)
        (self.root / "aliases").write_text("".join(f"{line}\n" for line in aliases))
        (self.root / "service.switch").write_text("hosts files\naliases files\n")
        (self.root / "local-host-names").write_text("mx.example\n")
        (self.root / "helpfile").touch()
        (self.root / "sendmail.mc").write_text(text)
        self.root.chmod(0o755)
        made = run(
            str(TREE / "usr/bin/m4"), f"-D_CF_DIR_={CF}/", str(CF / "m4/cf.m4"),
            str(self.root / "sendmail.mc"), env=_libraries(),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        (self.root / "sendmail.cf").write_text(made.stdout)
        self._command("-bi")

    def _command(self, *options: str) -> None:
        done = run(*self._program(*options), env=_libraries())
        assert done.returncode == 0, done.stdout + done.stderr

    def _program(self, *options: str) -> list[str]:
        # With a host name without a dot it would wait for minutes.
        program = (
            f"hostname mx.example; exec {BINARY} -C {self.root}/sendmail.cf {' '.join(options)}"
        )
        return ["unshare", "--uts", "sh", "-c", program]

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._running = Running(
            self._program("-bD", "-q1s", "-X", str(self.trace)),
            output=self.root / "output",
            env=_libraries(),
        )

        def up() -> bool:
            assert self._running is not None
            assert self._running.alive, f"sendmail ended:\n{self._running.output}"
            return listens(self.port)

        wait_for(up, "Sendmail to listen")

    @property
    def trace(self) -> Path:
        return self.root / "trace"

    def __enter__(self) -> "SendmailInstance":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._running is not None:
            self._running.kill()
        shutil.rmtree(self.root, ignore_errors=True)


def _libraries() -> dict[str, str]:
    folders = [TREE / "usr/lib/x86_64-linux-gnu", TREE / "lib/x86_64-linux-gnu"]
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}


def unpack() -> None:
    """Fetch the packages and unpack them. Raises CalledProcessError."""
    unpacked.unpack(TREE, "sendmail-bin", "sendmail-cf", "m4")
    BINARY.chmod(0o755)  # set-gid, so it would not look for libraries where we say


if __name__ == "__main__":
    unpack()
    sys.exit(0 if BINARY.exists() else 1)
