"""The command line: `smtpproxy COMMAND …`; the modules of this folder have the commands.

Exit codes: 0 done, 1 refused or found wrong, 2 wrong usage or configuration, 130 interrupted.
"""

from difflib import get_close_matches
from importlib import import_module

import click

from smtpproxy.cli.frame import CommandFrame

COMMANDS = {
    "serve": ("operation", "serve", "Run the relay until SIGTERM or SIGINT."),
    "demo": ("operation", "demo", "Show the relay at work on invented people."),
    "check": ("operation", "check", "Check the configuration, and whether the relay can start."),
    "doctor": ("operation", "doctor", "Look at everything that mailbox providers look at."),
    "suppress": ("suppress", "suppress", "Add, lift, show, import and export suppressions."),
    "unsubscribe": (
        "credentials",
        "unsubscribe",
        "Show and renew the keys of unsubscribe links.",
    ),
    "partner": ("partner", "partner", "Exchange suppressions with another sender, as hashes."),
    "contact": ("contact", "contact", "Fill, show, put right, export and erase contacts."),
    "consent": ("consent", "consent", "Record consent and its withdrawal."),
    "import": ("imports", "imports", "List, show and undo imports."),
    "scrub": ("scrub", "scrub", "Say who on a list may be mailed, and why not the others."),
    "explain": ("explain", "explain", "Say what would become of a message, or became of one."),
    "audit": ("audit", "audit", "Read the record of decisions, prove it, judge it again."),
    "webhook": ("webhook", "webhook", "See how far webhooks are; send again or drop."),
    "token": ("credentials", "token", "Make a new token for the API."),
    "purge": ("operation", "purge", "Remove what has outlived its period."),
    "user": ("credentials", "user", "Add, remove, list and check the users of AUTH."),
    "dkim": ("dkim", "dkim", "Make DKIM keys, print what to publish, check signatures."),
}
"""Name → (module, name in it, what --help says): a command is imported when it is run."""


class LazyCommands(CommandFrame):
    """Imports the module of a command only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"smtpproxy.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, _, help) in COMMANDS.items()])

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
