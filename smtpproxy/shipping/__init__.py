"""Shipping the audit log: copies of its files, in a folder for each relay, or its lines to a
collector (docs/adr/0036-journals-of-relays.md)."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from smtpproxy.settings import Settings
from smtpproxy.shipping.files import FileShipper
from smtpproxy.shipping.lines import LineShipper
from smtpproxy.shipping.position import held
from smtpproxy.shipping.targets import DirectoryTarget, FileTarget, LineTarget, TargetWrong
from smtpproxy.store.register import relay_id

_SYSLOG_PORT = 601  # of syslog over TCP (RFC 3195)
_FORMS = "a folder, s3://BUCKET/PREFIX, https://HOST/PATH or syslog://HOST:PORT"


@contextmanager
def shipper(settings: Settings, target: str) -> Iterator[FileShipper | LineShipper]:
    """Open a target, and lock out other processes of this relay that ship there.

    Raises TargetWrong, AlreadyShipping, OSError.
    """
    server = settings.server
    relay = relay_id(server.state_dir)
    with closing(_opened(target, relay, server.hostname)) as opened:
        name = str(Path(target).resolve()) if isinstance(opened, DirectoryTarget) else target
        with held(server.state_dir, name) as position:
            folder = server.state_dir / "audit"
            if isinstance(opened, LineTarget):
                yield LineShipper(folder, relay, server.hostname, opened, position)
            else:
                yield FileShipper(folder, relay, server.hostname, opened, position)


def _opened(target: str, relay: str, host: str) -> FileTarget | LineTarget:
    if not target:  # a variable that is not set; Path("") is the working folder
        raise TargetWrong(f'"": not a target; expected {_FORMS}')
    if "://" not in target:
        return DirectoryTarget(Path(target), relay)
    try:
        url = urlsplit(target)
        port = url.port
    except ValueError as error:
        raise TargetWrong(f"{target}: {error}; expected {_FORMS}") from error
    if url.scheme == "s3" and url.netloc:
        from smtpproxy.shipping.s3 import S3Target

        return S3Target(url.netloc, url.path, relay)
    from smtpproxy.shipping.collectors import HttpTarget, SyslogTarget

    if url.scheme in ("http", "https") and url.hostname:
        return HttpTarget(target)
    if url.scheme == "syslog" and url.hostname and url.path in ("", "/"):
        return SyslogTarget(url.hostname, port or _SYSLOG_PORT, host)
    raise TargetWrong(f"{target}: not a target; expected {_FORMS}")
