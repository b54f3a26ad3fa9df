"""All intakes decide alike: dialogs that a milter can express."""

from pathlib import Path

import pytest

from tests.intake.conftest import Listen
from tests.intake.test_dialogs import CONFIGS, directive
from tests.kit.dialog import DIALOGS
from tests.kit.dialog_milter import hold_with_milter
from tests.kit.mta import mta

VERDICTS = {
    "all_at_once": 2,
    "bdat": 6,
    "good_path": 2,
    "nul_in_content": 2,
    "pipelined": 5,
    "refused_message": 4,
    "refused_recipients": 5,
    "rset": 4,
    "smtputf8": 2,
    "too_many_recipients": 4,
}
"""The number of milter answers in each dialog: none may be lost."""

SMTP_ONLY = {"max_errors", "early_commands"}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_milter_decides_the_same(name: str, listen: Listen) -> None:
    path: Path = DIALOGS / f"{name}.dialog"
    config, listener = CONFIGS[directive(path.read_text(), "config")]
    meaningful = {key: value for key, value in listener.items() if key not in SMTP_ONLY}
    intake = listen(config, **meaningful, protocol="milter")
    with mta(intake.port) as peer:
        verdicts = hold_with_milter(path, peer)
    assert [verdict for verdict in verdicts if not verdict.agrees] == []
    assert len(verdicts) == VERDICTS[name]
