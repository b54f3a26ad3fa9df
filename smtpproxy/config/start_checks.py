"""Whether the relay could start with these settings on this machine.

Reading a configuration opens no files but rulebooks, so that commands that need no others work
without permission to read them; `check` and `serve` use this.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from smtpproxy.auth.users import UsersError, read
from smtpproxy.config import ConfigError
from smtpproxy.config.machine_checks import addresses, disk, folder_fault, user
from smtpproxy.policy.rules.deferrals import restore_in_force
from smtpproxy.settings import DkimSettings, Settings
from smtpproxy.settings.brands import UnusableLogo, logo_source
from smtpproxy.store import opened_store, replica_fault, store_path
from smtpproxy.store.configurations import Misfit, of_relays, of_rows
from smtpproxy.store.key_files import load_partner_key
from smtpproxy.store.link_keys import has_link_keys, load_link_keys
from smtpproxy.store.protocols import (
    NoStoreYet,
    StoreMisconfigured,
    StoreOutdated,
    StoreUnavailable,
)
from smtpproxy.store.shared_keys import check_link_keys
from smtpproxy.tls import TlsError, TlsFiles, client_context, server_context
from smtpproxy.webhooks import SecretFault, check_files

if TYPE_CHECKING:
    from smtpproxy.relay.dkim_signing import SigningKey

FOLDERS = ("audit", "spool")
"""The folders that `serve` makes in state_dir."""


def check_named_files(settings: Settings, filename: str) -> list[str]:
    """Return warnings about files that the settings name, each `key.path: what and why`.

    Raises ConfigError with every fault in them.
    """
    return _all_of(
        [check_access_files, _check_webhooks, check_dkim_files, _check_logos], settings, filename
    )


def check_start(settings: Settings, filename: str) -> list[str]:
    """Return the warnings of `check_named_files`; check store, folders and addresses too.

    Writes nothing. An address on which another process listens is not a fault: it may be the relay.
    Raises ConfigError with everything that would keep the relay from starting.
    """
    checks = [check_named_files, _check_state, _check_addresses, _check_fit]
    return [*_all_of(checks, settings, filename), *user(settings), *disk(settings)]


def _all_of(
    checks: Sequence[Callable[[Settings, str], list[str]]], settings: Settings, filename: str
) -> list[str]:
    warned: list[str] = []
    faults: list[str] = []
    for check in checks:
        try:
            warned += check(settings, filename)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return warned


def _raise_any(filename: str, faults: Iterator[str]) -> list[str]:
    found = [f"{filename}: {fault}" for fault in faults]
    if found:
        raise ConfigError(found)
    return []


def _check_webhooks(settings: Settings, filename: str) -> list[str]:
    return _raise_any(filename, _webhook_faults(settings))


def _webhook_faults(settings: Settings) -> Iterator[str]:
    for webhook in settings.webhooks:
        try:
            check_files(webhook)
        except SecretFault as fault:
            yield f'webhook "{webhook.name}".{fault.key}: {fault}'


def _check_logos(settings: Settings, filename: str) -> list[str]:
    return _raise_any(filename, _logo_faults(settings))


def _logo_faults(settings: Settings) -> Iterator[str]:
    for brand in settings.declared_brands:
        try:
            if brand.logo is not None:
                logo_source(brand.logo)
        except OSError as error:
            yield f'brand "{brand.name}".logo: {brand.logo}: {error.strerror}'
        except UnusableLogo as error:
            yield f'brand "{brand.name}".logo: {brand.logo} {error}'


def _check_state(settings: Settings, filename: str) -> list[str]:
    _raise_any(filename, _state_faults(settings))
    return [*restore_warnings(settings), *_replica_warnings(settings, filename)]


def _replica_warnings(settings: Settings, filename: str) -> list[str]:
    """Return a warning if the standby cannot be read: the relay starts, and asks the primary.

    Raises ConfigError if it is a standby of another database.
    """
    try:
        fault = asyncio.run(replica_fault(settings.store))
    except StoreMisconfigured as error:
        raise ConfigError([f"{filename}: {error}"]) from error
    return [f"{fault}; RCPT is answered from the primary meanwhile"] if fault else []


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


def _state_faults(settings: Settings) -> Iterator[str]:
    state = settings.server.state_dir
    bad = [*filter(None, (folder_fault(state), *(folder_fault(state / each) for each in FOLDERS)))]
    maildir = None if settings.feedback is None else folder_fault(settings.feedback_dir)
    if maildir is not None and not bad:
        yield f"feedback.maildir: {maildir}"
    if bad:
        yield f"server.state_dir: {bad[0]}"
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
            yield f"server.state_dir: {fault}"


def _partner_faults(settings: Settings) -> Iterator[str]:
    for partner in settings.store.partners:
        try:
            load_partner_key(partner.key_file)
        except StoreMisconfigured as fault:
            yield f'partner "{partner.name}".key_file: {fault}'


def _store_faults(settings: Settings) -> Iterator[str]:
    try:
        asyncio.run(_open_and_close(settings))
    except NoStoreYet:  # serve creates it
        fault = folder_fault(store_path(settings.store).parent)
        if fault:
            yield f"store.url: {fault}"
    except StoreOutdated:
        pass  # serve migrates it
    except StoreMisconfigured as error:
        yield f"store: {error}"
    except StoreUnavailable as error:
        yield f"store: {error}{f' ({error.__cause__})' if error.__cause__ else ''}"


async def _open_and_close(settings: Settings) -> None:
    state_dir = settings.server.state_dir
    async with opened_store(settings, read_only=True) as store:
        if settings.makes_tokens and (used := await store.link_keys()):
            await check_link_keys(store, state_dir, used)
        await store.ping()


def _check_fit(settings: Settings, filename: str) -> list[str]:
    """Return warnings about misfits with the store; `_check_state` reports its faults."""
    from smtpproxy.store.move.traces import traces

    async def look() -> list[Misfit]:
        async with opened_store(settings, read_only=True) as store:
            found = await of_rows(settings, store) + await traces(settings.store)
            return found + await of_relays(settings, store, now=datetime.now(UTC))

    try:
        return [f"store: {one}" for one in asyncio.run(look())]
    except (StoreUnavailable, OSError):
        return []


def _check_addresses(settings: Settings, filename: str) -> list[str]:
    found = [*addresses(settings)]
    _raise_any(filename, (f"{key}: {text}" for key, text, is_fault in found if is_fault))
    return [f"{key}: {text}" for key, text, is_fault in found if not is_fault]


_SOON = 14 * 86_400


def check_access_files(settings: Settings, filename: str, now: float | None = None) -> list[str]:
    """Return warnings about valid files, each `key.path: what and why`.

    Raises ConfigError with every fault in them.
    """
    moment = time.time() if now is None else now
    faults: list[str] = []
    warned: list[str] = []
    for key, text, is_fault in (
        *_certificates(settings, moment),
        *_upstream(settings),
        *_users(settings),
    ):
        (faults if is_fault else warned).append(f"{key}: {text}")
    if faults:
        raise ConfigError([f"{filename}: {fault}" for fault in faults])
    return warned


def _certificates(settings: Settings, now: float) -> Iterator[tuple[str, str, bool]]:
    for listener in settings.listeners:
        if listener.tls == "none" or not listener.certificate or not listener.private_key:
            continue
        where = f'listener "{listener.name}"'
        files = TlsFiles(listener.certificate, listener.private_key, listener.client_ca)
        try:
            _, expires = server_context(files)
        except TlsError as error:
            yield f"{where}.{error.key}", str(error), True
            continue
        day = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if expires <= now:
            yield f"{where}.certificate", f"{listener.certificate} expired on {day}", True
        elif expires <= now + _SOON:
            yield f"{where}.certificate", f"{listener.certificate} expires on {day}", False


def _upstream(settings: Settings) -> Iterator[tuple[str, str, bool]]:
    if settings.upstream.tls != "none":
        try:
            client_context(settings.upstream.ca_file)
        except TlsError as error:
            yield f"upstream.{error.key}", str(error), True


def _users(settings: Settings) -> Iterator[tuple[str, str, bool]]:
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


def check_dkim_files(settings: Settings, filename: str, now: datetime | None = None) -> list[str]:
    """Return warnings about valid keys, each `key.path: what and why`.

    Raises ConfigError with every fault in them.
    """
    if not settings.dkim:
        return []
    from smtpproxy.relay import dkim_signing as dkim_keys  # 6 MB, loaded only for DKIM

    faults: list[str] = []
    warned: list[str] = []
    keys: list[tuple[int, DkimSettings, SigningKey]] = []
    for index, each in enumerate(settings.dkim):
        try:
            key = dkim_keys.read_key(each.key)
        except dkim_keys.KeyFault as fault:
            faults.append(f"{filename}: dkim[{index}].key: {fault}")
            continue
        keys.append((index, each, key))
        if key.record.key_type == "rsa" and key.bits < dkim_keys.GOOD_BITS:
            warned.append(
                f"dkim[{index}].key: {each.key} has {key.bits} bits; use {dkim_keys.GOOD_BITS}"
            )
        if key.bits > dkim_keys.MAX_BITS:
            warned.append(
                f"dkim[{index}].key: {each.key} has {key.bits} bits; not every receiver can"
                f" verify more than {dkim_keys.MAX_BITS} (RFC 8301 3.2)"
            )
    faults += [f"{filename}: {text}" for text in _ambiguous(keys)]
    if faults:
        raise ConfigError(faults)
    return [*warned, *_not_yet(keys, now or datetime.now(UTC))]


def _ambiguous(keys: list[tuple[int, DkimSettings, "SigningKey"]]) -> Iterator[str]:
    """Yield two keys of the same type that begin at the same moment for the same mail."""
    for position, (index, each, key) in enumerate(keys):
        for other_index, other, other_key in keys[:position]:
            same_type = key.record.key_type == other_key.record.key_type
            both = each.streams & other.streams or each.streams == other.streams
            if same_type and both and (each.domain, each.since) == (other.domain, other.since):
                yield (
                    f"dkim[{index}].from: dkim[{other_index}] is an {key.record.key_type} key of"
                    f" {each.domain} too, from the same moment on: set from when this one signs"
                )


def _not_yet(keys: list[tuple[int, DkimSettings, "SigningKey"]], now: datetime) -> Iterator[str]:
    started = {each.domain for _, each, _ in keys if each.since is None or each.since <= now}
    for index, each, _ in keys:
        if each.since is not None and each.since > now and each.domain not in started:
            yield (
                f"dkim[{index}].from: no key of {each.domain} signs before {each.since:%Y-%m-%d},"
                " so its mail leaves unsigned until then"
            )
