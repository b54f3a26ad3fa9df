"""The command line: `smtpproxy COMMAND …`, one module of this folder for each command.

Exit codes: 0 done, 1 refused or found wrong, 2 wrong usage or configuration, 130 interrupted.
"""

from difflib import get_close_matches
from importlib import import_module

import click

from smtpproxy.cli.frame import CommandFrame

COMMANDS = (
    "serve",
    "demo",
    "check",
    "doctor",
    "suppress",
    "unsubscribe",
    "partner",
    "contact",
    "consent",
    "import",
    "scrub",
    "explain",
    "audit",
    "webhook",
    "token",
    "purge",
    "user",
    "dkim",
)
_MODULES = {"import": "imports"}  # a word of Python cannot name a module


class LazyCommands(CommandFrame):
    """Imports `smtpproxy.cli.NAME` and takes its `command` only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = _MODULES.get(cmd_name, cmd_name)
        command: click.Command = import_module(f"smtpproxy.cli.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, n=1)
            ctx.fail(f"no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(
    "smtpproxy",
    cls=LazyCommands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="smtpproxy", message="smtpproxy %(version)s")
def main() -> None:
    """The consent firewall for outbound mail.

    An SMTP relay that lets through only mail that the law and the recipients allow,
    says why it refused the rest, and keeps the proof.
    """
