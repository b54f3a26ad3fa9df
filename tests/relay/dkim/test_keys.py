"""Key files that can and cannot be used."""

import base64
import subprocess
from pathlib import Path

import pytest

from smtpproxy.relay.dkim_signing import KeyFault, read_key
from tests.kit.dkim import KeyFile


@pytest.mark.parametrize(("kind", "bits"), [("rsa", 2048), ("ed25519", 256)])
def test_a_new_key_is_read_back(tmp_path: Path, kind: str, bits: int) -> None:
    made = KeyFile(tmp_path, kind=kind)  # type: ignore[arg-type]
    key = read_key(made.path)
    assert key.record == made.record
    assert key.bits == bits
    assert key.algorithm == f"{kind}-sha256"


@pytest.mark.parametrize("command", ["genrsa -traditional 2048", "genpkey -algorithm ed25519"])
def test_keys_made_by_openssl_work(tmp_path: Path, command: str) -> None:
    path = tmp_path / "key.pem"
    made = subprocess.run(["openssl", *command.split()], capture_output=True, check=True)
    path.write_bytes(made.stdout)
    path.chmod(0o640)
    assert len(read_key(path).sign(b"d" * 32)) in (64, 256)


def test_an_ed25519_key_in_dkimpys_format_works(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(base64.b64encode(b"s" * 32) + b"\n")
    path.chmod(0o600)
    assert read_key(path).record.key_type == "ed25519"


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    made = KeyFile(tmp_path, kind="ed25519")
    made.path.chmod(0o644)
    with pytest.raises(KeyFault, match=r"may be read by others \(mode 0644\): chmod o= "):
        read_key(made.path)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "contains no private key"),
        (b"hello", "contains no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot|readable"),
    ],
)
def test_a_file_that_is_not_a_key_is_reported(tmp_path: Path, content: bytes, wrong: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyFault, match=wrong):
        read_key(path)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("genrsa 512", "512 bits"),
        ("genrsa -aes128 -passout pass:x 2048", "passphrase"),
        ("ecparam -name prime256v1 -genkey -noout", "another kind"),
    ],
)
def test_unusable_keys_are_reported(tmp_path: Path, command: str, wrong: str) -> None:
    path = tmp_path / "key.pem"
    made = subprocess.run(["openssl", *command.split()], capture_output=True, check=True)
    path.write_bytes(made.stdout)
    path.chmod(0o600)
    with pytest.raises(KeyFault, match=wrong) as caught:
        read_key(path)
    assert str(path) in str(caught.value)


def test_a_missing_key_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyFault, match="cannot be read: No such file"):
        read_key(tmp_path / "none.pem")
