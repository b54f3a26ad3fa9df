"""TLS from files: checks certificates, reloads them, and makes the contexts."""

import contextlib
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from smtpproxy.disk import read_fault

if TYPE_CHECKING:
    from cryptography import x509

_LOOK_EVERY = 1.0
"""Seconds between two checks whether files have changed."""


class TlsError(Exception):
    """The files cannot be used for TLS. `key` is the setting at fault."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class TlsFiles(Struct, frozen=True):
    """`client_ca` verifies client certificates, if a client presents one."""

    certificate: Path
    private_key: Path
    client_ca: Path | None = None


class Validity(Struct, frozen=True):
    """When a certificate can be verified, in Unix seconds."""

    begins: float
    ends: float


def server_context(files: TlsFiles) -> tuple[ssl.SSLContext, Validity]:
    """Return the context for a server, and the validity of its certificate.

    TLS 1.2 and 1.3, ciphers as Python's ssl chooses them. Raises TlsError.
    """
    certificates = _certificates("certificate", files.certificate)
    _readable("private_key", files.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.load_cert_chain(files.certificate, files.private_key, password=_no_passphrase)
    except _Passphrase:
        raise TlsError(
            "private_key", f"{files.private_key} needs a passphrase: store it without one"
        ) from None
    except ssl.SSLError as error:
        raise _pair_error(files, error) from None
    if files.client_ca is not None:
        _certificates("client_ca", files.client_ca)
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context, _validity(certificates)


def _validity(certificates: "list[x509.Certificate]") -> Validity:
    """Return when a certificate and all its intermediates are valid: clients check each of them,
    but not a root, of which they have their own copy."""
    chain = [certificates[0], *(one for one in certificates[1:] if one.issuer != one.subject)]
    begins = max(one.not_valid_before_utc.timestamp() for one in chain)
    return Validity(begins, min(one.not_valid_after_utc.timestamp() for one in chain))


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return the context for a client that checks certificate and name. Raises TlsError."""
    if ca_file is not None:
        _certificates("ca_file", ca_file)
    return trusting(ca_file)


def trusted_until(ca_file: Path) -> float:
    """Return when the last of a file's authorities expires, in Unix seconds. Raises TlsError."""
    return max(one.not_valid_after_utc.timestamp() for one in _certificates("ca_file", ca_file))


def trusting(ca_file: Path | None = None) -> ssl.SSLContext:
    """Return the context for a client that trusts these authorities. Raises OSError.

    None: the system's. Python 3.13 and newer would ask for RFC 5280 to the letter, which many a
    company's own authority does not meet and no MTA asks for.
    """
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@dataclass(eq=False)
class ServerTls:
    """The context of a listener. When its files change, new connections use the new ones.

    If the new files cannot be used, the old ones stay. `changed` is called in both cases, with the
    error or None. Raises TlsError if the first files cannot be used.
    """

    files: TlsFiles
    clock: Callable[[], float]
    changed: Callable[[TlsError | None], None] = lambda error: None

    def __post_init__(self) -> None:
        self._stamp = self._now()
        self._context, self._validity = server_context(self.files)
        self._usable = True
        self._looked = self.clock()

    def context(self) -> ssl.SSLContext:
        self._look()
        return self._context

    def expires(self) -> float:
        """When the certificate in use, or one of its intermediates, expires, in Unix seconds."""
        self._look()
        return self._validity.ends

    def usable(self) -> bool:
        """Whether the files can be used as they are now; otherwise the former ones stay in use."""
        self._look()
        return self._usable

    def _look(self) -> None:
        now = self.clock()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        stamp = self._now()
        if stamp == self._stamp:
            return
        try:
            self._context, self._validity = server_context(self.files)
        except TlsError as error:
            self._usable = False
            self.changed(error)
        else:
            self._usable = True
            self.changed(None)
        self._stamp = stamp  # broken files are reported once, until they change again

    def _now(self) -> tuple[tuple[int, int, int] | None, ...]:
        files = self.files
        return tuple(map(file_stamp, (files.certificate, files.private_key, files.client_ca)))


class Peer(Struct, frozen=True):
    """A client's verified certificate: SHA-256 in hexadecimal, and its subject (RFC 4514)."""

    fingerprint: str
    subject: str


def peer(certificate: bytes) -> Peer | None:
    """Return the owner of a DER certificate; None if it cannot be read."""
    from cryptography import x509  # 16 MB, loaded only for TLS

    with contextlib.suppress(ValueError):
        subject = x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
        return Peer(hashlib.sha256(certificate).hexdigest(), subject)
    return None


class _Passphrase(Exception):
    pass


def _no_passphrase() -> str:
    """Refuse to give a passphrase to OpenSSL, which would otherwise ask on the terminal."""
    raise _Passphrase


def _certificates(key: str, path: Path) -> "list[x509.Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(_readable(key, path))
    except ValueError:
        raise TlsError(key, f"{path} contains no readable certificate (PEM)") from None


def _readable(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(key, read_fault(path, error)) from None


_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL calls a key that is not the certificate's, of the same type and of another."""


def _pair_error(files: TlsFiles, error: ssl.SSLError) -> TlsError:
    if error.reason in _OTHER_KEY:
        return TlsError("private_key", f"{files.private_key} is not the key of {files.certificate}")
    if error.reason and ("TOO_SMALL" in error.reason or "TOO_WEAK" in error.reason):
        return TlsError("certificate", f"{files.certificate}: too weak: {error.reason}")
    return TlsError("private_key", f"{files.private_key} contains no readable key (PEM)")


def file_stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Return a value that changes with the file; None if there is no file."""
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
