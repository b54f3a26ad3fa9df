"""Commands run in this process on a store of their own; no relay runs."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from smtpproxy.cli import main
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

DAY_ONE = "2026-03-01T10:00:00Z"

BATCH = 200
IN_SMALL_BATCHES = (
    sys.executable,
    "-c",
    "from smtpproxy.__main__ import main; from smtpproxy.store.exchange import run;"
    f"run.BATCH_ROWS, run._PAUSE = {BATCH}, 0.3; main()",
)
"""`smtpproxy` whose imports commit after a few rows and then pause: tests can interrupt them."""


class Stored:
    """A configuration, the store it names, and a folder for files."""

    def __init__(self, folder: Path, more: Mapping[str, Any] = {}) -> None:
        self.folder = folder
        self.config_path = folder / "smtpproxy.toml"
        self.config_path.write_text(to_toml(relay_config(folder, "127.0.0.1:25", more)))

    def run(self, *arguments: str, code: int | None = 0) -> Result:
        """Run a command, which must end with `code` unless that is None."""
        result = CliRunner().invoke(main, [*arguments, "--config", str(self.config_path)])
        assert code in (None, result.exit_code), (result.exit_code, result.stdout, result.stderr)
        return result

    def json(self, *arguments: str, code: int | None = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)


def first_line(result: Result) -> str:
    """The line that says what a command did; its effect on people follows."""
    return result.stdout.partition("\n")[0]
