"""`contact export ADDRESS --evidence` and `contact erase`, on a running relay's records."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.policy.model import ConsentAct, Evidence, Origin
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.sql.store import Store
from tests.cli.conftest import Bench
from tests.kit import audit, messages
from tests.kit.journal import segments
from tests.kit.ports import wait_for
from tests.kit.relay import to_toml
from tests.kit.store import address

JEANNE = address("consent")
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture(scope="module")
def sent(bench: Bench) -> list[str]:
    """Ids of a message with a hostile subject, one with other recipients, and a refused one."""

    async def withdrawn(store: Store) -> None:
        evidence = Evidence(version="7", form="https://shop.example/stop", ip="198.51.100.4")
        act = ConsentAct("offers", datetime.now(UTC), withdrawal=True, evidence=evidence)
        await store.record_act(JEANNE, act)

    async def lifted(store: Store) -> None:
        entry = SuppressionEntry(JEANNE, "marketing", Origin.MANUAL, YESTERDAY, "by mistake")
        await store.add_suppressions([entry])
        await store.remove_suppression(JEANNE, at=datetime.now(UTC), reason="they asked for it")

    bench.store(lifted)
    bench.relay.send(messages.marketing(subject='<b>Shoes</b> | "*" & co'), JEANNE)
    bench.relay.send(messages.message(stream="receipts"), JEANNE, address("nothing"))
    bench.store(withdrawn)
    bench.relay.send(messages.marketing(), JEANNE)

    def answered() -> bool:
        found = bench.json("audit", "show", "--recipient", JEANNE)
        return len(found) == 3 and all(r["upstream"] for r in found if r["relayed"])

    wait_for(answered, "three decisions and their answers")
    return [record["id"] for record in bench.json("audit", "show", "--recipient", JEANNE)]


def written(bench: Bench, path: Path, *arguments: str, code: int = 0) -> str:
    out, said = bench.run(
        "contact", "export", JEANNE, "--evidence", "--output", str(path), *arguments, code=code
    )
    assert out == ""
    if path.suffix != ".json":
        assert f"written: {path} and {path.with_suffix('.json')}\n" in said
    return path.read_text("utf-8")


class Text(HTMLParser):
    """The cells and paragraphs of a page; an unclosed tag is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)
        assert tag not in ("script", "a", "b", "img", "link")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.texts.append(data)


def test_the_page_has_everything(bench: Bench, sent: list[str], tmp_path: Path) -> None:
    texts = Text(written(bench, tmp_path / "jeanne.html")).texts
    page = "\n".join(texts)
    assert f"What is known about {JEANNE}" in texts
    assert '<b>Shoes</b> | "*" & co' in texts, "must be text, not markup"
    for id in sent:
        assert texts.count(id) == 2, "once as a decision, once in the audit log"
    assert "verified, no faults" in texts
    for proof in ("wording “form v3”", "192.0.2.7", "box they ticked", "198.51.100.4"):
        assert proof in page
    assert "by mistake" in page
    assert "they asked for it" in page
    assert "consent withdrawn" in texts
    assert "250 2.0.0 queued as FAKE" in page
    assert page.count("allowed") >= 2


def test_there_is_a_french_version(bench: Bench, sent: list[str], tmp_path: Path) -> None:
    page = written(bench, tmp_path / "jeanne.html", "--lang", "fr")
    assert '<html lang="fr">' in page
    texts = Text(page).texts
    for words in (
        f"Ce qui est connu de {JEANNE}",
        "vérifié, rien d’anormal",
        "consentement",
        "consentement retiré ou refusé",
        "retiré",
    ):
        assert words in texts


def test_markdown_has_one_cell_per_value(bench: Bench, sent: list[str], tmp_path: Path) -> None:
    text = written(bench, tmp_path / "jeanne.md")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (5, 6, 7) for row in rows)
    assert r"\<b\>Shoes\</b\> \| " in text
    out, _ = bench.run("contact", "export", JEANNE, "--evidence", code=0)
    assert out.splitlines()[0] == text.splitlines()[0]


@pytest.mark.parametrize(
    ("language", "title"),
    [("fr-BE", "Ce qui est connu"), ("de", "Was über"), ("pl", "What is known")],
)
def test_a_person_gets_the_document_in_their_language(
    bench: Bench, language: str, title: str, tmp_path: Path
) -> None:
    """GDPR 12(1): intelligible. Text that is not translated is in English."""
    address = f"reads-{language}@people.example".lower()
    people = tmp_path / "people.ndjson"
    people.write_text(json.dumps({"address": address, "source": "direct", "language": language}))
    bench.run("contact", "import", str(people), code=0)
    out, _ = bench.run("contact", "export", address, "--evidence", code=0)
    assert out.startswith(f"# {title}")
    out, _ = bench.run("contact", "export", address, "--evidence", "--lang", "nl", code=0)
    assert out.startswith("# Wat er over")


def test_a_file_not_named_on_the_command_line_is_not_overwritten(
    bench: Bench, sent: list[str], tmp_path: Path
) -> None:
    page, other = tmp_path / "jeanne.html", tmp_path / "jeanne.json"
    command = ("contact", "export", JEANNE, "--evidence", "--output", str(page))
    for text in ("mine\n", '{"address":"jeanne@people.example"}\n', "[1]"):
        other.write_text(text)
        assert f"{other}: the document as JSON goes there, but" in bench.run(*command, code=1)[1]
        assert other.read_text() == text
    other.write_text("")
    for _ in range(2):
        written(bench, page)
        assert json.loads(other.read_text())["address"] == JEANNE


def test_json_has_the_same_content(bench: Bench, sent: list[str], tmp_path: Path) -> None:
    written(bench, tmp_path / "jeanne.html")
    beside = json.loads((tmp_path / "jeanne.json").read_text())
    printed = bench.json("contact", "export", JEANNE, "--evidence")
    assert beside.keys() == printed.keys()
    assert [decision["id"] for decision in beside["decisions"]] == sent
    allowed, together, refused = beside["decisions"]
    based_on = allowed["based_on"]
    assert based_on["basis"] == "consent"
    assert based_on["consent"]["evidence"]["wording"] == "form v3"
    assert based_on["collection"]["source"] == "direct"
    assert refused["based_on"] is None
    assert refused["recipients"][0]["reason"] == "consent_withdrawn"
    assert beside["audit_log"]["sound"] is True
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("jeanne.*")} == {0o600}
    assert together["other_recipients"] == 1


def test_no_other_recipient_is_named(bench: Bench, sent: list[str], tmp_path: Path) -> None:
    page = written(bench, tmp_path / "jeanne.html")
    assert address("nothing") not in page + (tmp_path / "jeanne.json").read_text()


def test_an_unknown_address_gets_a_document_too(bench: Bench) -> None:
    who = ("contact", "export", "nobody@else.example")
    out, _ = bench.run(*who, "--evidence", code=0)
    assert "Nothing is stored about this address" in out
    assert "No message to this address is on record" in out
    _, err = bench.run(*who, code=1)
    assert err == "Error: there is no contact nobody@else.example\n"


def test_mail_to_a_former_address_is_included(bench: Bench) -> None:
    old, new = address("customer"), "customer.new@people.example"
    bench.relay.send(messages.message(stream="receipts"), old)
    seen = ("audit", "show", "--recipient", old)
    wait_for(lambda: bench.json(*seen)[0]["upstream"], "the answer to be on record")
    bench.run("contact", "rectify", old, "--new-address", new, "--reason", "moved")
    out, _ = bench.run("contact", "export", new, "--evidence", "--json")
    (decision,) = json.loads(out)["decisions"]
    assert [recipient["address"] for recipient in decision["recipients"]] == [old]
    page, _ = bench.run("contact", "export", new, "--evidence")
    assert f"; {decision['id']} | {old} |" in page


def test_the_document_needs_a_controller(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "bare.toml"
    without = {key: table for key, table in bench.relay.config.items() if key != "controller"}
    config.write_text(to_toml(without))
    asked = ("contact", "export", JEANNE, "--evidence")
    out, err = bench.run(*asked, code=2, config_path=config)
    assert out == ""
    assert "controller: not set" in err
    assert "add [controller]" in err
    out, _ = bench.run(*asked, "--json", code=0, config_path=config)
    assert json.loads(out)["controller"] is None


def test_a_single_contact_is_exported_in_the_import_format(bench: Bench) -> None:
    out, _ = bench.run("contact", "export", JEANNE, code=0)
    (line,) = out.splitlines()
    assert json.loads(line)["address"] == JEANNE
    _, err = bench.run("contact", "export", "--evidence", code=2)
    assert "--evidence is about one ADDRESS" in err


def test_an_altered_record_is_reported(bench: Bench, sent: list[str], tmp_path: Path) -> None:
    path = segments(audit.folder(bench.relay))[0]
    content = path.read_bytes()
    try:
        path.write_bytes(content.replace(b'"basis":"consent"', b'"basis":"charity"', 1))
        page = written(bench, tmp_path / "jeanne.html", code=1)
    finally:
        path.write_bytes(content)
    assert "ALTERED" in page
    assert "changed: " in page


# last, because it erases what the tests above need


def test_erasing_reaches_the_running_relays_record_unless_it_is_to_be_kept(
    bench: Bench, sent: list[str]
) -> None:
    out, _ = bench.run("contact", "erase", JEANNE, "--keep-record", code=0)
    assert out.startswith(f"{JEANNE}: erased; suppressed for marketing\naudit log: unchanged")
    bench.run("contact", "show", JEANNE, code=1)
    proof, _ = bench.run("contact", "export", JEANNE, "--evidence", code=0)
    assert "192.0.2.7" in proof, "the proof of consent must stay"
    assert sent[0] in proof
    out, _ = bench.run("contact", "erase", JEANNE, code=0)
    assert out.startswith(
        f"{JEANNE}: there was no contact; suppressed for marketing\n"
        "audit log: 3 rows are pseudonymised\n"
    )
    folder = audit.folder(bench.relay)
    everything = b"".join(path.read_bytes() for path in segments(folder))
    assert JEANNE.encode() not in everything
    assert b"192.0.2.7" not in everything, "the proof of consent must go too"
    assert bench.json("audit", "verify", code=0)["erased"] == 3
    (record,) = bench.json("audit", "show", sent[0], code=0)
    (recipient,) = record["recipients"]
    assert (recipient["basis"], recipient["erased"]) == ("consent", True)
    assert recipient["address"].startswith("erased:")
    bench.relay.send(messages.marketing(), JEANNE)
    (record,) = bench.json("audit", "show", "--recipient", JEANNE)
    assert record["recipients"][0]["reason"] == "suppressed_erasure"
    again = bench.json("contact", "erase", JEANNE, code=0)
    assert (again["erased"], again["audit_rows"]) == (False, 1)
    assert bench.json("audit", "verify", code=0)["sound"] is True
