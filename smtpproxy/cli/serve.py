"""`smtpproxy serve`: run the relay."""

import sys

import click

from smtpproxy.cli.common import config_option
from smtpproxy.settings import Settings


@click.command()
@config_option
def command(settings: Settings) -> None:
    """Run the relay until SIGTERM or SIGINT.

    Either signal drains: no new connections, running transactions finish, then exit 0.
    """
    from smtpproxy.app import serve

    sys.exit(serve(settings))
