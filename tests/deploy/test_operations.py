"""The instructions in docs/operations.md work."""

import os
import re
import shlex
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner

from smtpproxy.cli import main
from tests.kit.messages import marketing
from tests.kit.processes import run
from tests.kit.relay import COMMAND, RelayProcess
from tests.kit.store import address, ndjson, suppressions_csv
from tests.kit.upstream import FakeUpstream

REPOSITORY = Path(__file__).parents[2]
TEXT = (REPOSITORY / "docs" / "operations.md").read_text()


def anchor(heading: str) -> str:
    """The anchor of a heading, as common Markdown renderers make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_link_leads_somewhere() -> None:
    headings = {anchor(h) for h in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert {link[1:] for link in links if link.startswith("#")} <= headings
    files = {link.partition("#")[0] for link in links if not link.startswith("#")}
    assert [name for name in files if not (REPOSITORY / "docs" / name).exists()] == []


def test_the_files_it_names_exist() -> None:
    named = re.findall(r"(?<![\w/])(?:config|systemd)/[\w./-]+\w", TEXT)
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_its_commands_exist() -> None:
    used = set(re.findall(r"smtpproxy ((?:suppress|contact|audit) \w+|check)\b", TEXT))
    assert used
    for command in used:
        done = CliRunner().invoke(main, [*command.split(), "--help"])
        assert done.exit_code == 0, command


def test_the_backup_can_be_restored(
    relay: Callable[..., RelayProcess], upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Follow the document on a machine with nothing but the configuration."""
    backup, *_ = re.findall(r"```sh\n(smtpproxy backup .+?)```", TEXT, re.DOTALL)
    [restore] = re.findall(r"```sh\n(smtpproxy restore .+?\n)", TEXT)
    [whole] = re.findall(r"`(--journals-whole --by\s.+?)`", TEXT, re.DOTALL)
    running = relay(upstream.address)
    state = Path(running.config["server"]["state_dir"])
    now = datetime.now(UTC)
    running.fill(ndjson(now), suppressions_csv(now))
    refused = running.send(marketing(), address("complained"))
    assert "suppressed_complaint" in refused[1]
    decision = refused[1].rpartition("id=")[2]

    copy, collected = tmp_path / "backup", tmp_path / "collected.log"
    copy.mkdir()

    def follow(script: str, code: int = 0) -> str:
        places = {"/var/lib/smtpproxy": state, "/backup": copy, "COLLECTED.log": collected}
        for path, real in places.items():
            script = script.replace(path, str(real))
        command = " ".join(map(shlex.quote, COMMAND))
        script = re.sub(r"^smtpproxy", command, script, flags=re.MULTILINE)
        environment = {**os.environ, "SMTPPROXY_CONFIG": str(running.config_path)}
        done = run("sh", "-e", "-c", script, env=environment)
        assert (done.returncode, done.stderr) == (code, ""), done
        return done.stdout

    command, _, ship = backup.partition("\n")
    follow(command.replace("$(date +%F)", "2026-03-01"))
    running.must("suppress", "add", address("consent"), "--origin", "unsubscribe")
    follow(ship)

    running.kill()
    shutil.rmtree(state)
    collected.write_text(running.output)
    assert "any changes after change" in follow(restore, 1)  # the backup may be older
    words = restore.replace("/backup/2026-03-01 ", "").strip() + " " + whole.replace("\n", " ")
    assert "marketing resumes" in follow(words)
    running.start()
    assert "suppressed_complaint" in running.send(marketing(), address("complained"))[1]
    assert "suppressed_unsubscribe" in running.send(marketing(), address("consent"))[1]
    assert "suppressed_complaint" in running.must("audit", "show", decision)
    assert "nothing is wrong" in running.must("audit", "verify")
