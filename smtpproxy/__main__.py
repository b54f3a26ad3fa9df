"""The entry point of the `smtpproxy` command and of `python -m smtpproxy`."""

import gc
import os
import sys

from smtpproxy import ctrl_c

_STREAMS = (
    ("stdin", "r", "surrogateescape"),
    ("stdout", "w", "backslashreplace"),
    ("stderr", "w", "backslashreplace"),
)
"""Each with its mode, and what becomes of text that is not in the terminal's encoding."""


def main() -> None:
    """Run the command line. Ctrl-C ends it with 130 at any time."""
    ctrl_c.ends_at_once()
    for name, mode, errors in _STREAMS:
        if getattr(sys, name) is None:  # closed by the parent process: `>&-`
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - until the end
        getattr(sys, name).reconfigure(errors=errors)
    gc.set_threshold(50_000, 20, 50)  # the modules loaded now all stay
    sys.modules["rich"] = None  # type: ignore[assignment]  # a third of a start, see cli/printer.py
    import threading

    from smtpproxy.cli import main as command_line
    from smtpproxy.cli import not_raised, thread_failed

    threading.excepthook, sys.unraisablehook = thread_failed, not_raised
    try:
        command_line()
    except KeyboardInterrupt:  # while the command was ending already
        sys.exit(ctrl_c.INTERRUPTED)
    finally:
        ctrl_c.ends_at_once()


if __name__ == "__main__":
    main()
