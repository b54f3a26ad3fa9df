"""Secrets and signatures of webhooks, as Standard Webhooks has them (standardwebhooks.com)."""

import base64
import binascii
import stat
from hmac import digest
from pathlib import Path

from smtpproxy.disk import is_dir
from smtpproxy.settings import WebhookSettings
from smtpproxy.tls import trusting

PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64  # octets, by the specification
_RIGHT = (
    "one secret per line, whsec_ and the base64 of 24 to 64 random octets; make one with:"
    ' echo "whsec_$(openssl rand -base64 32)"'
)


class SecretFault(Exception):
    """A webhook's file cannot be used; the text names it and says how to fix it."""

    exit_code = 2

    def __init__(self, text: str, key: str = "secret_file") -> None:
        super().__init__(text)
        self.key = key  # the setting that names the file


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """Read the secrets of a webhook: one, or two while one replaces the other.

    Raises:
        SecretFault: it is missing, others can read it, or it holds no secret.
    """
    try:
        if is_dir(path):
            raise SecretFault(f"{path}: a folder, not the file of the secret")
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise SecretFault(
                f"{path}: mode {mode:04o} lets others read the secret; make it 0600:"
                f" chmod 600 {path}"
            )
        text = path.read_text("ascii", errors="replace")
    except OSError as error:
        raise SecretFault(f"{path}: cannot be read ({error.strerror})") from error
    lines = [line.strip() for line in text.splitlines()]
    secrets = [_secret(path, line) for line in lines if line and not line.startswith("#")]
    if not secrets:
        raise SecretFault(f"{path}: contains no secret; expected {_RIGHT}")
    return tuple(secrets)


def _secret(path: Path, line: str) -> bytes:
    try:
        secret = base64.b64decode(line.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not line.startswith(PREFIX) or not _SHORTEST <= len(secret) <= _LONGEST:
        raise SecretFault(f"{path}: has a line that is not a secret; expected {_RIGHT}")
    return secret


def check_files(webhook: WebhookSettings) -> None:
    """Raises SecretFault when a file named by the webhook cannot be used."""
    read_secrets(webhook.secret_file)
    if webhook.ca_file is not None:
        try:
            trusting(webhook.ca_file)
        except OSError as error:  # of which ssl.SSLError is one
            reason = error.strerror or str(error)
            raise SecretFault(
                f"{webhook.ca_file}: no certificates can be read from it ({reason}); expected"
                " those of the authority that issued the receiver's certificate, as PEM",
                "ca_file",
            ) from error


def signature(secrets: tuple[bytes, ...], id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: one signature for each secret."""
    signed = f"{id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(digest(secret, signed, "sha256")).decode() for secret in secrets
    )
