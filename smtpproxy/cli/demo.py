"""`smtpproxy demo`: see the relay at work, in a minute and without a trace."""

import click

from smtpproxy.cli.common import fail
from smtpproxy.cli.printer import rich_console


@click.command(short_help="Show the relay at work on invented people.")
@click.option("--keep", is_flag=True, help="Leave the relay running until Ctrl-C.")
def command(keep: bool) -> None:
    """Run the relay on invented people and show what it lets through, and why.

    Starts a real relay in a temporary directory, with an MTA behind it that keeps what it
    is given; sends mail through it; then stops and removes everything.
    """
    from smtpproxy.demo.relay import DemoError
    from smtpproxy.demo.run import run

    try:
        run(rich_console(), keep=keep)
    except DemoError as error:
        fail(f"the demo stopped: {error}")
