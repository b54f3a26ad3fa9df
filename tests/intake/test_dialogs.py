"""The dialogs of tests/dialogs, sent whole, octet by octet and in odd pieces.

In a dialog, `# upstream: N` says how many messages the upstream gets, `# config: NAME` which
of CONFIGS the listener has, and `# only: whole` that cutting the dialog would change it.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.auth.users import User, empty, write
from tests.intake.conftest import Listen
from tests.kit.certificates import Authority
from tests.kit.dialog import DIALOGS, run_dialog
from tests.kit.upstream import FakeUpstream

CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": ({}, {}),
    "certain": ({}, {"streams": ["offers"], "default_stream": "offers"}),
    "normalize": ({"server": {"bare_newline": "normalize"}}, {}),
    "permit": ({}, {"early_commands": "permit"}),
    "lmtp": ({}, {"protocol": "lmtp"}),
    "small": ({"server": {"data_size_limit": "100"}}, {"max_recipients": 2, "max_errors": 3}),
    "auth": ({}, {"auth": "required", "auth_without_tls": True}),
    "tls": ({}, {"auth": "required", "tls": "starttls", "require_tls": True}),
}
OURS = sorted(set(DIALOGS.glob("*.dialog")) - {DIALOGS / "fake_upstream.dialog"})


def directive(text: str, name: str) -> str:
    found = re.search(rf"^# {name}: (\w+)$", text, re.MULTILINE)
    return found[1] if found else ""


def configuration(text: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration of a dialog's listener; the files it needs are in `folder`."""
    config, listener = CONFIGS[directive(text, "config")]
    if "auth" in listener:
        users = empty()
        known = {"shop": User.of("shop", "correct horse")}
        write(folder / "users", type(users)(known, users.key))
        config = {**config, "auth": {"users": str(folder / "users"), "failure_delay": "10ms"}}
    if "tls" in listener:
        pair = Authority(folder).issue("relay.example")
        files = {"certificate": str(pair.certificate), "private_key": str(pair.key)}
        listener = {**listener, **files}
    return config, listener


HELD = [
    pytest.param(path, piece, id=f"{path.stem}-{piece or 'whole'}")
    for path in OURS
    for piece in (None, 1, 7)
    if piece is None or directive(path.read_text(), "only") != "whole"
]


@pytest.mark.parametrize(("path", "piece"), HELD)
def test_dialog(
    path: Path, piece: int | None, listen: Listen, upstream: FakeUpstream, tmp_path: Path
) -> None:
    text = path.read_text()
    config, listener = configuration(text, tmp_path)
    intake = listen(config, **listener)
    run_dialog(path, intake.port, piece=piece, variables={"long": "x" * 5000})
    assert len(upstream.messages) == int(directive(text, "upstream"))
    for message in upstream.messages:
        assert b"\n" not in message.data.replace(b"\r\n", b"")
        assert b"\r" not in message.data.replace(b"\r\n", b"")
    intake.wait_closed()
