"""Notes on suppressions hold no personal data: a motive from a closed list, unless --keep-notes."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.store.exchange.suppression_record import is_motive
from tests.cli.stored import Stored

ANNA = "anna@people.example"
FREE = "Anna Lind, born 1 May 1980, called"
MAILCHIMP = (
    "Email Address,UNSUB_TIME,UNSUB_REASON,UNSUB_REASON_OTHER\n"
    f"{ANNA},2026-01-05 10:00:00,NOSIGNUP,{FREE.replace(',', '')}\n"
)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def note(stored: Stored) -> object:
    (one,) = stored.json("suppress", "show", ANNA)["suppressions"]
    return one.get("note")


@pytest.mark.parametrize(
    "text",
    [
        "SPAM",
        "normal",
        "HardBounce",
        "5.1.1",
        "550 5.1.1",
        "550",
        "by phone",
        "SendGrid bounce",
        "The person asked",
        "import 01J9ZK3W5V7Q8R9S0T1V2W3X4Y undone by root",
        "taken back on the page of id=01J9ZK3W5V7Q8R9S0T1V2W3X4Y",
        "by the person, on the page whose link was mailed on 2026-03-01",
        "lifted before the restore",
    ],
)
def test_motives_of_providers_and_our_own_are_recognised(text: str) -> None:
    assert is_motive(text)


@pytest.mark.parametrize("text", [FREE, "a@b.example", "link of id=Anna Lind", "0601020304", "5"])
def test_everything_else_is_free_text(text: str) -> None:
    assert not is_motive(text)


@pytest.mark.parametrize("command", [("suppress", "add", ANNA), ("contact", "object", ANNA)])
def test_a_free_text_note_needs_keep_notes(stored: Stored, command: tuple[str, ...]) -> None:
    told = stored.run(*command, "--note", FREE, code=2).stderr
    assert "is free text, and it may contain personal data" in told
    assert "give a motive such as by phone" in told
    stored.run("suppress", "show", ANNA, code=1)
    told = stored.run(*command, "--note", FREE, "--keep-notes").stderr
    assert "warning: --note: free text is kept" in told
    assert note(stored) == FREE


FILES = {
    "own.csv": f'address,scope,origin,since,note\n{ANNA},all,manual,2026-01-05,"{FREE}"\n',
    "own.ndjson": f'{{"address":"{ANNA}","scope":"all","origin":"manual","note":"{FREE}"}}\n',
    "mapped.csv": f'Mail,Why\n{ANNA},"{FREE}"\n',
}


@pytest.mark.parametrize("name", FILES)
def test_imports_drop_free_text_and_say_so(stored: Stored, name: str) -> None:
    path = stored.file(name, FILES[name])
    options = []
    if name == "mapped.csv":
        mapping = stored.file("m.toml", '[columns]\nMail = "address"\nWhy = "note"\n')
        options = ["--mapping", mapping, "--origin", "manual"]
    told = stored.run("suppress", "import", path, *options).stderr
    assert "1 note in free text left out, since it may contain personal data" in told
    assert note(stored) is None


def test_an_import_keeps_free_text_with_keep_notes(stored: Stored) -> None:
    path = stored.file("own.csv", FILES["own.csv"])
    told = stored.run("suppress", "import", path, "--keep-notes").stderr
    assert "1 note in free text kept: it may contain personal data" in told
    assert note(stored) == FREE


def test_mailchimps_reason_is_kept_without_the_persons_words(stored: Stored) -> None:
    stored.run("suppress", "import", stored.file("unsubscribed.csv", MAILCHIMP))
    assert note(stored) == "NOSIGNUP"


def age(stored: Stored, table: str, column: str) -> None:
    """Move a time to more than a year ago."""
    with sqlite3.connect(stored.folder / "state" / "smtpproxy.db") as database:
        old = int((datetime.now(UTC) - timedelta(367)).timestamp() * 1e6)
        database.execute(f"UPDATE {table} SET {column} = ?", (old,))
    database.close()


def reason(stored: Stored) -> object:
    (one,) = stored.json("suppress", "show", ANNA, code=1)["lifted"]
    return one["reason"]


def test_the_reason_for_lifting_is_a_motive_too(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA)
    remove = ("suppress", "remove", ANNA, "--all", "--reason")
    told = stored.run(*remove, FREE, code=2).stderr
    assert "--reason: " in told
    assert "give a motive such as the person asked, added by mistake" in told
    stored.run("suppress", "show", ANNA)
    assert (
        "warning: --reason: free text is kept" in stored.run(*remove, FREE, "--keep-notes").stderr
    )
    assert reason(stored) == FREE


def test_purge_forgets_free_text_reasons_for_lifting(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA)
    stored.run("suppress", "remove", ANNA, "--all", "--reason", FREE, "--keep-notes")
    assert stored.json("purge")["notes_forgotten"] == 0
    age(stored, "lifted_suppression", "lifted_at")
    assert stored.json("purge")["notes_forgotten"] == 1
    assert reason(stored) == "not kept"
    assert stored.json("purge")["notes_forgotten"] == 0


def test_notes_replaced_by_a_later_import_are_forgotten_too(stored: Stored) -> None:
    """They are kept so that the later import can be undone."""
    stored.run("suppress", "import", stored.file("own.csv", FILES["own.csv"]), "--keep-notes")
    later = FILES["own.csv"].replace("2026-01-05", "2026-01-06").replace(FREE, "by phone")
    stored.run("suppress", "import", stored.file("later.csv", later))
    with sqlite3.connect(stored.folder / "state" / "smtpproxy.db") as database:
        ((earlier,),) = database.execute("SELECT earlier FROM suppression")
        since, was, *others = json.loads(earlier)[0]
        assert was == FREE
        old = [since - int(timedelta(730).total_seconds() * 1e6), was, *others]
        database.execute("UPDATE suppression SET earlier = ?", (json.dumps([old, old]),))
    assert stored.json("purge")["notes_forgotten"] == 1
    kept = [[old[0], None, *others]] * 2
    assert json.loads(*database.execute("SELECT earlier FROM suppression").fetchone()) == kept
    database.close()
    assert note(stored) == "by phone"
    second = stored.json("import", "list")[-1]["id"]
    assert "1 put back" in stored.run("import", "undo", second).stdout
    assert note(stored) is None


def test_purge_forgets_free_text_after_a_year(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--note", FREE, "--keep-notes")
    assert stored.json("purge")["notes_forgotten"] == 0
    age(stored, "suppression", "since")
    assert "1 note in free text would be forgotten" in stored.run("purge", "--dry-run").stdout
    assert note(stored) == FREE
    assert stored.json("purge")["notes_forgotten"] == 1
    assert note(stored) is None
