"""All intakes decide alike: the RCPTs of dialogs, asked by policy delegation."""

import pytest

from tests.intake.conftest import Listen
from tests.intake.test_dialogs import CONFIGS, directive
from tests.intake.test_dialogs_milter import SMTP_ONLY, VERDICTS
from tests.kit.dialog import DIALOGS
from tests.kit.dialog_policy import hold_with_policy
from tests.kit.policy import policy_client


@pytest.mark.parametrize("name", VERDICTS)
def test_policy_delegation_decides_the_same(name: str, listen: Listen) -> None:
    path = DIALOGS / f"{name}.dialog"
    config, listener = CONFIGS[directive(path.read_text(), "config")]
    meaningful = {key: value for key, value in listener.items() if key not in SMTP_ONLY}
    intake = listen(config, **meaningful, protocol="policy")
    with policy_client(intake.port) as peer:
        verdicts = hold_with_policy(path, peer)
    assert verdicts
    assert [verdict for verdict in verdicts if not verdict.agrees] == []
