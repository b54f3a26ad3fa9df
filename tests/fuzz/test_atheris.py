"""The invariants of `test_headers` and `test_mime`, fuzzed by coverage (atheris).

For longer runs: `python -m tests.fuzz.coverage headers` or `mime`, with libFuzzer's options.
"""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("subject", ["headers", "mime"])
def test_a_short_run_finds_nothing(subject: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    command = [sys.executable, "-m", "tests.fuzz.coverage", subject, "-runs=3000", "-max_len=2000"]
    ran = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
