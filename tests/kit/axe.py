"""axe-core, which finds accessibility faults (WCAG), run in the kit's Chromium.

`python -m tests.kit.axe` fetches it into build/, from a package that contains it.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.kit.chromium import Chromium
from tests.kit.parts import AXE

PACKAGE = "axe-playwright-python==0.1.8"
SHA256 = "84494fec757e4710dc751c8d7a636e457f4532f08f85c86dc9070133fbff53bc"
COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules about colours, the only ones to repeat in dark mode."""
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def faults(browser: Chromium, rules: Sequence[str] = _RULES) -> list[str]:
    """The faults of the open page, one line for each element."""
    if not browser.run("typeof axe == 'object'"):
        browser.run(AXE.read_text("utf-8"))
    options = {"runOnly": rules, "resultTypes": ["violations", "incomplete"]}
    found: dict[str, Any] = browser.run(f"axe.run(document, {json.dumps(options)})")
    least = 10 if rules is _RULES else 0
    assert len(found["passes"]) > least, "axe checked hardly anything"
    return [
        f"{rule['id']}: {rule['help']}: {' '.join(map(str, node['target']))}"
        for rule in (*found["violations"], *found["incomplete"])
        for node in rule["nodes"]
    ]


def fetch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*pip, PACKAGE], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        script = zipfile.ZipFile(wheel).read("axe_playwright_python/axe.min.js")
    if sha256(script).hexdigest() != SHA256:
        raise SystemExit(f"{PACKAGE}: not the axe-core that was expected")
    AXE.parent.mkdir(parents=True, exist_ok=True)
    AXE.write_bytes(script)


if __name__ == "__main__":
    fetch()
