"""`smtpproxy scrub`: the relay's own decisions on a list, and files that are complete or absent."""

import csv
import hashlib
import io
import json
import os
import pty
import re
import signal
import smtplib
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import (
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Origin,
    Provenance,
    Source,
)
from smtpproxy.scrub import run as scrub_run
from smtpproxy.store.records import SuppressionEntry
from tests.cli.conftest import Bench
from tests.kit import store
from tests.kit.ports import wait_for
from tests.kit.processes import run
from tests.kit.relay import COMMAND, REPOSITORY, STREAMS, RelayProcess, listener
from tests.kit.store import SUPPRESSED, address, people
from tests.kit.toml import to_toml
from tests.kit.upstream import FakeUpstream

STREAM_NAMES = [stream["name"] for stream in STREAMS]
NAMES = [*people(), *SUPPRESSED, "stranger"]
EVERYBODY = "\n".join(["id,email", *(f"{i},{address(name)}" for i, name in enumerate(NAMES))])
ALLOWED = ["consent", "customer", "desk"]  # on the stream offers


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def scrub(
    bench: Bench, tmp_path: Path, text: str | bytes, *arguments: str, code: int | None = None
) -> tuple[str, str]:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return bench.run("scrub", str(path), *arguments, code=code)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A relay with a listener for each stream, so that each recipient is judged at RCPT."""
    listeners = [listener(name, name, default=name) for name in STREAM_NAMES]
    with FakeUpstream() as upstream:
        relay = RelayProcess(
            tmp_path_factory.mktemp("bench"), upstream.address, {"listener": listeners}
        )
        bench = Bench(relay)
        bench.store(lambda people: store.fill(people, people, datetime.now(UTC)))
        with relay:
            yield bench


@pytest.mark.parametrize("stream", STREAM_NAMES)
def test_it_decides_on_everybody_like_the_relay_at_rcpt(
    bench: Bench, tmp_path: Path, stream: str
) -> None:
    out, _ = scrub(bench, tmp_path, EVERYBODY, "--stream", stream)
    found = {row["email"]: (row["verdict"], row["reason"]) for row in rows(out)}
    assert found == {address(name): answer for name, answer in answers(bench, stream).items()}


def answers(bench: Bench, stream: str) -> dict[str, tuple[str, str]]:
    """Verdict and reason by name, read from the relay's replies to RCPT."""
    verdicts = {"refused": "refuse", "deferred": "defer"}
    found = {}
    with smtplib.SMTP("127.0.0.1", bench.relay.port(stream), timeout=30) as client:
        client.ehlo("client.example")
        client.mail("news@shop.example")
        for name in NAMES:
            code, text = client.rcpt(address(name))
            said = re.search(r"> (refused|deferred): (\w+) ", text.decode())
            assert (code == 250) == (said is None), text
            found[name] = (verdicts[said[1]], said[2]) if said else ("allow", "none")
    return found


def test_rows_keep_their_order_and_have_reason_and_date(bench: Bench, tmp_path: Path) -> None:
    out, summary = scrub(bench, tmp_path, EVERYBODY, "--stream", "offers", code=1)
    found = rows(out)
    assert [row["id"] for row in found] == [str(i) for i in range(len(NAMES))]
    by_name = dict(zip(NAMES, found, strict=True))
    month_ago = (datetime.now(UTC) - timedelta(days=30)).date()
    for name, (_, origin) in SUPPRESSED.items():
        row = by_name[name]
        assert (row["reason"], row["basis"]) == (f"suppressed_{origin}", "")
        assert abs(datetime.fromisoformat(row["since"]).date() - month_ago) <= timedelta(days=1)
    assert (by_name["consent"]["basis"], by_name["customer"]["since"]) == ("consent", "")
    assert by_name["consent"]["since"] < by_name["withdrawn"]["since"]
    assert by_name["stranger"]["reason"] == "no_record"
    assert "may be mailed   3  17.6%" in summary
    assert "no_record" in summary


def test_the_summary_counts_every_line(bench: Bench, tmp_path: Path) -> None:
    text = EVERYBODY + "\n98,CONSENT@People.Example\n99,nobody\n"
    out, _ = scrub(bench, tmp_path, text, "--stream", "offers", "--json", code=1)
    found = json.loads(out)
    assert found["by_basis"] == {"consent": 2, "existing_customer": 1, "generic_address": 1}
    assert found["by_reason"]["consent_missing"] == 2
    counted = ("total", "allowed", "refused", "deferred", "unreadable", "duplicates")
    assert [found[key] for key in counted] == [19, 4, 14, 0, 1, 1]
    assert sum(found["by_reason"].values()) == 14
    assert (found["stream"], found["rulebook"], found["list"]) == ("offers", "fr", "list.csv")
    assert found["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_the_second_of_two_spellings_is_the_duplicate(bench: Bench, tmp_path: Path) -> None:
    text = "a@x.example\nb@x.example\nA@X.example\n"
    out, _ = scrub(bench, tmp_path, text, "--stream", "offers")
    assert [row["duplicate"] for row in rows(out)] == ["false", "false", "true"]


def test_exit_0_when_everybody_may_be_mailed(bench: Bench, tmp_path: Path) -> None:
    good = "\n".join(map(address, ALLOWED))
    scrub(bench, tmp_path, good, "--stream", "offers", code=0)
    scrub(bench, tmp_path, f"{good}\nnobody\n", "--stream", "offers", code=1)
    scrub(bench, tmp_path, f"{good}\n{address('withdrawn')}\n", "--stream", "offers", code=1)


def test_an_empty_list_replaces_the_files_of_an_earlier_run(bench: Bench, tmp_path: Path) -> None:
    """A script that goes on after exit code 1, as with refused people, then mails nobody."""
    allowed = tmp_path / "allowed.csv"
    options = ("--stream", "offers", "--allowed", str(allowed))
    scrub(bench, tmp_path, address(ALLOWED[0]), *options, code=0)
    _, err = scrub(bench, tmp_path, "", *options, code=1)
    assert err.splitlines()[-1].startswith("Error: list.csv: no rows: it is empty")
    assert rows(allowed.read_text()) == []


def test_the_list_is_split_into_files(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_run, "BATCH_LINES", 4)  # the last one is not full
    files = {name: tmp_path / f"{name}.csv" for name in ("output", "allowed", "refused")}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    out, _ = scrub(bench, tmp_path, EVERYBODY, "--stream", "offers", *options)
    assert "may be mailed" in out  # the summary, since the rows go to a file
    read = {name: path.read_text() for name, path in files.items()}
    assert [row["email"] for row in rows(read["allowed"])] == [address(name) for name in ALLOWED]
    together = sorted(rows(read["allowed"]) + rows(read["refused"]), key=lambda r: int(r["id"]))
    assert together == rows(read["output"])
    assert len(together) == len(NAMES)
    assert files["allowed"].stat().st_mode & 0o777 == 0o600


def test_ndjson_on_standard_input(bench: Bench) -> None:
    lines = "".join(f'{{"address":"{address(name)}","n":1}}\n' for name in NAMES)
    out, _ = bench.run("scrub", "-", "--stream", "offers", stdin=lines.encode(), code=1)
    found = [json.loads(line) for line in out.splitlines()]
    assert [row["address"] for row in found if row["verdict"] == "allow"] == [
        address(name) for name in ALLOWED
    ]
    assert found[0]["n"] == 1


def test_unreadable_lines_go_to_a_file_beside_the_list(bench: Bench, tmp_path: Path) -> None:
    text = b"email\nconsent@people.example\ncaf\xe9@people.example\nnobody\n"
    out, told = scrub(bench, tmp_path, text, "--stream", "offers", code=1)
    assert [row["email"] for row in rows(out)] == ["consent@people.example"]
    aside = tmp_path / "list.csv.rejected"
    assert str(aside) in told
    content = aside.read_bytes().splitlines()
    assert content[0] == b"email"
    assert content[1].startswith(b"# line 3: not UTF-8")
    assert content[2:] == [b"caf\xe9@people.example", content[3], b"nobody"]
    assert content[3].startswith(b"# line 4: address: there is no @")
    scrub(bench, tmp_path, "email\nconsent@people.example\n", "--stream", "offers", code=0)
    assert not aside.exists()


def test_a_file_not_written_by_scrub_is_not_overwritten(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "list.csv.rejected"
    other.write_text("mine\n")
    _, told = scrub(bench, tmp_path, "a@x.example\nnobody\n", "--stream", "offers", code=2)
    assert "name another one with --rejected" in told
    assert other.read_text() == "mine\n"


def test_rejected_lines_of_an_import_stay(bench: Bench, tmp_path: Path) -> None:
    """Somebody may be correcting them."""
    aside = tmp_path / "list.csv.rejected"
    for header in ("", "email,collected_at\n", "sep=,\nemail,collected_at\n"):
        text = f"{header}# line 3: collected_at: 'yesterday' is not a time\na@x.example,yesterday\n"
        aside.write_text(text)
        scrub(bench, tmp_path, "email\nconsent@people.example\n", "--stream", "offers", code=0)
        assert aside.read_text() == text
        _, told = scrub(bench, tmp_path, "email\nnobody\n", "--stream", "offers", code=2)
        assert f"{aside} exists, and no scrub wrote it" in told
        assert aside.read_text() == text


@pytest.mark.skipif(os.geteuid() != 0, reason="works only as root, who may become another user")
def test_another_users_file_of_unreadable_lines_is_left_alone(tmp_path: Path) -> None:
    aside = tmp_path / "list.csv.rejected"
    aside.write_text("# line 2: no @ (scrub)\nnobody\n")
    aside.chmod(0o600)
    program = (
        "import os, sys; from pathlib import Path; from smtpproxy.scrub.run import Unreadable;"
        " os.setuid(65534); Unreadable(None, Path(sys.argv[1]), print, usual=True).close()"
    )
    done = run(COMMAND[0], "-c", program, str(aside), cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    assert aside.exists()


def test_only_a_file_of_an_earlier_scrub_is_overwritten(bench: Bench, tmp_path: Path) -> None:
    named = tmp_path / "named"
    options = ("--stream", "offers", "--rejected", str(named))
    named.write_text("mine\n")
    _, told = scrub(bench, tmp_path, "email\nnobody\n", *options, code=2)
    assert "move it away, or name another one with --rejected" in told
    assert named.read_text() == "mine\n"
    named.write_text("")
    for name in ("nobody", "somebody"):
        scrub(bench, tmp_path, f"email\n{name}\n", *options, code=1)
        assert named.read_text().splitlines()[2:] == [name]
    scrub(bench, tmp_path, "email\nconsent@people.example\n", *options, code=0)
    assert named.exists(), "a person chose its name"


def test_unreadable_lines_can_go_into_a_pipe(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    options = ("--stream", "offers", "--rejected", str(tmp_path / "pipe"))
    scrub(bench, tmp_path, "email\nnobody\n", *options, code=1)
    assert os.read(reader, 4096).endswith(b"\nnobody\n")
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("option", ["--output", "--allowed", "--refused", "--report", "--rejected"])
@pytest.mark.parametrize("by", ["its name", "a link", "another name"])
def test_the_list_itself_is_not_overwritten(
    bench: Bench, tmp_path: Path, option: str, by: str
) -> None:
    text, other = "email\nnobody\nconsent@people.example\n", tmp_path / "list.csv"
    if by != "its name":
        other = tmp_path / "other"
        make = other.symlink_to if by == "a link" else other.hardlink_to
        (tmp_path / "list.csv").write_text("")
        make(tmp_path / "list.csv")
    _, told = scrub(bench, tmp_path, text, "--stream", "offers", option, str(other), code=2)
    assert f"{option}: {other} is an input; name another file" in told
    assert (tmp_path / "list.csv").read_text() == text


def test_nor_is_the_file_behind_standard_input(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("email\nnobody\n")
    command = [*COMMAND, "scrub", "-", "--stream", "offers", "--allowed", str(path)]
    with path.open("rb") as file:
        done = subprocess.run(
            [*command, "--config", str(bench.relay.config_path)],
            stdin=file, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, "is an input; name another file" in done.stderr) == (2, True)
    assert path.read_text() == "email\nnobody\n"


def test_two_outputs_cannot_be_the_same_file(bench: Bench, tmp_path: Path) -> None:
    usual = str(tmp_path / "list.csv.rejected")
    text = "email\nnobody\n"
    _, told = scrub(bench, tmp_path, text, "--stream", "offers", "--allowed", usual, code=2)
    assert "given for two different files" in told


def test_unreadable_lines_of_standard_input_are_reported(bench: Bench) -> None:
    text = b"consent@people.example\n" + b"nobody\n" * 9
    _, told = bench.run("scrub", "-", "--stream", "offers", stdin=text, code=1)
    assert "line 2: address: there is no @" in told
    assert told.count("there is no @") == 5
    assert "more lines cannot be read" in told


def test_decisions_as_of_an_earlier_time(bench: Bench, tmp_path: Path) -> None:
    two_months_ago = (datetime.now(UTC) - timedelta(days=60)).isoformat()
    text = f"email\n{address('unsubscribed')}\n{address('withdrawn')}\n{address('expired')}\n"
    long_ago = (datetime.now(UTC) - timedelta(days=3 * 365)).isoformat()

    def reasons(at: str) -> list[str]:
        out, _ = scrub(bench, tmp_path, text, "--stream", "offers", "--at", at)
        return [row["reason"] for row in rows(out)]

    assert reasons(two_months_ago) == ["no_record", "consent_withdrawn", "consent_expired"]
    assert reasons(long_ago) == ["no_record", "no_record", "none"]


def test_it_changes_and_records_nothing(bench: Bench, tmp_path: Path) -> None:
    before = recorded(bench)
    scrub(bench, tmp_path, EVERYBODY, "--stream", "offers")
    assert recorded(bench) == before


def recorded(bench: Bench) -> Any:
    return (
        bench.json("audit", "show", "--limit", "1000"),
        bench.run("contact", "export")[0],
        bench.run("suppress", "export")[0],
    )


def test_a_new_suppression_counts_at_once(bench: Bench, tmp_path: Path) -> None:
    text = f"{address('late')}\n"
    entry = SuppressionEntry(address("late"), "all", Origin.COMPLAINT, datetime.now(UTC))
    assert rows(scrub(bench, tmp_path, text, "--stream", "offers")[0])[0]["reason"] == "no_record"
    bench.store(lambda store: store.add_suppressions([entry]))
    (row,) = rows(scrub(bench, tmp_path, text, "--stream", "offers")[0])
    assert row["reason"] == "suppressed_complaint"


def test_the_streams_rulebook_and_state_count(bench: Bench, tmp_path: Path) -> None:
    config = json.loads(json.dumps(bench.relay.config))
    config["stream"][0] |= {"rulebook": "us", "paused": True, "mode": "observe"}
    path = tmp_path / "other.toml"
    path.write_text(to_toml(config))
    listed = tmp_path / "list.txt"
    listed.write_text(f"{address('stranger')}\n{address('complained')}\n")
    out, summary = bench.run("scrub", str(listed), "--stream", "offers", code=1, config_path=path)
    assert [row["reason"] for row in rows(out)] == ["stream_paused", "suppressed_complaint"]
    assert "rulebook us" in summary
    assert "observe mode" in summary


def test_addresses_whose_first_message_must_name_the_source_are_listed(
    bench: Bench, tmp_path: Path
) -> None:
    """RGPD art. 14(3)(b): unless the stream checks that, the sender has to."""
    at = datetime.now(UTC) - timedelta(days=9)
    passed_on = Contact(
        "passed-on@people.example",
        source=Source.PURCHASED,
        collected_at=at,
        provenance=Provenance("Lists Ltd", True),
        acts=(ConsentAct("offers", at, method="signed_form", evidence=Evidence("form v3")),),
    )
    told = replace(passed_on, address="told@people.example", first_contacted_at=at)
    bought = (Collection(source=Source.PURCHASED, provenance=passed_on.provenance),)
    own = replace(passed_on, source=Source.DIRECT, provenance=None)
    direct = replace(own, address="direct@people.example", others=bought)
    refused = replace(passed_on, address="refused@people.example", acts=())
    listed = [passed_on, told, direct, refused]
    bench.store(lambda people: people.put_contacts(listed))
    text = "\n".join([*(one.address for one in listed), address("consent")])
    out, err = scrub(bench, tmp_path, text, "--stream", "offers", "--json", code=1)
    assert (json.loads(out)["allowed"], json.loads(out)["unannounced"]) == (4, 1)
    assert "1 address came from somebody else: the first message must say from whom" in err
    config = json.loads(json.dumps(bench.relay.config))
    config["stream"][0] |= {"first_contact_notice": True}
    path = tmp_path / "checked.toml"
    path.write_text(to_toml(config))
    out, err = bench.run(
        "scrub", "-", "--stream", "offers", stdin=text.encode(), code=1, config_path=path
    )
    assert "came from somebody else" not in err


def test_the_html_report_has_the_numbers_and_no_address(bench: Bench, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    scrub(bench, tmp_path, EVERYBODY, "--stream", "offers", "--report", str(report))
    page = report.read_text()
    assert "suppressed_complaint" in page
    assert hashlib.sha256(EVERYBODY.encode()).hexdigest() in page
    assert "people.example" not in page  # reports get passed around


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--stream", "offer"], "no stream 'offer'; known: default, offers"),
        ([], "--stream"),
        (["--stream", "offers", "--column", "mail"], "no column 'mail', only id, email"),
        (["--stream", "offers", "--json", "--output", "-"], "standard output"),
        (["--stream", "offers", "--allowed", "x", "--refused", "./x"], "for two different files"),
        (["--stream", "offers", "--at", "soon"], "'soon' is not a time"),
    ],
)
def test_wrong_usage_is_explained(
    bench: Bench, tmp_path: Path, arguments: Sequence[str], part: str
) -> None:
    out, told = scrub(bench, tmp_path, EVERYBODY, *arguments, code=2)
    assert out == ""
    assert part in " ".join(told.split())


@pytest.mark.parametrize("output", ["-", "/dev/full"])
def test_a_full_disk_is_reported_and_leaves_no_files(
    bench: Bench, tmp_path: Path, output: str
) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(EVERYBODY)
    arguments = ("scrub", str(listed), "--stream", "offers", "--output", output,
                 "--allowed", str(tmp_path / "allowed.csv"),
                 "--config", str(bench.relay.config_path))  # fmt: skip
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert done.returncode == 1
    assert b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == [listed]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupt_leaves_only_the_previous_files(
    bench: Bench, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    old = tmp_path / "out.csv"
    old.write_text("of before\n")
    arguments = ("scrub", "-", "--stream", "offers", "--output", str(old),
                 "--allowed", str(tmp_path / "allowed.csv"),
                 "--config", str(bench.relay.config_path))  # fmt: skip
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(b"consent@people.example\nnobody\n")
        process.stdin.flush()
        wait_for(lambda: len(list(tmp_path.iterdir())) == 3, "the drafts to be there")
        process.send_signal(number)
        assert process.wait(10) == code
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == "of before\n"


def test_a_terminal_shows_progress_and_a_chart_without_rows(bench: Bench, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(EVERYBODY)
    ours, theirs = pty.openpty()
    arguments = ("scrub", str(listed), "--stream", "offers")
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*COMMAND, *arguments, "--config", str(bench.relay.config_path)],
        stdout=theirs, stderr=theirs, env=environment,
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 4096):
                seen += chunk
        except OSError:  # the other side has closed: EIO on Linux
            pass
        assert process.wait(10) == 1
    os.close(ours)
    shown = seen.decode()
    assert "17 lines" in shown
    assert "█" in shown
    assert "no_record" in shown
    assert "people.example" not in shown
