"""`smtpproxy user`: who may authenticate. Passwords come from a prompt or standard input."""

import sys
from dataclasses import replace
from pathlib import Path

import click

from smtpproxy.auth.users import User, Users, UsersError, empty, read, write
from smtpproxy.cli.common import config_option, fail
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.settings import Settings
from smtpproxy.wire.sasl import USER_NAME_RULE, is_user_name


def user_name(value: str) -> str:
    """Read a user's name. For `type=user_name`."""
    if not is_user_name(value):
        raise click.BadParameter(f"{value!r} is not the name of a user: {USER_NAME_RULE}")
    return value


@click.group()
def command() -> None:
    """Add, remove, list and check the users of AUTH.

    They stand in the file that [auth] users names, mode 0600, with what is needed to check a
    password and not the password. A running relay takes a change within a second.
    """


@command.command("add", short_help="Add a user; asks for the password.")
@click.argument("name", type=user_name)
@click.option("--replace", "again", is_flag=True, help="Give a user who exists a new password.")
@config_option
def add(name: str, again: bool, settings: Settings) -> None:
    """Add a user; asks for the password twice, or reads it from standard input."""
    path = _path(settings)
    users = _read(path) if path.exists() else empty()
    if name in users.by_name and not again:
        fail(f"{name!r} exists already; --replace gives a new password")
    try:
        user = User.of(name, _password(confirm=True))
    except ValueError as error:
        fail(f"the password {error}", 2)
    _write(path, replace(users, by_name={**users.by_name, name: user}))
    click.echo(f"{name}: {'password replaced' if name in users.by_name else 'added'}")


@command.command("remove")
@click.argument("name")
@config_option
def remove(name: str, settings: Settings) -> None:
    """Remove a user. Sessions that have authenticated already go on to their end."""
    path = _path(settings)
    users = _read(path)
    if name not in users.by_name:
        fail(f"no user {name!r} in {path}")
    kept = {other: user for other, user in users.by_name.items() if other != name}
    _write(path, replace(users, by_name=kept))
    click.echo(f"{name}: removed")


@command.command("list")
@json_option
@config_option
def list_users(as_json: bool, settings: Settings) -> None:
    """List the users, with the streams that their credentials give."""
    users = _read(_path(settings))
    streams = {c.user: c.streams for c in settings.credentials}
    if as_json:
        print_json([{"user": name, "streams": streams.get(name)} for name in users.by_name])
        return
    for name in users.by_name:
        given = streams.get(name)
        click.echo(f"{name}  {'streams of the listener' if given is None else ', '.join(given)}")


@command.command("check")
@click.argument("name")
@config_option
def check(name: str, settings: Settings) -> None:
    """Say whether a password is right: exit 0 if it is, 1 if not."""
    from smtpproxy.auth.users import verify

    users = _read(_path(settings))
    if not verify(users.by_name.get(name), _password(confirm=False)):
        fail("user name or password is wrong")
    click.echo(f"{name}: right")


def _path(settings: Settings) -> Path:
    if settings.auth.users is None:
        fail('no file of users: set [auth] users = "/etc/smtpproxy/users"', 2)
    return settings.auth.users


def _read(path: Path) -> Users:
    try:
        return read(path)
    except UsersError as error:
        fail(str(error))


def _write(path: Path, users: Users) -> None:
    try:
        write(path, users)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")


def _password(*, confirm: bool) -> str:
    """Ask on the terminal; from a pipe, the first line."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=confirm))
    return sys.stdin.readline().rstrip("\r\n")
