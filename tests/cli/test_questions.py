"""Commands ask before what cannot be undone, and only at a terminal."""

import os
import pty
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.mail.unsubscribe_token import TokenError, Unsubscription
from smtpproxy.policy.model import Origin
from smtpproxy.store.link_keys import LINK_KEY_FILE, link_ring
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.sql.store import Store
from tests.cli.stored import Stored
from tests.cli.test_help import COMMANDS_OF_HELP
from tests.cli.test_webhook import TABLE, failing, within
from tests.kit import postgres
from tests.kit.parts import needs
from tests.kit.relay import COMMAND, REPOSITORY

ANNA, OLD, NEW = "anna@people.example", "old@people.example", "new@people.example"
AGREED = ("--purpose", "offers", "--method", "signed_form", "--source", "direct")
QUESTIONS = {
    f"contact erase {ANNA}": (
        f"{ANNA} is a contact with 0 purchases and 1 act of consent: erase the person, in the audit"
        " log too, for good? [y/N]:"
    ),
    "contact erase gone@people.example": "gone@people.example is no contact: erase the person,",
    f"contact rectify {OLD} --new-address {NEW} --reason told": (
        f"{NEW} is a contact with 0 purchases and 1 act of consent: a merged history cannot be"
        " separated again. Merge the two? [y/N]:"
    ),
    "unsubscribe retire 1": "Key 1 was made on 20",
    "webhook drop crm --all": "crm will never be told of 2 changes. Drop them for good? [y/N]:",
    "webhook drop crm --letter 1": "crm will never be told of 1 change. Drop them for good? [y/N]:",
    "suppress move purpose:former marketing": (
        "1 suppression will be moved from purpose:former to marketing, and can then no longer be"
        " told from those already there. Move them? [y/N]:"
    ),
    "import undo {import}": ": it would be 1 contact removed, 0 put back, 0 kept that others",
    "purge": "contacts 3 years would go 1 oldest 2019-05-04",
    "suppress rekey --finish": "Exports made under the old key can then no longer be imported",
}
NOTHING_TO_ASK = (
    f"contact rectify {OLD} --new-address other@people.example --reason told",
    "unsubscribe retire 2",  # seals new links
    "unsubscribe retire 7",
    "webhook drop crm --letter 7",
    "suppress move brand:former marketing",
    "suppress move purpose:former marketing --dry-run",
)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    secret = tmp_path / "crm.secret"
    secret.touch(0o600)
    secret.write_text("whsec_" + "c2VjcmV0" * 4 + "\n")
    with stored.config_path.open("a") as file:
        file.write(TABLE.format(secret=secret))
    for address in (ANNA, OLD, NEW):
        stored.run("consent", "record", address, *AGREED)
    people = stored.file("old.csv", "address,collected_at\nold@b.example,2019-05-04\n")
    stored.run("contact", "import", people)
    within(stored, _suppress_for_a_former_purpose)
    for command in ("unsubscribe", "unsubscribe", "suppress"):
        stored.run(command, "rekey")
    failing(stored)
    return stored


async def _suppress_for_a_former_purpose(store: Store) -> None:
    entry = SuppressionEntry(ANNA, "purpose:former", Origin.UNSUBSCRIBE, datetime.now(UTC))
    await store.add_suppressions([entry])


def at_terminal(stored: Stored, command: str, answer: str | bytes) -> tuple[int, str]:
    """Run a command at a terminal where `answer` is typed; return exit code and screen."""
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode() if isinstance(answer, str) else answer)
    if "{import}" in command:
        command = command.replace("{import}", stored.json("import", "list")[0]["id"])
    run = [*COMMAND, *command.split(), "--config", str(stored.config_path)]
    done = subprocess.run(
        run, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, cwd=REPOSITORY, timeout=60
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # end of output
        while read := os.read(ours, 65_536):
            shown += read
    os.close(ours)
    return done.returncode, " ".join(shown.decode(errors="replace").split())


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_no_changes_nothing(stored: Stored, command: str) -> None:
    code, shown = at_terminal(stored, command, "n\n")
    assert QUESTIONS[command] in shown
    assert (code, shown.rpartition("Error: ")[2]) == (1, "nothing was changed")
    code, shown = at_terminal(stored, f"{command} --yes", "")
    assert (code, "[y/N]" in shown) == (0, False), "nothing may have been done"


def test_a_yes_continues_and_a_script_is_not_asked(stored: Stored) -> None:
    drop = "webhook drop crm --letter"
    code, shown = at_terminal(stored, f"{drop} 1", "\x04")  # the end of input
    assert (code, shown.rpartition("Error: ")[2][:20]) == (1, "nothing was changed;")
    assert at_terminal(stored, f"{drop} 1", "y\n")[0] == 0
    assert "1 dead letter dropped" in stored.run(*drop.split(), "2").stdout


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("stream observe offers", 1, "Error: invalid input"),
        ("init --nameserver 127.0.0.1", 130, 'Error: "\\udce9" is not a host name'),
    ],
)
def test_an_answer_in_another_encoding_is_merely_invalid(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, command: str, code: int, told: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    if command.startswith("init"):
        stored.config_path = stored.folder / "new.toml"
    found, shown = at_terminal(stored, command, b"\xe9\n\x04\x04")
    assert (found, told in shown) == (code, True), shown


@pytest.mark.parametrize("command", NOTHING_TO_ASK)
def test_harmless_commands_do_not_ask(stored: Stored, command: str) -> None:
    assert "[y/N]" not in at_terminal(stored, command, "n\n")[1]


def test_undoing_an_import_without_effect_does_not_ask(stored: Stored) -> None:
    stored.run("contact", "import", str(stored.folder / "old.csv"))
    code, shown = at_terminal(stored, "import undo {import}", "n\n")
    assert (code, "[y/N]" in shown) == (0, False)


@needs("postgresql")
def test_reopening_a_store_asks(stored: Stored) -> None:
    """People who unsubscribed since would be mailed."""
    state = stored.folder / "state"
    old, new = f"sqlite://{state}/smtpproxy.db", postgres.cluster().url(postgres.cluster().create())
    postgres.migrated(new, state)
    stored.run("store", "copy", old, new)
    code, shown = at_terminal(stored, f"store reopen {old}", "n\n")
    assert f"{old} lacks what was written to its copy, refusals too. Reopen it?" in shown
    assert code == 1
    assert at_terminal(stored, f"store reopen {old} --yes", "")[0] == 0


def test_every_command_that_asks_is_tested() -> None:
    asking = {
        name
        for name, command in COMMANDS_OF_HELP.items()
        if any("--yes" in parameter.opts for parameter in command.params)
    }
    others = {
        "init",
        "contact map",
        "stream enforce",
        "stream observe",
    }  # these ask other questions
    tested = {" ".join(command.split()[:2]) for command in QUESTIONS}
    assert {*tested, "store reopen"} == asking - others


def test_a_retired_key_can_be_restored_from_a_copy(stored: Stored) -> None:
    state = stored.folder / "state"
    file = state / LINK_KEY_FILE
    ring = link_ring(state)
    token = ring.seal(Unsubscription(ANNA, "marketing", "01J9ZK3W5V7Q8R9S0T1V2W3X4Y"))
    copy = file.read_text()
    stored.run("unsubscribe", "rekey")
    stored.run("unsubscribe", "retire", "2")
    with pytest.raises(TokenError):
        link_ring(state).open(token)
    (line,) = (line for line in copy.splitlines() if line.startswith("2 "))
    file.write_text(f"{file.read_text()}{line}\n")
    assert link_ring(state).open(token).recipient == ANNA
    assert "key 2" in stored.run("unsubscribe", "keys").stdout
