"""`smtpproxy dkim`: keys for signing, their DNS records, and the signatures of a message."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from smtpproxy.cli.common import config_option, config_path_option, fail
from smtpproxy.cli.printer import json_option, print_json
from smtpproxy.settings import DkimSettings, Settings
from smtpproxy.settings.names import selector as read_selector
from smtpproxy.settings.places import domain as read_domain

if TYPE_CHECKING:
    from smtpproxy.relay.dkim.keys import SigningKey


@click.group()
def command() -> None:
    """Make keys for DKIM, print what to publish, check signatures.

    The keys that sign are named in [[dkim]] of the configuration; docs/dkim.md tells how to
    set them up and how to change them.
    """


@command.command("keygen")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--domain", required=True, metavar="DOMAIN", help="Whose mail it is to sign.")
@click.option("--selector", required=True, metavar="NAME", help="What to publish it under.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["rsa", "ed25519"]),
    default="rsa",
    show_default=True,
    help="Everybody can verify RSA; Ed25519 is for a second key beside it.",
)
@click.option(
    "--bits",
    type=click.Choice(["2048", "3072", "4096"]),
    default="2048",
    show_default=True,
    help="Of an RSA key; 2048 fit every DNS and every verifier.",
)
@json_option
@config_path_option
def keygen(
    file: Path, domain: str, selector: str, kind: str, bits: str, as_json: bool, config: Path
) -> None:
    """Make a key in FILE (mode 0600, never over another), and print its DNS record."""
    from smtpproxy.relay.dkim.keys import new_key

    del config  # taken as every command takes it; the key comes before its table
    domain, selector = _names(domain, selector)
    pem, key = new_key("ed25519" if kind == "ed25519" else "rsa", int(bits))
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as written:
            written.write(pem)
    except FileExistsError:
        fail(f"{file} exists already: a key is never written over another")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    if as_json:
        print_json(_told(file, domain, selector, key))
        return
    click.echo(f"{file}: a new {kind} key. Publish:\n{_zone_line(domain, selector, key)}\n")
    click.echo(f'and sign with it:\n[[dkim]]\ndomain = "{domain}"\nselector = "{selector}"')
    click.echo(f'key = "{file.resolve()}"')


@command.command("record")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--domain", metavar="DOMAIN", help="Of FILE; or only the configured keys of it.")
@click.option("--selector", metavar="NAME", help="Of FILE; or only the configured key of it.")
@json_option
@config_option
def record(
    settings: Settings,
    file: Path | None,
    domain: str | None,
    selector: str | None,
    as_json: bool,
) -> None:
    """Print the DNS records of the configured keys, or of the key in FILE."""
    chosen = [
        each
        for each in settings.dkim
        if domain in (None, each.domain) and selector in (None, each.selector)
    ]
    if file is not None:
        if domain is None or selector is None:
            raise click.UsageError("FILE needs --domain and --selector: a key does not know them")
        chosen = [DkimSettings(*_names(domain, selector), file)]
    if not chosen:
        fail("no such key: there is no [[dkim]] for it in the configuration")
    keys = [(each, _key(each.key)) for each in chosen]
    if as_json:
        print_json([_told(each.key, each.domain, each.selector, key) for each, key in keys])
        return
    for each, key in keys:
        click.echo(_zone_line(each.domain, each.selector, key))


@command.command("verify")
@click.argument("message", type=click.File("rb"), metavar="MESSAGE.eml")
@click.option(
    "--record",
    "records",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="Records as keygen prints them, instead of the DNS; any number.",
)
@json_option
@config_option
def verify(settings: Settings, message: BinaryIO, records: tuple[Path, ...], as_json: bool) -> int:
    """Check every DKIM signature of MESSAGE.eml (- for standard input).

    Exits with 0 when at least one is valid and 1 when none is.
    """
    from smtpproxy.cli.dkim_verify import check, read_records
    from smtpproxy.policy.model import SignatureState

    given = read_records(records) if records else None
    found = check(settings, message.read(), given)
    if as_json:
        print_json(found)
    for each in () if as_json else found:
        name = f"{each.domain} (selector {each.selector})" if each.domain else "a signature"
        covers = "" if each.covers_unsubscribe else "; does not cover both unsubscribe fields"
        detail = f": {each.detail}" if each.detail else ""
        click.echo(f"{name}: {each.state}{detail}{covers}")
    if not found and not as_json:
        click.echo("no DKIM signature", file=sys.stderr)
    return 0 if any(each.state is SignatureState.VALID for each in found) else 1


def _names(domain: str, selector: str) -> tuple[str, str]:
    try:
        return read_domain(domain), read_selector(selector)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _key(path: Path) -> "SigningKey":
    from smtpproxy.relay.dkim.keys import KeyFault, read_key

    try:
        return read_key(path)
    except KeyFault as fault:
        fail(str(fault))


def _name(domain: str, selector: str) -> str:
    return f"{selector}._domainkey.{domain}"


def _zone_line(domain: str, selector: str, key: "SigningKey") -> str:
    from smtpproxy.mail.dkim import zone_line

    return zone_line(_name(domain, selector), key.record)


def _told(file: Path, domain: str, selector: str, key: "SigningKey") -> dict[str, object]:
    return {
        "file": file,
        "domain": domain,
        "selector": selector,
        "type": key.record.key_type,
        "bits": key.bits,
        "name": _name(domain, selector),
        "record": str(key.record),
    }
