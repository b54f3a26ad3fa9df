"""`smtpproxy token` and `user`: who may use the relay."""

import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import click
from msgspec import structs

from smtpproxy.cli import fail, failing, valid_parameter
from smtpproxy.cli.options import Value, argument, command, flag, several
from smtpproxy.cli.printer import Result
from smtpproxy.disk import exists, locked
from smtpproxy.settings import Settings
from smtpproxy.settings.mail import Right
from smtpproxy.settings.names import name as token_name
from smtpproxy.wire.sasl import USER_NAME_RULE, is_user_name

if TYPE_CHECKING:
    from smtpproxy.auth.users import Users

PREFIX = "smtpproxy_"
"""Lets scanners of repositories and logs recognise a token."""

_RIGHTS = get_args(Right)
_PLACEHOLDER = "NAME"


@command("token")
def token(
    settings: Settings,
    name: str = argument(default=_PLACEHOLDER),
    may: tuple[Right, ...] = several("A right of the token (default: changes and check)."),
    brands: tuple[str, ...] = several(
        "A brand that the token is for (default: all).", name="--brand", metavar="NAME"
    ),
) -> Result:
    """Create an API token, and print the table that registers it.

    The token is shown only once; the configuration gets only its hash, which takes effect with
    `smtpproxy reload`. This command writes nothing.
    """
    from smtpproxy.cli.stores import check_brand  # loads the store, which --help does not need

    if name != _PLACEHOLDER:
        with valid_parameter("NAME"):
            token_name(name)
    token = PREFIX + secrets.token_urlsafe(32)
    digest = sha256(token.encode()).hexdigest()
    rights = list(dict.fromkeys(may)) or list(_RIGHTS[:2])
    if any(known.name == name for known in settings.tokens):
        click.echo(f"warning: a [[token]] named {name!r} already exists: replace it", err=True)
    for brand in brands:
        check_brand(settings, brand)
    text = [
        "token (give it to whoever will use it; it is not shown again):",
        token,
        "",
        "for the configuration:",
        "[[token]]",
        f'name = "{name}"',
        f'sha256 = "{digest}"',
        f"may = [{_listed(rights)}]",
        *([f"brands = [{_listed(brands)}]"] if brands else []),
    ]
    data = {"token": token, "name": name, "sha256": digest, "may": rights}
    return Result(data | {"brands": brands}, text)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


@click.group("user")
def user() -> None:
    """Add, remove, list and check the users of AUTH.

    They are in the file that [auth] users names, mode 0600, without their passwords: only what
    is needed to check one. A running relay notices a change within a second.
    """


def _user_name(value: str) -> str:
    if not is_user_name(value):
        raise ValueError(f"{value!r} is not the name of a user: {USER_NAME_RULE}")
    return value


@command("add", user, short_help="Add a user; asks for the password.")
def add(
    settings: Settings,
    name: Annotated[str, Value("NAME", _user_name)],
    replace: bool = flag("Set a new password for an existing user."),
) -> None:
    """Add a user; asks for the password twice, or reads it from standard input."""
    from smtpproxy.auth.users import User, empty

    path = _users_file(settings)

    def known() -> "Users":
        users = _read(path) if exists(path) and path.stat().st_size else empty()
        if name in users.by_name and not replace:
            fail(f"{name!r} already exists; --replace sets a new password")
        return users

    known()
    with failing(ValueError, "the password ", code=2):
        user = User.of(name, _password(confirm=True))
    with _changing(path):
        users = known()
        _write(settings, structs.replace(users, by_name={**users.by_name, name: user}))
    click.echo(f"{name}: {'password replaced' if name in users.by_name else 'added'}")


@command("remove", user)
def remove(settings: Settings, name: str) -> None:
    """Remove a user. Sessions that have already authenticated continue."""
    path = _users_file(settings)
    with _changing(path):
        users = _read(path)
        if name not in users.by_name:
            fail(f"no user {name!r} in {path}")
        kept = {other: user for other, user in users.by_name.items() if other != name}
        _write(settings, structs.replace(users, by_name=kept))
    click.echo(f"{name}: removed")


@command("list", user)
def list_users(settings: Settings) -> Result:
    """List the users, with the streams that their credentials allow."""
    users = _read(_users_file(settings))
    given = {credential.user: credential.streams for credential in settings.credentials}
    streams = {name: given.get(name) for name in users.by_name}
    return Result(
        [{"user": name, "streams": names} for name, names in streams.items()],
        (
            f"{name}  {'streams of the listener' if names is None else ', '.join(names)}"
            for name, names in streams.items()
        ),
    )


@command("check", user)
def check(settings: Settings, name: str) -> None:
    """Check a password; exits with 0 when it is right and 1 when it is not."""
    from smtpproxy.auth.users import verify

    users = _read(_users_file(settings))
    if not verify(users.by_name.get(name), _password(confirm=False)):
        fail("user name or password is wrong")
    click.echo(f"{name}: the password is right")


def _users_file(settings: Settings) -> Path:
    if settings.auth.users is None:
        fail('no users file: set [auth] users = "/etc/smtpproxy/users"', 2)
    return settings.auth.users


def _read(path: Path) -> "Users":
    from smtpproxy.auth.users import UsersError, read

    with failing(UsersError):
        return read(path)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Hold the lock of the file's folder: of two changes at once, one would undo the other."""
    try:
        with locked(path.parent, None):
            yield
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}")


def _write(settings: Settings, users: "Users") -> None:
    from smtpproxy.auth.users import write

    write(_users_file(settings), users, settings.server.state_dir)


def _password(*, confirm: bool) -> str:
    """Ask on the terminal, or read the first line of a pipe."""
    if sys.stdin.isatty():
        try:
            return str(click.prompt("Password", hide_input=True, confirmation_prompt=confirm))
        except UnicodeDecodeError:
            click.echo(err=True)  # the line of the question is open
            fail("the password is not text in the terminal's encoding", 2)
    return sys.stdin.readline().rstrip("\r\n")
