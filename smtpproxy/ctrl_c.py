"""What Ctrl-C does to a command: raise an exception while it works, end it at once before and
after.

An exception surfaces wherever Python happens to be. In an import it may become another error, or be
dropped by a callback, as in a finalizer; and there is nothing to tidy up yet.
"""

import os
import signal  # and no more: until this module is loaded, Ctrl-C prints a traceback

INTERRUPTED = 128 + signal.SIGINT  # as shells report it


def _end(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


def ends_at_once() -> None:
    """End the process from here on, unless Ctrl-C is ignored (nohup) or handled by others."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raises() -> None:
    """Raise an exception from here on, if Ctrl-C would end the process at once."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
