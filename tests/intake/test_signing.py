"""Mail that should be signed is signed or does not leave."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smtpproxy.events import Failed, TransactionEnded
from smtpproxy.relay.dkim_signing import Keyring, Signer, SigningKey, read_key
from smtpproxy.settings import DkimSettings
from tests.intake.listening import Intake
from tests.kit.dkim import KeyFile, verdicts
from tests.kit.messages import marketing
from tests.kit.upstream import FakeUpstream


class Breaking:
    """A key that signs until it is broken."""

    def __init__(self, file: KeyFile) -> None:
        self.broken = False
        key = read_key(file.path)

        def sign(digest: bytes) -> bytes:
            if self.broken:
                raise ValueError("key gone")
            return key.sign(digest)

        settings = DkimSettings(file.domain, file.selector, file.path)
        ring = Keyring({settings: SigningKey(key.record, key.bits, sign)})
        self.signer = Signer(ring, ThreadPoolExecutor(1))


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_failing_key_defers_mail_and_sends_nothing_upstream(
    tmp_path: Path, upstream: FakeUpstream, kind: str, mode: str
) -> None:
    file = KeyFile(tmp_path, kind=kind)  # type: ignore[arg-type]
    key = Breaking(file)
    intake = Intake(tmp_path, upstream.address, {"policy": {"mode": mode}})
    intake.signer = key.signer
    with intake, intake.client() as client:
        client.greet()
        client.begin()
        key.broken = True
        assert client.say(marketing(), b".\r\n") == "451 4.3.0 temporary_failure"
        assert "DATA" not in {line.upper() for _, line in upstream.commands}
        key.broken = False
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    (mail,) = upstream.messages
    assert verdicts(mail.data, file) == [True]
    assert [event.part for event in intake.of(Failed)] == ["sign"]
    ended = intake.of(TransactionEnded)[-1]
    assert ended.stages["sign"] > 0
