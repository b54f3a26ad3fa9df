"""`smtpproxy check` opens the files named in the settings."""

import errno
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.auth.users import User, Users, empty, write
from smtpproxy.config import ConfigError, parse
from smtpproxy.config.start_checks import check_named_files
from smtpproxy.disk import read_fault
from tests.kit.certificates import Authority
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def found(root: Path, config: dict[str, Any] | None = None, **listener: Any) -> list[str]:
    """The warnings or the faults."""
    document = relay_config(root, "127.0.0.1:10025", config)
    document["listener"][0].update(listener)
    settings = parse(to_toml(document), "x.toml")
    try:
        return check_named_files(settings, "x.toml")
    except ConfigError as error:
        return list(error.faults)


def tls(certificate: Path, key: Path) -> dict[str, str]:
    return {"tls": "starttls", "certificate": str(certificate), "private_key": str(key)}


def test_a_good_key_pair(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("relay.example", days=30)
    assert found(tmp_path, **tls(pair.certificate, pair.key)) == []


def test_an_expiring_or_expired_certificate(tmp_path: Path, authority: Authority) -> None:
    soon = authority.issue("soon.example", days=13)
    (warning,) = found(tmp_path, **tls(soon.certificate, soon.key))
    assert warning.startswith(f'listener "apps".certificate: {soon.certificate} expires on 20')
    gone = authority.issue("gone.example", days=-1)
    (warning,) = found(tmp_path, **tls(gone.certificate, gone.key))
    assert warning.startswith(f'listener "apps".certificate: {gone.certificate} expired on 20')


def test_a_certificate_that_is_not_valid_yet(tmp_path: Path, authority: Authority) -> None:
    early = authority.issue("early.example", since=2)
    (warning,) = found(tmp_path, **tls(early.certificate, early.key))
    where = f'listener "apps".certificate: {early.certificate} is not valid before 20'
    assert warning.startswith(where)


@pytest.mark.parametrize(("days", "said"), [(5, "expires"), (-1, "expired")])
def test_an_intermediate_that_expires_before_its_certificate(
    tmp_path: Path, authority: Authority, days: float, said: str
) -> None:
    between = Authority(tmp_path, "between", under=authority, days=days)
    pair = between.issue("relay.example", days=90)
    with pair.certificate.open("ab") as chain:
        chain.write(between.path.read_bytes())
    (warning,) = found(tmp_path, **tls(pair.certificate, pair.key))
    assert warning.startswith(f'listener "apps".certificate: {pair.certificate} {said} on 20')


def test_an_expired_root_in_the_file_is_no_matter_as_clients_have_their_own(
    tmp_path: Path, authority: Authority
) -> None:
    old = Authority(tmp_path, "old", days=-1)
    pair = authority.issue("relay.example", days=90)
    with pair.certificate.open("ab") as chain:
        chain.write(old.path.read_bytes())
    assert found(tmp_path, **tls(pair.certificate, pair.key)) == []


@pytest.mark.parametrize(("days", "said"), [(5, "expires"), (-1, "expired")])
def test_authorities_that_expire(
    tmp_path: Path, authority: Authority, days: float, said: str
) -> None:
    old = Authority(tmp_path, "old", days=days)
    pair = authority.issue("relay.example")
    hook = {"name": "crm", "url": "https://crm.example/", "ca_file": str(old.path)}
    hook["secret_file"] = str(tmp_path / "secret")
    (tmp_path / "secret").write_text("whsec_" + "A" * 43 + "=\n")
    (tmp_path / "secret").chmod(0o600)
    upstream = {"address": "mta.example:25", "tls": "starttls", "ca_file": str(old.path)}

    def warned() -> list[str]:
        config = {"upstream": upstream, "webhook": [hook]}
        return found(tmp_path, config, client_ca=str(old.path), **tls(pair.certificate, pair.key))

    for where in ('listener "apps".client_ca', "upstream.ca_file", 'webhook "crm".ca_file'):
        assert [f for f in warned() if f.startswith(f"{where}: {old.path} {said} on 20")], warned()
    with old.path.open("ab") as roots:
        roots.write(authority.path.read_bytes())
    assert not [found for found in warned() if "expire" in found], "the renewed one is trusted too"


def test_unusable_files_are_faults(tmp_path: Path, authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pair, other = authority.issue("relay.example"), authority.issue("other.example")
    missing, rubbish = tmp_path / "missing", tmp_path / "rubbish"
    rubbish.write_text("rubbish")
    where = 'x.toml: listener "apps".'
    assert found(tmp_path, **tls(missing, pair.key)) == [
        f"{where}certificate: {missing} cannot be read: No such file or directory"
    ]
    assert found(tmp_path, **tls(rubbish, pair.key)) == [
        f"{where}certificate: {rubbish} contains no readable certificate (PEM)"
    ]
    assert found(tmp_path, **tls(pair.certificate, rubbish)) == [
        f"{where}private_key: {rubbish} contains no readable key (PEM)"
    ]
    assert found(tmp_path, **tls(pair.certificate, other.key)) == [
        f"{where}private_key: {other.key} is not the key of {pair.certificate}"
    ]
    rsa_key = tmp_path / "rsa.key"
    rsa_key.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    assert found(tmp_path, **tls(pair.certificate, rsa_key)) == [
        f"{where}private_key: {rsa_key} is not the key of {pair.certificate}"
    ]
    assert found(tmp_path, client_ca=str(rubbish), **tls(pair.certificate, pair.key)) == [
        f"{where}client_ca: {rubbish} contains no readable certificate (PEM)"
    ]


def test_an_encrypted_key_does_not_prompt_for_its_passphrase(
    tmp_path: Path, authority: Authority
) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = authority.issue("relay.example")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    (fault,) = found(tmp_path, **tls(pair.certificate, pair.key))
    assert fault.endswith(f"{pair.key} needs a passphrase: store it without one")


def test_an_unreadable_file_is_reported_with_the_required_owner() -> None:
    path = Path("/etc/smtpproxy/relay.key")
    said = read_fault(path, PermissionError(errno.EACCES, "Permission denied"))
    assert said == (
        f"{path} cannot be read: Permission denied; it has to belong to the user that smtpproxy"
        " runs as"
    )


def test_the_users_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "users"
    config = {"auth": {"users": str(path)}, "credential": [{"user": "nobody"}]}
    keys = {"auth": "required", "auth_without_tls": True}
    assert found(tmp_path, config, **keys) == [
        f"x.toml: auth.users: {path} does not exist yet: smtpproxy user add NAME creates it"
    ]
    write(path, empty())
    assert found(tmp_path, config, **keys) == [
        f"auth.users: {path} has no users yet: smtpproxy user add",
        f'credential "nobody": no such user in {path}',
    ]
    write(path, Users({"nobody": User.of("nobody", "x")}, empty().key))
    assert found(tmp_path, config, **keys) == []
    path.chmod(0o644)
    (fault,) = found(tmp_path, config, **keys)
    assert "is open to others" in fault


def test_files_of_disabled_features_are_not_opened(tmp_path: Path) -> None:
    assert found(tmp_path, {"auth": {"users": str(tmp_path / "missing")}}) == []
