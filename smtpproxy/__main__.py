"""The entry point of the `smtpproxy` command and of `python -m smtpproxy`."""

import gc
import os
import signal
import sys


def main() -> None:
    """Run the command line. Ctrl-C ends with 130 even while modules are still being imported."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process: `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until the end
    gc.set_threshold(50_000, 20, 50)  # the modules loaded now all stay
    by_python = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ignored
    if by_python:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    sys.modules["rich"] = None  # type: ignore[assignment]  # a third of a start, see cli/printer.py
    from smtpproxy.cli import main as command_line

    if by_python:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command_line()


if __name__ == "__main__":
    main()
