"""The dashboard as Grafana reads it."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / "config" / "grafana" / "smtpproxy.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = [
    (panel["title"], target["expr"], target["legendFormat"])
    for panel in GRAPHS
    for target in panel["targets"]
]
VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
