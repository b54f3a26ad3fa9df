"""`smtpproxy token`: a new bearer token for the API."""

import secrets
from hashlib import sha256

import click

from smtpproxy.cli.common import config_option
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.settings import Settings
from smtpproxy.terminal import printable

PREFIX = "smtpproxy_"
"""By which scanners of repositories and logs know what they found."""


@click.command(short_help="Make a new token for the API.")
@click.argument("name", required=False, default="NAME")
@click.option(
    "--may",
    type=click.Choice(["changes", "check"]),
    multiple=True,
    help="What it may do; once for each right. Else both.",
)
@config_option
@json_option
def command(settings: Settings, name: str, may: tuple[str, ...], as_json: bool) -> None:
    """Make a new token for the API, and the table that makes it known.

    The token is shown this once; only its hash goes into the configuration, which takes
    effect when the relay is started again. Nothing is written.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    digest = sha256(token.encode()).hexdigest()
    rights = list(dict.fromkeys(may)) or ["changes", "check"]
    taken = any(known.name == name for known in settings.tokens)
    if as_json:
        print_json({"token": token, "name": name, "sha256": digest, "may": rights})
    else:
        granted = ", ".join(f'"{right}"' for right in rights)
        click.echo(f"token (give it to who will use it, it is not shown again):\n{token}\n")
        click.echo("for the configuration:\n[[token]]")
        click.echo(f'name = "{printable(name)}"\nsha256 = "{digest}"\nmay = [{granted}]')
    if taken:
        click.echo(f"warning: there is a [[token]] named {name!r} already: replace it", err=True)
