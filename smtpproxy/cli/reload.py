"""`smtpproxy reload`: has the running relay reload its configuration."""

from smtpproxy.cli import failing
from smtpproxy.cli.options import command
from smtpproxy.cli.printer import Result
from smtpproxy.process.control import RELOADS_WITHIN, NotRunning, Reload, ask
from smtpproxy.settings import Settings


@command("reload")
def reload(settings: Settings) -> Result:
    """Have the running relay reload its configuration: all of it, or none if it is faulty.

    Messages in progress finish under the old one. If the relay keeps the old one, prints the
    faults and exits with 1. Only server.state_dir needs a restart.
    """
    with failing(NotRunning):
        response, _ = ask(settings.server.state_dir, Reload(), RELOADS_WITHIN)
    if response.faults:
        return Result({"reloaded": False, "faults": response.faults}, response.faults, 1)
    new = response.told
    text = f"reloaded: {new['workers']} workers, mode {new['mode']}, configuration {new['hash']}"
    if new["hash"] != settings.hash:
        other = "the running relay has read its own file, which differs from this one"
        return Result({"reloaded": True, "faults": [other], **new}, [text], error=other)
    return Result({"reloaded": True, "faults": [], **new}, [text])
