"""Whether the files that settings name can serve: certificates, keys, users.

Reading a configuration does not open them, so that commands which need none of them work
without the right to; `check` and `serve` ask here.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from smtpproxy.auth.users import UsersError, read
from smtpproxy.config.faults import ConfigError
from smtpproxy.settings import Settings
from smtpproxy.tls import TlsError, TlsFiles, client_context, server_context

_SOON = 14 * 86_400


def check_access_files(settings: Settings, filename: str, now: float | None = None) -> list[str]:
    """Return warnings about files that are good, each `key.path: what and why`.

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
        yield "auth.users", f"{settings.auth.users} holds no user yet: smtpproxy user add", False
    for credential in settings.credentials:
        if credential.user is not None and credential.user not in users.by_name:
            yield f'credential "{credential.user}"', f"no such user in {settings.auth.users}", False
