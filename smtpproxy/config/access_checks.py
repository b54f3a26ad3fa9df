"""What must hold between the keys of TLS and authentication.

A protection that is half configured is a fault, never a weaker protection.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from smtpproxy.config import values
from smtpproxy.config.faults import Fault
from smtpproxy.config.tables import tables

Document = Mapping[str, Any]


def access_checks(document: Document) -> Iterator[Fault]:
    """Yield the faults in who may come in, and how."""
    auth = document.get("auth")
    users = isinstance(auth, dict) and "users" in auth
    certificates = any("certificate" in table for _, table in tables(document, "credential"))
    for index, listener in tables(document, "listener"):
        for key, text in (*_tls(listener), *_auth(listener, users, certificates)):
            yield Fault(("listener", index, key), text)
    yield from _credentials(document)
    upstream = document.get("upstream")
    if isinstance(upstream, dict) and upstream.get("tls", "none") == "none":
        for key in ("ca_file", "tls_name"):
            if key in upstream:
                yield Fault(
                    ("upstream", key), 'does nothing without tls = "starttls" or "implicit"'
                )


def _tls(listener: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if listener.get("tls", "none") == "none":
        for key in ("certificate", "private_key", "client_ca"):
            if key in listener:
                yield key, 'does nothing without tls = "starttls" or "implicit"'
        if listener.get("require_tls") is True:
            yield "require_tls", 'nobody could send mail: set tls = "starttls" or "implicit"'
        return
    for key, example in (("certificate", "relay.pem"), ("private_key", "relay.key")):
        if key not in listener:
            yield key, f'missing; TLS needs it, for example {key} = "/etc/smtpproxy/{example}"'


def _auth(
    listener: Mapping[str, Any], users: bool, certificates: bool
) -> Iterator[tuple[str, str]]:
    auth = listener.get("auth", "off")
    without_tls = listener.get("auth_without_tls") is True
    if auth not in ("optional", "required"):
        if without_tls:
            yield "auth_without_tls", 'does nothing without auth = "optional" or "required"'
        return
    by_certificate = "client_ca" in listener and certificates
    if not users and not by_certificate:
        yield "auth", 'needs users, for example [auth] with users = "/etc/smtpproxy/users"'
    if listener.get("tls", "none") == "none" and not without_tls:
        yield (
            "auth",
            "would never be offered: passwords need TLS;"
            ' set tls = "starttls" or "implicit" (or auth_without_tls = true)',
        )


def _credentials(document: Document) -> Iterator[Fault]:
    seen: dict[tuple[str, str], int] = {}
    domains = {
        stream["name"]: stream.get("from_domains") or []
        for _, stream in tables(document, "stream")
        if isinstance(stream.get("name"), str)
    }
    for index, credential in tables(document, "credential"):
        keys = [key for key in ("user", "certificate") if isinstance(credential.get(key), str)]
        if len(keys) != 1 and not any(
            key in credential and key not in keys for key in ("user", "certificate")
        ):
            yield Fault(
                ("credential", index),
                'needs either user = "shop" or certificate = "SHA-256 fingerprint or subject"',
            )
        for key in keys:
            same = key, credential[key].replace(":", "").lower()
            if same in seen:
                text = f"{values.shown(credential[key])} stands in credential[{seen[same]}] too"
                yield Fault(("credential", index, key), text)
            seen.setdefault(same, index)
        yield from _from_domains(index, credential, domains)


def _from_domains(
    index: int, credential: Mapping[str, Any], domains: Mapping[Any, Any]
) -> Iterator[Fault]:
    """A stream none of whose domains the credential has could carry no mail of it at all."""
    own, streams = credential.get("from_domains"), credential.get("streams")
    if not isinstance(own, list) or not own or not isinstance(streams, list):
        return
    for at, stream in enumerate(streams):
        theirs = domains.get(stream) if isinstance(stream, str) else None
        if isinstance(theirs, list) and theirs and not set(map(str, own)) & set(map(str, theirs)):
            yield Fault(
                ("credential", index, "streams", at),
                f"{values.shown(stream)} has other from_domains than this credential,"
                " so no mail of it could pass",
            )
