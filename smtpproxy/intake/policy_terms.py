"""What Postfix's policy requests say in a form of their own."""

import re

from smtpproxy.core.streams import StreamTable
from smtpproxy.settings import Credential
from smtpproxy.wire.policy_delegation import PolicyRequest

_UNQUOTED = re.compile(r"[^\s\"(),:;<>@\[\\\]\x00-\x1f\x7f]+")


def external(path: str) -> str:
    """Return an address as SMTP writes it: Postfix tells it without the quotes."""
    local, at, domain = path.rpartition("@")
    if not at or local.startswith('"') or _UNQUOTED.fullmatch(local):
        return path
    quoted = re.sub(r'(["\\])', r"\\\1", local)
    return f'"{quoted}"@{domain}'


def credential(request: PolicyRequest, streams: StreamTable) -> Credential | None:
    """What the client proved to the MTA, where a `[[credential]]` names it.

    A login counts before a certificate. A certificate is known by its SHA-256 fingerprint
    alone: the MTA tells no whole subject.
    """
    if user := request.get("sasl_username"):
        return streams.of_user(user)
    fingerprint = request.get("ccert_fingerprint").replace(":", "").lower()
    return streams.of_certificate(fingerprint, "") if len(fingerprint) == 64 else None
