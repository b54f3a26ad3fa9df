"""Signatures follow the Standard Webhooks specification; bad secret files are reported."""

import base64
from pathlib import Path
from typing import get_args

import pytest

from smtpproxy.sinks.rows import WEBHOOK_OUTCOMES
from smtpproxy.webhooks import SecretFault, read_secrets, signature
from smtpproxy.webhooks.delivery import Kind


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_example_of_the_specification(tmp_path: Path) -> None:
    path = written(tmp_path / "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    body = b'{"test": 2432232314}'
    signed = signature(read_secrets(path), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_two_secrets_give_two_signatures_while_one_replaces_the_other(tmp_path: Path) -> None:
    lines = [f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2)]
    secrets = read_secrets(written(tmp_path / "secret", "# new\n" + "\n\n".join(lines)))
    first, second = signature(secrets, "msg_1", 1, b"{}").split(" ")
    assert first == signature(secrets[:1], "msg_1", 1, b"{}")
    assert second == signature(secrets[1:], "msg_1", 1, b"{}")
    assert first != second


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_short",
        "whsec_!!!!",
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_!MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_\xe9",
    ],
)
def test_an_invalid_secret_is_reported_without_showing_it(tmp_path: Path, text: str) -> None:
    path = written(tmp_path / "secret", text)
    with pytest.raises(SecretFault) as caught:
        read_secrets(path)
    assert str(path) in str(caught.value)
    assert "openssl rand" in str(caught.value)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("octets", [24, 64])
def test_a_secret_has_24_to_64_octets(tmp_path: Path, octets: int) -> None:
    secret = b"x" * octets
    path = written(tmp_path / "secret", f"whsec_{base64.b64encode(secret).decode()}")
    assert read_secrets(path) == (secret,)


def test_a_secret_that_others_can_read_is_a_fault(tmp_path: Path) -> None:
    path = written(tmp_path / "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 0o640)
    with pytest.raises(SecretFault, match=r"mode 0640 .* chmod 600"):
        read_secrets(path)
    with pytest.raises(SecretFault, match="No such file"):
        read_secrets(tmp_path / "none")
    with pytest.raises(SecretFault, match="a folder, not the file"):
        read_secrets(tmp_path)


def test_every_outcome_is_a_row_of_the_metric() -> None:
    assert get_args(Kind) == WEBHOOK_OUTCOMES
