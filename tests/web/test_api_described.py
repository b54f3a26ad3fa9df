"""The API always answers as its description says; schemathesis makes the requests."""

import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.kit.soak import LONGEST, SOAK, times
from tests.web.serving import Site, serving
from tests.web.test_api_writes import two_brands

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LONGEST)]

_CONFIG = """
[checks]
negative_data_rejection.expected-statuses = [400, 412, 413, 414, 422]
"""


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
async def test_every_answer_is_as_described(tmp_path: Path) -> None:
    """Neither valid nor invalid requests cause a 500 or anything undescribed."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(_CONFIG)
    async with serving(Site, two_brands(tmp_path)) as served:
        asking = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
            f"http://127.0.0.1:{served.port}/v1/openapi.json",
            "--header", "Authorization: Bearer all",
            "--phases", "examples,coverage,fuzzing" if SOAK else "fuzzing",
            "--max-examples", str(times(5, 200)), "--seed", "1", "--generation-deterministic",
            "--exclude-checks", "positive_data_acceptance", "--no-color",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=tmp_path,
        )  # fmt: skip
        told, _ = await asyncio.wait_for(asking.communicate(), LONGEST)
    assert asking.returncode == 0, told.decode()[-6000:]
