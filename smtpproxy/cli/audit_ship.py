"""`smtpproxy audit ship`: copies of the audit log elsewhere."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from types import FrameType
from typing import Annotated

from smtpproxy.cli import fail
from smtpproxy.cli.journals import audit_folder
from smtpproxy.cli.options import command, flag, number, option
from smtpproxy.cli.outputs import own
from smtpproxy.cli.printer import Part, Result
from smtpproxy.cli.stores import warn
from smtpproxy.settings import Settings
from smtpproxy.shipping import shipper
from smtpproxy.shipping.files import FileShipper, Shipped
from smtpproxy.shipping.lines import LineShipper
from smtpproxy.shipping.position import AlreadyShipping
from smtpproxy.shipping.targets import TargetUnavailable, TargetWrong
from smtpproxy.terminal import counted

_LONGEST_PAUSE = 60.0


@command("ship")
def ship(
    settings: Settings,
    target: str,
    follow: bool = flag(
        "Keep shipping new records until Ctrl-C or SIGTERM; then ship the rest and end."
    ),
    every: Annotated[float, number(0.1, 3600)] = option(
        "With --follow, look every N seconds.", metavar="N", default=2.0
    ),
) -> Result:
    """Copy the audit log to TARGET, and keep the copy up to date.

    TARGET is a folder, s3://BUCKET/PREFIX, https://HOST/PATH or syslog://HOST:PORT. A folder or an
    object store gets files, in a folder for each relay, which `audit show`, `verify` and `explain`
    read with --from; erasures and retention reach them with the next run. A collector gets
    lines without personal data.

    It continues where the last run ended, however that run ended. Exits with 1 when the target
    did not accept everything. With --follow a second signal ends it at once.
    """
    audit_folder(settings)
    if target and "://" not in target and (why := own(settings, Path(target))):
        fail(f"{target}: it {why}; name a folder on another disk", 2)
    try:
        with shipper(settings, target) as shipping:
            if not follow:
                return _once(shipping, target)
            with _ending() as ends_within:
                _follow(shipping, every, ends_within)
                return _once(shipping, target)
    except TargetWrong as error:
        fail(str(error), 2)
    except (AlreadyShipping, TargetUnavailable) as error:
        fail(str(error))


def _once(shipping: FileShipper | LineShipper, target: str) -> Result:
    """Ship twice: the second round takes what changed during the first, for example an erasure."""
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
        yield f"{counted(done.removed, 'file')} removed: their retention period is over"


def _follow(
    shipping: FileShipper | LineShipper, every: float, ends_within: Callable[[float], bool]
) -> None:
    pause = 0.0
    while not ends_within(pause):
        try:
            shipping.look()
            pause = every
        except (TargetUnavailable, OSError) as error:
            pause = min(max(2 * pause, 1.0), _LONGEST_PAUSE)
            warn(f"not shipped: {error}; trying again in {pause:.0f} seconds")


@contextmanager
def _ending() -> Iterator[Callable[[float], bool]]:
    """Catch the signals to end; yield a function that waits for one, at most so many seconds, and
    returns whether it came.

    What is being shipped then is finished. Process 1 needs this: it ignores unhandled signals.
    """
    woken, wake = os.pipe()

    def note(number: int, frame: FrameType | None) -> None:
        if select([woken], [], [], 0)[0]:
            raise KeyboardInterrupt  # the second one
        os.write(wake, b"\n")

    before = [(each, signal.signal(each, note)) for each in (signal.SIGTERM, signal.SIGINT)]
    try:
        yield lambda seconds: bool(select([woken], [], [], seconds)[0])
    finally:
        for each, handler in before:
            signal.signal(each, handler)
        os.close(woken)
        os.close(wake)
