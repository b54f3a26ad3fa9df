"""DKIM keys in files, their DNS records, and dkimpy's verdict on signatures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dkim

from smtpproxy.mail.dkim import KeyRecord, KeyType
from smtpproxy.relay.dkim_signing import new_key


class KeyFile:
    """A new key in `folder`, with its configuration and DNS record."""

    def __init__(
        self,
        folder: Path,
        selector: str = "s1",
        domain: str = "shop.example",
        kind: KeyType = "rsa",
        bits: int = 2048,
    ) -> None:
        self.selector, self.domain = selector, domain
        self.path = folder / f"{selector}.{domain}.pem"
        self.pem, key = new_key(kind, bits)
        self.record: KeyRecord = key.record
        self.path.write_bytes(self.pem)
        self.path.chmod(0o600)

    @property
    def name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"

    def table(self, **more: Any) -> dict[str, Any]:
        """Its `[[dkim]]` table."""
        return {
            "domain": self.domain,
            "selector": self.selector,
            "key": str(self.path),
            **more,
        }

    @property
    def dns(self) -> str:
        """Its record for `tests.kit.dns.NameServer`."""
        text = str(self.record)
        strings = " ".join(f'"{text[i : i + 250]}"' for i in range(0, len(text), 250))
        return f"{self.name}. TXT {strings}"


def signed(
    message: bytes,
    key: KeyFile,
    names: list[str],
    canonicalize: tuple[bytes, bytes] = (b"relaxed", b"relaxed"),
) -> bytes:
    """Sign as an app does, with dkimpy and RSA."""
    field: bytes = dkim.sign(
        message,
        key.selector.encode(),
        key.domain.encode(),
        key.pem,
        canonicalize=canonicalize,
        include_headers=[name.encode() for name in names],
    )
    return field + message


def verdicts(message: bytes, *keys: KeyFile) -> list[bool]:
    """dkimpy's verdict on each signature of the message, from the top."""
    records: Mapping[str, str] = {key.name: str(key.record) for key in keys}
    count = message.lower().count(b"\r\ndkim-signature:") + message.lower().startswith(
        b"dkim-signature:"
    )

    def texts(name: bytes, timeout: int = 5) -> bytes:
        return records.get(name.decode().rstrip("."), "").encode()

    return [dkim.DKIM(message).verify(idx=index, dnsfunc=texts) for index in range(count)]
