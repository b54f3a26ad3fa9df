"""Certificates for tests: a private root, with intermediates, servers and clients under it."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct


class Pair(Struct, frozen=True):
    """A certificate and its key, in files."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        found = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return found.fingerprint(hashes.SHA256()).hex()


_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate in `folder`/ca.pem that signs others: a root, or an intermediate `under` it.

    `bare` ones lack what RFC 5280 asks for and OpenSSL does not: the identifiers of keys, and what
    the root's key is for.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "ca",
        *,
        bare: bool = False,
        under: "Authority | None" = None,
        days: float = 400,
    ) -> None:
        self.folder = folder
        self._bare = bare
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Test {name}")])
        now, issuer = datetime.now(UTC), under or self
        root = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(issuer._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        )
        if not bare:
            root = root.add_extension(_SIGNS, critical=True)
        identified = issuer._identified(root, self._key)
        self._certificate = identified.sign(issuer._key, hashes.SHA256())
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, *, since: float = -300, days: float = 90, file: str | None = None
    ) -> Pair:
        """Write a pair for `name`, also valid for localhost and 127.0.0.1, from `since` days from
        now on until `days` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        names = [x509.DNSName(name), x509.DNSName("localhost")]
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        unsigned = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=since))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([*names, loopback]), critical=False)
        )
        certificate = self._identified(unsigned, key).sign(self._key, hashes.SHA256())
        pair = Pair(self.folder / f"{file or name}.pem", self.folder / f"{file or name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair

    def _identified(
        self, certificate: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        if self._bare:
            return certificate
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return certificate.add_extension(own, critical=False).add_extension(issuer, critical=False)

    def client_context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """A context that trusts only this root, and presents `pair`."""
        context = ssl.create_default_context(cafile=str(self.path))
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context
