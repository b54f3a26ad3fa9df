"""Where a child process begins: `python -m smtpproxy.process.child ROLE`."""

import gc
import os
import pickle
import signal
import socket
import sys


def main() -> int:
    """Read what to do from standard input, and do it."""
    gc.set_threshold(50_000, 20, 50)  # the modules that are loaded now all stay
    sys.modules["rich"] = None  # type: ignore[assignment]  # 5 MB that structlog would load
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    from smtpproxy.process.children import WEB, Start

    start: Start = pickle.load(sys.stdin.buffer)
    sockets = {name: socket.socket(fileno=number) for name, number in start.listening.items()}
    channel = socket.socket(fileno=start.channel)
    for sock in (*sockets.values(), channel):
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
    if start.role == "worker":
        from smtpproxy.process.worker import run_worker

        return run_worker(start.settings, start.number, sockets, channel)
    if start.role == "purge":
        from smtpproxy.process.daily_purge import run_purge

        return run_purge(start.settings, channel)
    if start.role == "webhooks":
        from smtpproxy.process.webhooks import run_webhooks

        return run_webhooks(start.settings, channel)
    if start.role == "journals":
        from smtpproxy.process.journals import run_journals

        return run_journals(start.settings, channel)
    if start.role == "feedback":
        from smtpproxy.process.feedback import run_feedback

        return run_feedback(start.settings, sockets, channel)
    from smtpproxy.process.webserver import run_web

    return run_web(start.settings, sockets[WEB], channel, start.started_at)


if __name__ == "__main__":
    sys.exit(main())
