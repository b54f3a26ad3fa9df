"""Private keys for DKIM: from files, checked, and ready to sign."""

import binascii
import os
import stat
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from smtpproxy.mail.dkim import FEWEST_BITS, KeyRecord, KeyType

GOOD_BITS, MOST_BITS = 2048, 4096
"""RFC 8301 section 3.2: of RSA keys. Verifiers need not take more than the last."""

_PADDING, _PREHASHED = PKCS1v15(), Prehashed(SHA256())


class KeyFault(Exception):
    """A file that cannot serve as a key; the text says why and what would be right."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`sign` takes the SHA-256 of what is signed. `bits` are those of RSA; Ed25519 has 256."""

    record: KeyRecord
    bits: int
    sign: Callable[[bytes], bytes]

    @property
    def algorithm(self) -> str:
        return f"{self.record.key_type}-sha256"


def read_key(path: Path) -> SigningKey:
    """Read a key of RSA or Ed25519: PEM without a passphrase, or the base64 of 32 octets.

    Raises KeyFault, also when others may read the file.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(65_536)
    except OSError as error:
        raise KeyFault(f"{path} cannot be read: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise KeyFault(f"{path} may be read by others (mode {mode:04o}): chmod o= {path}")
    try:
        return signing_key(_private_key(text, path))
    except KeyFault as fault:
        raise KeyFault(f"{path} {fault}") from None


def signing_key(key: RSAPrivateKey | Ed25519PrivateKey) -> SigningKey:
    """Raises KeyFault for a key too short to be worth a signature."""
    if isinstance(key, Ed25519PrivateKey):
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return SigningKey(KeyRecord("ed25519", public), 256, key.sign)
    if key.key_size < FEWEST_BITS:
        raise KeyFault(
            f"is an RSA key of {key.key_size} bits, which nobody accepts (RFC 8301 3.2):"
            " smtpproxy dkim keygen makes one of 2048"
        )
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(digest: bytes) -> bytes:
        return key.sign(digest, _PADDING, _PREHASHED)

    return SigningKey(KeyRecord("rsa", public), key.key_size, sign)


def new_key(kind: KeyType, bits: int = GOOD_BITS) -> tuple[bytes, SigningKey]:
    """Make a key; return it in PEM (PKCS #8) too."""
    key: RSAPrivateKey | Ed25519PrivateKey
    if kind == "ed25519":
        key = Ed25519PrivateKey.generate()
    else:
        key = generate_private_key(public_exponent=65_537, key_size=bits)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem, signing_key(key)


def _private_key(text: bytes, path: Path) -> RSAPrivateKey | Ed25519PrivateKey:
    if not text.strip().startswith(b"-----"):
        try:
            return Ed25519PrivateKey.from_private_bytes(b64decode(text, validate=False))
        except (binascii.Error, ValueError):
            raise KeyFault(f"holds no private key: {_RIGHT}") from None
    try:
        key = load_pem_private_key(text, password=None)
    except TypeError:
        raise KeyFault("needs a passphrase: store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFault(f"holds no private key that can be read: {_RIGHT}") from None
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise KeyFault(f"holds a key of another kind: {_RIGHT}")
    return key


_RIGHT = "an RSA or Ed25519 key in PEM, as smtpproxy dkim keygen makes it"
