"""Whether the relay could start with these settings on this machine.

Reading a configuration opens no files but rulebooks, so that commands that need no others work
without permission to read them; `check` and `serve` use this.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from smtpproxy.auth.users import UsersError, read
from smtpproxy.config import ConfigError
from smtpproxy.config.machine_checks import addresses, disk, folder_fault, user
from smtpproxy.policy.rules.deferrals import restore_in_force
from smtpproxy.settings import DkimSettings, Settings
from smtpproxy.settings.brands import UnusableLogo, logo_source
from smtpproxy.store import opened_store, replica_fault, side_file_faults, store_path
from smtpproxy.store.configurations import Misfit, check_link_keys, of_relays, of_rows
from smtpproxy.store.key_files import load_partner_key
from smtpproxy.store.link_keys import has_link_keys, load_link_keys
from smtpproxy.store.records import (
    NoStoreYet,
    StoreMisconfigured,
    StoreOutdated,
    StoreUnavailable,
    with_cause,
)
from smtpproxy.tls import TlsError, TlsFiles, client_context, server_context, trusted_until
from smtpproxy.webhooks import SecretFault, check_files

if TYPE_CHECKING:
    from smtpproxy.relay.dkim_signing import SigningKey

FOLDERS = ("audit", "spool")
"""The folders that `serve` makes in state_dir."""


Findings = Iterator[tuple[str, str, bool]]
"""The key (empty: the text begins with it), what and why, and whether it is a fault."""


def check_named_files(settings: Settings, filename: str) -> list[str]:
    """Return warnings about files that the settings name, each `key.path: what and why`.

    Raises ConfigError with every fault in them.
    """
    return _warnings(filename, _named_files(settings))


def check_start(settings: Settings, filename: str) -> list[str]:
    """Return the warnings of `check_named_files`; check store, folders and addresses too.

    Writes nothing. An address on which another process listens is not a fault: it may be the relay.
    Raises ConfigError with everything that would keep the relay from starting.
    """
    findings = chain(_named_files(settings), _state(settings), addresses(settings), _fit(settings))
    return [*_warnings(filename, findings), *user(settings), *disk(settings)]


def _warnings(filename: str, findings: Findings) -> list[str]:
    """Raises ConfigError if there are faults."""
    warned: list[str] = []
    faults: list[str] = []
    for key, text, is_fault in findings:
        (faults if is_fault else warned).append(f"{key}: {text}" if key else text)
    if faults:
        raise ConfigError([f"{filename}: {fault}" for fault in faults])
    return warned


def _named_files(settings: Settings) -> Findings:
    yield from _certificates(settings, now := time.time())
    yield from _upstream(settings, now)
    yield from _users(settings)
    yield from _webhooks(settings, now)
    yield from _dkim_files(settings, datetime.now(UTC))
    yield from _logos(settings)


def _webhooks(settings: Settings, now: float) -> Findings:
    for webhook in settings.webhooks:
        where = f'webhook "{webhook.name}"'
        yield from _authorities(f"{where}.ca_file", webhook.ca_file, now, "nothing is delivered")
        try:
            check_files(webhook)
        except SecretFault as fault:
            yield f"{where}.{fault.key}", str(fault), True


def _logos(settings: Settings) -> Findings:
    for brand in settings.declared_brands:
        try:
            if brand.logo is not None:
                logo_source(brand.logo)
        except OSError as error:
            yield f'brand "{brand.name}".logo', f"{brand.logo}: {error.strerror}", True
        except UnusableLogo as error:
            yield f'brand "{brand.name}".logo', f"{brand.logo} {error}", True


def _state(settings: Settings) -> Findings:
    faults = [*_state_faults(settings)]
    yield from ((key, text, True) for key, text in faults)
    if faults:
        return
    for warning in restore_warnings(settings):
        yield "", warning, False
    try:  # without its standby the relay starts, and asks the primary
        fault = asyncio.run(replica_fault(settings.store))
    except StoreMisconfigured as error:  # it is a standby of another database
        yield "", str(error), True
    else:
        if fault:
            yield "", f"{fault}; RCPT is answered from the primary meanwhile", False


def restore_warnings(settings: Settings) -> list[str]:
    """Return a warning while marketing waits for a replay after a restored backup."""

    async def since() -> datetime | None:
        async with opened_store(settings, read_only=True) as store:
            pause = restore_in_force(await store.pauses())
        return None if pause is None else pause.at

    try:
        at = asyncio.run(since())
    except StoreUnavailable:
        return []  # reported elsewhere
    if at is None:
        return []
    return [
        f"store: restored from a backup at {at:%Y-%m-%dT%H:%M:%SZ}; all marketing is deferred"
        " (restore_pending) until what came after the backup has been replayed: smtpproxy restore"
        " --journals DIR, or --journals-lost where nothing is left of it"
    ]


def _state_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    state = settings.server.state_dir
    bad = [*filter(None, (folder_fault(state), *(folder_fault(state / each) for each in FOLDERS)))]
    maildir = None if settings.feedback is None else folder_fault(settings.feedback_dir)
    if maildir is not None and not bad:
        yield "feedback.maildir", maildir
    if bad:
        yield "server.state_dir", bad[0]
        return
    partners = [*_partner_faults(settings)]
    yield from partners
    if not partners:
        yield from _store_faults(settings)
    if settings.makes_tokens:
        try:
            if has_link_keys(state):
                load_link_keys(state)
        except StoreMisconfigured as fault:
            yield "server.state_dir", str(fault)


def _partner_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    for partner in settings.store.partners:
        try:
            load_partner_key(partner.key_file)
        except StoreMisconfigured as fault:
            yield f'partner "{partner.name}".key_file', str(fault)


def _store_faults(settings: Settings) -> Iterator[tuple[str, str]]:
    try:
        asyncio.run(_open_and_close(settings))
    except NoStoreYet:  # serve creates it
        fault = folder_fault(store_path(settings.store).parent)
        if fault:
            yield "store.url", fault
    except StoreOutdated:
        pass  # serve migrates it
    except StoreMisconfigured as error:
        yield "store", str(error)
    except StoreUnavailable as error:
        yield "store", with_cause(error)
    yield from (("store", fault) for fault in side_file_faults(settings.store))


async def _open_and_close(settings: Settings) -> None:
    state_dir = settings.server.state_dir
    async with opened_store(settings, read_only=True) as store:
        if settings.makes_tokens and (used := await store.link_keys()):
            await check_link_keys(store, state_dir, used)
        await store.ping()


def _fit(settings: Settings) -> Findings:
    """Yield warnings about misfits with the store; `_state` reports its faults."""
    from smtpproxy.store.move.traces import traces, uncopied

    async def look() -> list[Misfit]:
        async with opened_store(settings, read_only=True) as store:
            found = await of_rows(settings, store) + await traces(settings.store)
            found += uncopied(settings)
            return found + await of_relays(settings, store, now=datetime.now(UTC))

    with suppress(StoreUnavailable, OSError):
        yield from (("store", str(one), False) for one in asyncio.run(look()))


_SOON = 14 * 86_400
_NO_MAIL = "clients that check it send no mail"


def _certificates(settings: Settings, now: float) -> Findings:
    for listener in settings.listeners:
        if listener.tls == "none" or not listener.certificate or not listener.private_key:
            continue
        where = f'listener "{listener.name}"'
        files = TlsFiles(listener.certificate, listener.private_key, listener.client_ca)
        try:
            _, valid = server_context(files)
        except TlsError as error:
            yield f"{where}.{error.key}", str(error), True
            continue
        refused = "client certificates are refused"
        yield from _authorities(f"{where}.client_ca", listener.client_ca, now, refused)
        # Mail from clients that do not check it goes on.
        text = f"{listener.certificate} "
        if valid.begins > now:
            text += f"is not valid before {_minute(valid.begins)}: until then, {_NO_MAIL}"
        elif valid.ends <= now + _SOON:
            text += _end(valid.ends, now, _NO_MAIL)
        else:
            continue
        yield f"{where}.certificate", text, False


def _authorities(where: str, ca_file: Path | None, now: float, then: str) -> Findings:
    """Warn when all authorities in a file have expired, or soon will: an old one may stay in it."""
    if ca_file is None:
        return
    with suppress(TlsError):  # told by who uses the file
        ends = trusted_until(ca_file)
        if ends <= now + _SOON:
            yield where, f"{ca_file} {_end(ends, now, then)}", False


def _end(ends: float, now: float, then: str) -> str:
    return f"expired on {_minute(ends)}: {then}" if ends <= now else f"expires on {_minute(ends)}"


def _minute(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _upstream(settings: Settings, now: float) -> Findings:
    if settings.upstream.tls != "none":
        ca_file = settings.upstream.ca_file
        yield from _authorities("upstream.ca_file", ca_file, now, "mail is answered 451")
        try:
            client_context(ca_file)
        except TlsError as error:
            yield f"upstream.{error.key}", str(error), True


def _users(settings: Settings) -> Findings:
    if settings.auth.users is None or all(each.auth == "off" for each in settings.listeners):
        return
    try:
        users = read(settings.auth.users)
    except UsersError as error:
        yield "auth.users", str(error), True
        return
    if not users.by_name:
        yield "auth.users", f"{settings.auth.users} has no users yet: smtpproxy user add", False
    for credential in settings.credentials:
        if credential.user is not None and credential.user not in users.by_name:
            yield f'credential "{credential.user}"', f"no such user in {settings.auth.users}", False


def _dkim_files(settings: Settings, now: datetime) -> Findings:
    if not settings.dkim:
        return
    from smtpproxy.relay import dkim_signing as dkim_keys  # 6 MB, loaded only for DKIM

    keys: list[tuple[int, DkimSettings, SigningKey]] = []
    for index, each in enumerate(settings.dkim):
        where = f"dkim[{index}].key"
        try:
            key = dkim_keys.read_key(each.key)
        except dkim_keys.KeyFault as fault:
            yield where, str(fault), True
            continue
        keys.append((index, each, key))
        has = f"{each.key} has {key.bits} bits"
        if key.record.key_type == "rsa" and key.bits < dkim_keys.GOOD_BITS:
            yield where, f"{has}; use {dkim_keys.GOOD_BITS}", False
        if key.bits > dkim_keys.MAX_BITS:
            most = f"not every receiver can verify more than {dkim_keys.MAX_BITS} (RFC 8301 3.2)"
            yield where, f"{has}; {most}", False
    yield from _ambiguous(keys)
    yield from _not_yet(keys, now)


def _ambiguous(keys: list[tuple[int, DkimSettings, "SigningKey"]]) -> Findings:
    """Yield two keys of the same type that begin at the same moment for the same mail."""
    for position, (index, each, key) in enumerate(keys):
        for other_index, other, other_key in keys[:position]:
            same_type = key.record.key_type == other_key.record.key_type
            both = each.streams & other.streams or each.streams == other.streams
            if same_type and both and (each.domain, each.since) == (other.domain, other.since):
                text = (
                    f"dkim[{other_index}] is an {key.record.key_type} key of {each.domain} too,"
                    " from the same moment on: set from when this one signs"
                )
                yield f"dkim[{index}].from", text, True


def _not_yet(keys: list[tuple[int, DkimSettings, "SigningKey"]], now: datetime) -> Findings:
    started = {each.domain for _, each, _ in keys if each.since is None or each.since <= now}
    for index, each, _ in keys:
        if each.since is not None and each.since > now and each.domain not in started:
            text = (
                f"no key of {each.domain} signs before {each.since:%Y-%m-%d}, so its mail leaves"
                " unsigned until then"
            )
            yield f"dkim[{index}].from", text, False
