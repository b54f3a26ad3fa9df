"""A private Postfix: its own configuration, queue and port, no syslog, no systemd.

As upstream it delivers mail for anybody into one maildir, whose messages can be compared
byte for byte. With `relayhost` it is a client instead. Needs root.
"""

import contextlib
import grp
import json
import os
import pwd
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.kit.folders import server_folder
from tests.kit.parts import program
from tests.kit.ports import LOOPBACK, free_port, listens, wait_for
from tests.kit.processes import Running, run

DAEMONS = """\
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n -  0 cleanup
qmgr      unix  n - n 10 1 qmgr
rewrite   unix  - - n -  - trivial-rewrite
bounce    unix  - - n -  0 bounce
defer     unix  - - n -  0 bounce
trace     unix  - - n -  0 bounce
verify    unix  - - n -  1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n -  - proxymap
smtp      unix  - - n -  - smtp
relay     unix  - - n -  - smtp
showq     unix  n - n -  - showq
error     unix  - - n -  - error
retry     unix  - - n -  - error
discard   unix  - - n -  - discard
virtual   unix  - n n -  - virtual
lmtp      unix  - - n -  - lmtp
anvil     unix  - - n -  1 anvil
scache    unix  - - n -  1 scache
postlog   unix-dgram n - n - 1 postlogd
"""
ADDED_ABOVE = (b"Return-Path:", b"X-Original-To:", b"Delivered-To:", b"Received:")


class Delivered(Struct, frozen=True):
    """One message in the maildir."""

    recipient: str
    return_path: str  # "" is the null reverse path
    message: bytes  # as relayed to Postfix, CRLF line ends, without its own trace fields


class PostfixInstance:
    """Started by `start()` or `with`; all its files are gone after `remove()`.

    `main` adds main.cf parameters, `smtpd` adds `-o` options to the listener only,
    `services` adds lines to master.cf.
    The files are in their own folder under the system's temporary directory:
    Postfix's user may not enter pytest's tmp_path.
    """

    def __init__(
        self,
        *,
        hostname: str = "mx.example",
        relayhost: str | None = None,
        main: Mapping[str, str] | None = None,
        smtpd: Mapping[str, str] | None = None,
        services: str = "",
    ) -> None:
        self.hostname = hostname
        self.port = free_port()
        self.root = server_folder("postfix")
        self.config = self.root / "config"
        self.log_path = self.root / "maillog"
        self.maildir = self.root / "mail"
        self._master: Running | None = None
        self._write(relayhost, main or {}, smtpd or {}, services)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The master's process id; its children are the daemons."""
        return int((self.root / "queue/pid/master.pid").read_text())

    def _write(
        self,
        relayhost: str | None,
        main: Mapping[str, str],
        smtpd: Mapping[str, str],
        services: str,
    ) -> None:
        self.root.chmod(0o755)
        for name in ("config", "queue", "data", "mail"):
            (self.root / name).mkdir()
        nobody = pwd.getpwnam("nobody")
        owner = pwd.getpwnam("postfix").pw_uid
        os.chown(self.root / "data", owner, -1)
        # postsuper logs as that user when it finds leftovers of an interrupted delivery.
        self.log_path.touch()
        os.chown(self.log_path, owner, -1)
        os.chown(self.maildir, nobody.pw_uid, nobody.pw_gid)
        settings = {
            "compatibility_level": "3.6",
            "myhostname": self.hostname,
            "mydestination": "",
            "inet_interfaces": LOOPBACK,
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "queue_directory": str(self.root / "queue"),
            "data_directory": str(self.root / "data"),
            "mail_owner": "postfix",
            "setgid_group": grp.getgrnam("postdrop").gr_name,
            "maillog_file": str(self.log_path),
            "maillog_file_prefixes": str(self.root),
            "alias_maps": "",
            "local_recipient_maps": "",
            "local_header_rewrite_clients": "",
            "default_process_limit": "250",
            "message_size_limit": "110000000",
            "mailbox_size_limit": "0",
            "virtual_mailbox_limit": "0",
            # No DNS; and deferred messages are retried within seconds.
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            "queue_run_delay": "1s",
            "transport_retry_time": "1s",
        }
        if relayhost is not None:
            host, _, port = relayhost.rpartition(":")
            settings["relayhost"] = f"[{host}]:{port}"
        else:
            settings |= {
                "virtual_mailbox_domains": "static:all",
                "virtual_mailbox_maps": "static:all/",
                "virtual_mailbox_base": str(self.maildir),
                "virtual_uid_maps": f"static:{nobody.pw_uid}",
                "virtual_gid_maps": f"static:{nobody.pw_gid}",
                "virtual_transport": "virtual",
            }
        settings |= main
        (self.config / "main.cf").write_text(
            "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        options = "".join(f"\n  -o {name}={value}" for name, value in smtpd.items())
        (self.config / "master.cf").write_text(
            f"{LOOPBACK}:{self.port} inet n - n - - smtpd{options}\n{services}{DAEMONS}"
        )

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._master = Running(
            [program("postfix"), "-c", str(self.config), "start-fg"],
            output=self.root / "output",
        )

        def up() -> bool:
            assert self._master is not None
            assert self._master.alive, f"postfix ended:\n{self._master.output}\n{self.log}"
            return listens(self.port)

        wait_for(up, "Postfix to listen")

    def stop(self) -> None:
        """Stop it but keep its queue and mail, from which `start()` continues."""
        if self._master is None:
            return
        run(program("postfix"), "-c", str(self.config), "stop")
        with contextlib.suppress(AssertionError):
            self._master.wait(10)
        self._master.kill()
        self._master = None
        # A daemon still running holds the socket: the next master could not bind it, and
        # `start()` would take that daemon for the new one.
        wait_for(lambda: not listens(self.port), "Postfix's port to be closed")

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop it and delete its files."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> "PostfixInstance":
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def submit(self, message: bytes, sender: str, recipients: Sequence[str]) -> None:
        """Submit a message like a local program, by sendmail(1)."""
        done = run(
            program("sendmail"), "-C", str(self.config), "-f", sender, "-i", "--", *recipients,
            stdin=message.replace(b"\r\n", b"\n"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def queued(self) -> list[dict[str, Any]]:
        """The queue as listed by postqueue(1): queue_id, recipients …

        It reads one directory after another, so that mail moved meanwhile may be listed twice.
        """
        done = run(program("postqueue"), "-c", str(self.config), "-j")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return list({line["queue_id"]: line for line in lines}.values())

    def flush(self) -> None:
        """Retry all queued mail now."""
        run(program("postqueue"), "-c", str(self.config), "-f")

    def wait_empty(self, timeout: float = 30.0) -> None:
        """Wait until the queue is empty.

        Postfix may scan its queue just before an attempt ends, and then not again for long. A
        listing may miss mail being moved, so it takes two.
        """
        flushed = time.monotonic()

        def empty() -> bool:
            nonlocal flushed
            if time.monotonic() > flushed + 2:
                self.flush()
                flushed = time.monotonic()
            return not self.queued() and not self.queued()

        wait_for(empty, "the queue to empty", timeout=timeout, every=0.1)

    def delivered(self, count: int | None = None, timeout: float = 30.0) -> list[Delivered]:
        """All delivered mail; with `count`, wait until there is that much."""
        if count is not None:
            wait_for(lambda: len(self._files()) >= count, f"{count} deliveries", timeout=timeout)
        return [_read(path.read_bytes()) for path in self._files()]

    def _files(self) -> list[Path]:
        return sorted((self.maildir / "all/new").glob("*"))


def _read(raw: bytes) -> Delivered:
    """Remove what virtual(8) and smtpd(8) put above the message."""
    lines = raw.replace(b"\n", b"\r\n").splitlines(keepends=True)
    known: dict[bytes, str] = {}
    at = 0
    for name in ADDED_ABOVE:
        if not lines[at].startswith(name):
            continue
        known[name] = lines[at][len(name) :].decode(errors="replace").strip().strip("<>")
        at += 1
        while lines[at][:1] in b" \t":
            at += 1
    return Delivered(known[b"Delivered-To:"], known[b"Return-Path:"], b"".join(lines[at:]))
