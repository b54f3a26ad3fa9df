"""`smtpproxy audit ship`: copies of the audit log elsewhere."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import click

from smtpproxy.cli import fail
from smtpproxy.cli.options import audit_folder, config_option, flag, option, options
from smtpproxy.cli.printer import Part, Result, shows_result
from smtpproxy.cli.stores import warn
from smtpproxy.settings import Settings
from smtpproxy.shipping import shipper
from smtpproxy.shipping.files import FileShipper, Shipped
from smtpproxy.shipping.lines import LineShipper
from smtpproxy.shipping.position import AlreadyShipping
from smtpproxy.shipping.targets import TargetUnavailable, TargetWrong
from smtpproxy.terminal import counted

_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class ShipOptions:
    """For how long."""

    follow: bool = flag("Go on with what is added, until Ctrl-C or SIGTERM.")
    every: float = option(
        "With --follow, look every N seconds.",
        click.FloatRange(min=0.1, max=3600), metavar="N", default=2.0,
    )  # fmt: skip


@click.command("ship")
@click.argument("target")
@options(ShipOptions)
@shows_result
@config_option
def ship(settings: Settings, target: str, options: ShipOptions) -> Result:
    """Copy the audit log to TARGET, and keep the copy as the log is.

    TARGET is a folder, s3://BUCKET/PREFIX, https://HOST/PATH or syslog://HOST:PORT. A folder or an
    object store gets files, in a folder for each relay, which `audit show`, `verify` and `explain`
    read with --from; erasures and retention reach them with the next run. A collector gets
    lines without personal data.

    It goes on where the last run ended, however that ended. Exits with 1 when the target did not
    take everything.
    """
    audit_folder(settings)
    try:
        with shipper(settings, target) as shipping:
            return _follow(shipping, options) if options.follow else _once(shipping, target)
    except TargetWrong as error:
        fail(str(error), 2)
    except (AlreadyShipping, TargetUnavailable) as error:
        fail(str(error))


def _once(shipping: FileShipper | LineShipper, target: str) -> Result:
    """Ship twice: what changed during the first round, by an erasure for example, goes too."""
    if isinstance(shipping, FileShipper):
        files = shipping.look() + shipping.look()
        data = {"files": files.files, "octets": files.octets, "removed": files.removed}
        return Result({"target": target, **data}, list(_text(files)))
    sent = shipping.look() + shipping.look()
    rows = f"{counted(sent.rows, 'row')} and {counted(sent.anchors, 'anchor')} sent"
    return Result({"target": target, "rows": sent.rows, "anchors": sent.anchors}, [rows])


def _text(done: Shipped) -> Iterator[Part]:
    if not done.files and not done.removed:
        yield "nothing new"
        return
    yield f"{counted(done.files, 'file')} shipped, {counted(done.octets, 'octet')}"
    if done.removed:
        yield f"{counted(done.removed, 'file')} removed, whose time is over"


def _follow(shipping: FileShipper | LineShipper, options: ShipOptions) -> Result:
    pause = options.every
    while True:
        try:
            shipping.look()
            pause = options.every
        except (TargetUnavailable, OSError) as error:
            pause = min(max(2 * pause, 1.0), _LONGEST_PAUSE)
            warn(f"not shipped: {error}; the next try is in {pause:.0f} seconds")
        time.sleep(pause)
