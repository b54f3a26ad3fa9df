"""Certificates, and how long they last."""

from datetime import UTC, datetime

from smtpproxy.doctor.finding import Check, Finding, Status
from smtpproxy.settings import ListenerSettings
from smtpproxy.tls import TlsError, TlsFiles, server_context

SOON = 14
"""Days before the end when somebody should look, as `smtpproxy check` has it."""

_RENEW = "renew it, and have what renews it run by itself"


def certificate(listener: ListenerSettings, now: datetime) -> Finding | None:
    """Judge the files of a listener, None where it has no TLS."""
    if listener.tls == "none" or listener.certificate is None or listener.private_key is None:
        return None
    where = f'listener "{listener.name}"'
    try:
        files = TlsFiles(listener.certificate, listener.private_key, listener.client_ca)
        _, expires = server_context(files)
    except TlsError as error:
        return Finding(Check.CERTIFICATE, where, Status.FAIL, str(error), f"mend {error.key}")
    left = days_left(datetime.fromtimestamp(expires, UTC), now)
    return Finding(Check.CERTIFICATE, where, *judge_days(left))


def days_left(expires: datetime | None, now: datetime) -> float | None:
    return None if expires is None else (expires - now).total_seconds() / 86_400


def judge_days(left: float | None) -> tuple[Status, str, str]:
    """Return status, text and what to do of a certificate that lasts so many days."""
    if left is None:
        return Status.UNKNOWN, "when its certificate expires cannot be told", ""
    if left < 0:
        return Status.FAIL, f"its certificate expired {-left:.0f} days ago", _RENEW
    if left < SOON:
        return Status.WARN, f"its certificate expires in {left:.0f} days", _RENEW
    return Status.PASS, f"its certificate lasts {left:.0f} days more", ""
