"""The milter intake, driven by OpenDKIM's miltertest with the scripts in miltertest/."""

from pathlib import Path

import pytest

from tests.intake.conftest import Listen
from tests.kit.parts import needs, program
from tests.kit.processes import run
from tests.kit.upstream import FakeUpstream

pytestmark = needs("miltertest")

SCRIPTS = sorted((Path(__file__).parent / "miltertest").glob("*.lua"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(script: Path, listen: Listen, upstream: FakeUpstream) -> None:
    intake = listen({"policy": {"on_mixed": "split"}}, protocol="milter")
    done = run(program("miltertest"), "-D", f"port={intake.port}", "-s", str(script), timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert intake.wait_closed() == ["quit"]
    data = [decided for decided in intake.records.decided if decided.stage == "data"]
    assert len(data) == 4
    assert all(decided.size > 200_000 for decided in data)
    (notice,) = upstream.messages
    assert notice.recipients == ("news@shop.example",)
