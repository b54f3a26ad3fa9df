"""All intakes decide alike: dialogs spoken in LMTP, and the last reply of PRDR."""

from pathlib import Path

import pytest

from smtpproxy.intake.replies import FOR_SOME, for_all
from smtpproxy.mail.reply import Reply
from tests.intake.conftest import Listen
from tests.intake.test_dialogs import OURS, configuration, directive
from tests.kit.dialog import read_dialog, run_dialog
from tests.kit.dialog_lmtp import in_lmtp
from tests.kit.upstream import FakeUpstream

OF_SMTP_ALONE = {"command_order", "prdr"}  # HELO, and what LMTP always has


@pytest.mark.parametrize(
    "path",
    [path for path in OURS if path.stem not in {*OF_SMTP_ALONE, "lmtp"}],
    ids=lambda p: p.stem,
)
def test_lmtp_decides_the_same(
    path: Path, listen: Listen, upstream: FakeUpstream, tmp_path: Path
) -> None:
    text = path.read_text()
    config, listener = configuration(text, tmp_path)
    intake = listen(config, **listener, protocol="lmtp")
    dialog = tmp_path / path.name
    dialog.write_text(in_lmtp(read_dialog(path, {"long": "x" * 5000})))
    run_dialog(dialog, intake.port)
    assert len(upstream.messages) == int(directive(text, "upstream"))
    intake.wait_closed()


QUEUED = Reply.of(250, "2.0.0", "queued as 7")
REFUSED = Reply.of(550, "5.7.1", "refused: no_record")
OTHERWISE = Reply.of(552, "5.3.4", "too large")
DEFERRED = Reply.of(450, "4.7.0", "deferred: stream_paused")


@pytest.mark.parametrize(
    ("answers", "last"),
    [
        ([QUEUED, QUEUED], QUEUED),
        ([REFUSED], REFUSED),
        ([REFUSED, DEFERRED, QUEUED], FOR_SOME),
        ([OTHERWISE, REFUSED], REFUSED),
        ([REFUSED, DEFERRED], DEFERRED),
    ],
)
def test_the_last_prdr_reply_is_permanent_only_if_all_refusals_are(
    answers: list[Reply], last: Reply
) -> None:
    assert for_all(answers) == last
