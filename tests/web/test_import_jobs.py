"""Import jobs: refusals, repeated requests, and the relays that work on them."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from smtpproxy.client import ApiProblem, Client, ImportQuery, NotPermitted, TryLater
from smtpproxy.config import load
from smtpproxy.process import import_jobs as runner
from smtpproxy.process.import_jobs import ImportRunner
from smtpproxy.store.import_jobs import KEPT, UPLOAD, ImportJob, ImportJobs, JobEnd
from smtpproxy.web.api import import_jobs, uploads
from tests.kit.disk import flushed
from tests.kit.ports import wait_for
from tests.web.serving import served_aside
from tests.web.test_imports_of_brands import HEADER, SAID, Desk, token

CONTACTS = ImportQuery("contacts")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    stream = {"name": "news", "class": "marketing", "purpose": "news"}
    tokens = [token("all"), token("asks") | {"may": ["imports"]}]
    desk = Desk(tmp_path_factory.mktemp("desk"), {"stream": [stream], "token": tokens})
    with served_aside(load(desk.config_path)) as desk.url:
        yield desk


@pytest.fixture(autouse=True)
def nothing_left(desk: Desk) -> Iterator[None]:
    yield
    desk.work()
    folder = desk.folder / "state" / "imports"
    assert not [path.name for path in folder.glob(".*")], "no partial upload may be left"


def refused(desk: Desk, who: str = "all", text: str = "address\n") -> ApiProblem:
    file = Path(desk.file("people.csv", text))
    with Client(desk.url, who, retries=0) as api, pytest.raises(ApiProblem) as error:
        api.start_import(file, CONTACTS)
    return error.value


def test_a_file_without_room_on_disk_is_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "RESERVE", 2**62)
    error = refused(desk)
    assert (error.problem.status, error.error) == (507, "disk_full")
    assert "no room" in error.problem.detail


def test_a_failing_disk_is_reported_without_file_names(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: str, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(uploads, "open", full, raising=False)
    error = refused(desk)
    assert (error.problem.status, error.error) == (507, "disk_full")
    assert "No space left" in error.problem.detail
    assert str(desk.folder) not in error.problem.detail


def test_an_accepted_import_is_on_the_disk_with_its_mapping(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(desk.file("people.csv", "who\n"))
    paths = flushed(monkeypatch)
    with Client(desk.url, "all", retries=0) as api:
        api.start_import(file, ImportQuery("contacts", mapping='[columns]\nwho = "address"\n'))
    assert {"upload", "mapping.toml", "job.json.new", "imports"} <= {path.name for path in paths}


def test_an_erasure_removes_a_person_from_rejected_lines(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (
        'address,source\nZoe@People.example,?\neva@people.example,?\n"zoe@people.example","?\n?"\n'
    )
    id = desk.send("all", rows + "x" * 5_000 + "@,?\n", CONTACTS)
    desk.work()
    jobs = ImportJobs(desk.folder / "state")
    before = jobs.rejected(id).read_bytes()
    assert before.count(b"# line ") == 4
    jobs.forget("nobody@people.example")
    assert jobs.rejected(id).read_bytes() == before
    monkeypatch.setattr("smtpproxy.store.import_jobs._MOST", 1_000)
    jobs.forget("zoe@people.example")
    left = jobs.rejected(id).read_text()
    assert left.startswith("address,source\n# line 3: ")
    assert left.endswith("\neva@people.example,?\n")
    assert left.count("# line ") == 1
    with Client(desk.url, "all", retries=0) as api:
        assert [one.line for one in api.rejected_lines(id)] == [3]


def test_only_finished_imports_are_undone_and_only_unfinished_cancelled(
    desk: Desk,
) -> None:
    def undone(id: str) -> tuple[str, str]:
        with Client(desk.url, "all", retries=0) as api, pytest.raises(ApiProblem) as error:
            api.undo_import(id)
        return error.value.error, error.value.problem.detail

    id = desk.send("all", "a,b\n1,2\n", CONTACTS)
    assert undone(id) == ("not_undoable", "it is waiting, or was a dry run")
    desk.work()
    assert undone(id) == ("not_undoable", "it has imported nothing")
    with Client(desk.url, "all") as api:
        assert api.cancel_import(id).state == "failed"
    assert not (desk.folder / "state" / "imports" / id / "cancel").exists()
    dry = ImportQuery("contacts", dry_run="true")
    shown = desk.imported("all", f"{HEADER}\na@p.example,{SAID}\n", dry)
    assert undone(shown.id) == ("not_undoable", "it is complete, or was a dry run")


def test_rejected_lines_are_listed_page_by_page(desk: Desk) -> None:
    id = desk.send("all", "address,source\n" + "x,?\n" * 5, CONTACTS)
    desk.work()
    lines, after = [], 0
    for _ in range(3):
        url = f"{desk.url}/v1/imports/{id}/rejected?limit=2&after={after}"
        asked = Request(url, headers={"Authorization": "Bearer all"})
        page = json.load(urlopen(asked, timeout=30))
        lines.append([one["line"] for one in page["rejected"]])
        after = page["next"]
    assert (lines, after) == ([[2, 3], [4, 5], [6]], None)


def test_an_unknown_brand_is_refused_before_the_file_is_read(desk: Desk) -> None:
    with Client(desk.url, "all", retries=0) as api, pytest.raises(ApiProblem) as error:
        api.start_import(Path(desk.file("people.csv", "")), ImportQuery("contacts", brand="no"))
    assert error.value.error == "parameter_wrong"
    assert error.value.problem.detail.startswith("brand: ")


def test_the_number_of_waiting_imports_is_limited(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_jobs, "MOST_WAITING", 2)
    for _ in range(2):
        desk.send("all", "address\n", CONTACTS)
    error = refused(desk)
    assert (error.problem.status, error.error) == (429, "too_many_jobs")
    assert (type(error), error.retry_after) == (TryLater, 60)
    desk.work()
    assert desk.send("all", "address\n", CONTACTS)


@pytest.mark.parametrize("text", ["", "address\n"])
def test_an_import_without_rows_fails(desk: Desk, text: str) -> None:
    shown = desk.imported("all", text, CONTACTS)
    assert shown.state == "failed"
    assert "no rows" in str(shown.error)


def test_a_missing_right_is_reported_however_large_the_file_is(desk: Desk) -> None:
    text = "address\n" + "a@people.example\n" * 500_000
    assert type(refused(desk, "asks", text)) is NotPermitted


def test_a_file_sent_again_with_its_key_is_imported_once(desk: Desk) -> None:
    text = f"{HEADER}\na@p.example,{SAID}\n"

    def post(body: str, query: str = "kind=contacts", key: str = "k1") -> tuple[int, str]:
        with socket.create_connection(("127.0.0.1", int(desk.url.rpartition(":")[2]))) as sock:
            head = f"POST /v1/imports?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            head += f"Authorization: Bearer all\r\nIdempotency-Key: {key}\r\n"
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            head, _, told = sock.makefile().read().partition("\n\n")
        if head.startswith("HTTP/1.1 202"):
            assert f"\nlocation: imports/{json.loads(told)['id']}\n" in head
        return int(head.split()[1]), told

    first, again = post(text), post(text)
    assert first == again
    assert first[0] == 202
    assert post(text + "b@p.example,,,,,\n")[0] == 422
    assert post(text, "kind=contacts&dry_run=true")[0] == 422
    assert post(text, key="k2")[0] == 202
    assert len(ImportJobs(desk.folder / "state").waiting()) == 2
    desk.work()
    assert post(text) == first, "the answer is the first one"


async def test_two_relays_never_work_on_the_same_job(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a folder when a new relay takes over from an old one."""
    settings = load(desk.config_path)
    for _ in range(3):
        await asyncio.to_thread(desk.send, "all", "address\n", CONTACTS)
    at_once, most, done = 0, 0, []

    async def run(self: ImportRunner, job: runner.ImportJob, folder: Path, lock: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        (folder / "result").write_text('{"outlook": {}}')
        (folder / "errors").write_text("")
        done.append(job.id)
        at_once -= 1
        return 0

    def no_faults() -> tuple[str, ...]:
        time.sleep(0.06)  # the other relay finishes a job meanwhile
        return ()

    monkeypatch.setattr(ImportRunner, "_run_command", run)
    monkeypatch.setattr(runner, "_faults", no_faults)
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    relays = [asyncio.create_task(ImportRunner(settings).run()) for _ in range(2)]
    await asyncio.to_thread(wait_for, lambda: len(done) == 3, "all to be done")
    await asyncio.sleep(0.2)
    for relay in relays:
        relay.cancel()
    assert most == 1
    assert len(done) == len(set(done)) == 3


async def test_a_job_whose_process_dies_is_tried_three_times(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(desk.config_path)
    id = await asyncio.to_thread(desk.send, "all", "address\n", CONTACTS)
    tries = 0

    async def die(self: ImportRunner, job: runner.ImportJob, folder: Path, lock: int) -> int:
        nonlocal tries
        tries += 1
        (folder / "errors").write_text("")
        return -9

    monkeypatch.setattr(ImportRunner, "_run_command", die)
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    jobs = ImportJobs(desk.folder / "state")
    counted: list[str] = []
    relay = asyncio.create_task(ImportRunner(settings, counted.append).run())
    await asyncio.to_thread(wait_for, lambda: counted, "its end")
    relay.cancel()
    assert counted == ["failed"]
    end = jobs.end(id)
    assert end is not None
    assert (tries, end.outcome, end.error) == (3, "failed", "the process ended without a message")


async def test_work_waits_while_the_configuration_has_faults(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may be editing it, and the import command would refuse to act."""
    whole = desk.config_path.read_text()
    id = await asyncio.to_thread(desk.send, "all", "address\na@p.example\n", CONTACTS)
    monkeypatch.setenv("SMTPPROXY_CONFIG", str(desk.config_path))
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    jobs = ImportJobs(desk.folder / "state")
    jobs.ask_undo("01JKB3Q00020CT1R0RZ1H6E7A8", "token all")

    def told(logs: list[EventDict]) -> list[str]:
        event = "imports wait for the configuration"
        return [line["faults"][0] for line in logs if line["event"] == event]

    with capture_logs() as logs:
        relay = asyncio.create_task(ImportRunner(load(desk.config_path)).run())
        desk.config_path.write_text(f"{whole}\n[polcy]\n")
        await asyncio.to_thread(wait_for, lambda: told(logs), "a word that it waits")
        await asyncio.sleep(0.5)
        assert (len(told(logs)), len(jobs.undos()), jobs.end(id)) == (1, 1, None)
        desk.config_path.write_text(whole)
        await asyncio.to_thread(wait_for, lambda: jobs.end(id) and not jobs.undos(), "the end")
    relay.cancel()
    end = jobs.end(id)
    assert end is not None
    assert end.outcome == "complete", end
    assert "polcy" in told(logs)[0]


@pytest.mark.parametrize(("codes", "runs"), [([1, 0], 2), ([1, 1, 0], 3), ([1, 1, 1], 3)])
async def test_an_undo_that_fails_is_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, codes: list[int], runs: int
) -> None:
    ran = 0

    async def end(*given: object) -> asyncio.subprocess.Process:
        nonlocal ran
        ran += 1
        pipe = asyncio.subprocess.PIPE
        code = f"exit {codes[ran - 1]}"
        return await asyncio.create_subprocess_exec("sh", "-c", code, stdout=pipe, stderr=pipe)

    monkeypatch.setattr(runner, "_command", end)
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    jobs = ImportJobs(desk.folder / "state")
    jobs.ask_undo("01JKB3Q00020CT1R0RZ1H6E7A8", "token all")
    counted: list[str] = []
    relay = asyncio.create_task(ImportRunner(load(desk.config_path), counted.append).run())
    await asyncio.to_thread(wait_for, lambda: not jobs.undos(), "its end")
    relay.cancel()
    assert (ran, counted) == (runs, ["not_undone"] if all(codes) else [])


def test_files_that_vanish_while_examined_are_no_fault(tmp_path: Path) -> None:
    """Two relays and an erasure use the same folder."""
    jobs = ImportJobs(tmp_path)
    jobs.ask_undo("01JKB3Q00020CT1R0RZ1H6E7A9", "me")
    (tmp_path / "imports/01JKB3Q00020CT1R0RZ1H6E7A8.undo").symlink_to("gone")
    assert jobs.undos() == [("01JKB3Q00020CT1R0RZ1H6E7A9", "me")]
    (jobs.receive("01JKB3Q00020CT1R0RZ1H6E7B0") / UPLOAD).symlink_to("gone")
    folder = jobs.receive("01JKB3Q00020CT1R0RZ1H6E7B1")
    now = datetime(2025, 6, 1, tzinfo=UTC)
    jobs.accept(ImportJob("01JKB3Q00020CT1R0RZ1H6E7B1", "contacts", "me", now, False, 1))
    jobs.finish("01JKB3Q00020CT1R0RZ1H6E7B1", JobEnd("complete", now))
    rejected = jobs.rejected("01JKB3Q00020CT1R0RZ1H6E7B1")
    rejected.write_text("# line 2: no\na@p.example\n")

    def expires(lines: bytes) -> bool:
        jobs.expire(now + 2 * KEPT)
        return True

    jobs.forget_those(expires)
    assert not rejected.parent.exists()
    assert folder.name not in [path.name for path in (tmp_path / "imports").iterdir()]


@pytest.mark.parametrize(
    ("asked", "wrong"),
    [
        (ImportQuery("contacts", as_of="zzz"), "as_of: 'zzz' is not a time; write it like 2025-"),
        (ImportQuery("contacts", as_of="2126-01-01"), "as_of: 2126-01-01 00:00 UTC is in the fut"),
        (ImportQuery("contacts", file_format="xls"), "format: 'xls' is not one of csv, ndjson,"),
        (
            ImportQuery("contacts", file_format="brevo", mapping='address = "a"'),
            "mapping and format",
        ),
        (ImportQuery("contacts", file_format="ses"), "format: 'ses' is not one of csv, ndjson,"),
        (ImportQuery("contacts", purpose=" "), "purpose: ' ' must be text"),
        (ImportQuery("contacts", mapping="["), "mapping: "),
        (ImportQuery("contacts", mapping="[colums]"), "mapping: "),
        (ImportQuery("contacts", set=("source",)), "set: 'source' is not FIELD=VALUE"),
        (ImportQuery("contacts", set=("x=1",)), "set: x: no such field; they are audience, "),
        (ImportQuery("contacts", set=("source=x",)), "set: source: 'x' is unknown; expected one"),
        (ImportQuery("contacts", set=("consent_purpose=x",)), "set: consent_purpose: no stream"),
        (ImportQuery("contacts", set=("consent_method=x",)), "set: consent_method: 'x' is not one"),
        (ImportQuery("contacts", replace="01XYZ"), "replace: no import with that id"),
        (ImportQuery("suppressions", scope="zzz"), "scope: 'zzz' is not one of all, "),
        (ImportQuery("suppressions", set=("source=direct",)), "set: source: no such field"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(
    desk: Desk, asked: ImportQuery, wrong: str
) -> None:
    with Client(desk.url, "all", retries=0) as api, pytest.raises(ApiProblem) as error:
        api.start_import(Path(desk.file("people.csv", "address\n")), asked)
    assert (error.value.problem.status, error.value.error) == (400, "parameter_wrong")
    assert error.value.problem.detail.startswith(wrong)


def test_only_an_import_of_the_same_kind_can_be_corrected(desk: Desk) -> None:
    first = desk.imported("all", f"{HEADER}\nb@p.example,{SAID}\n", CONTACTS)
    other = ImportQuery("suppressions", replace=first.id)
    with Client(desk.url, "all", retries=0) as api, pytest.raises(ApiProblem) as error:
        api.start_import(Path(desk.file("people.csv", "address\n")), other)
    assert error.value.problem.detail == f"replace: {first.id} is an import of contacts"


def test_to_repeat_a_request_that_was_obeyed_is_not_refused(desk: Desk) -> None:
    first = desk.imported("all", f"{HEADER}\nr@p.example,{SAID}\n", CONTACTS)
    text = f"{HEADER}\ns@p.example,{SAID}\n"

    def send() -> object:
        url = f"{desk.url}/v1/imports?kind=contacts&replace={first.id}"
        headers = {
            "Authorization": "Bearer all", "Idempotency-Key": "one", "Content-Type": "text/csv"
        }  # fmt: skip
        return json.load(urlopen(Request(url, text.encode(), headers), timeout=30))

    sent = send()
    desk.work()
    with Client(desk.url, "all") as api:
        assert api.get_import(first.id).state == "undone"
    assert send() == sent


def test_an_import_that_waits_can_be_corrected(desk: Desk) -> None:
    first = desk.send("all", f"{HEADER}\nt@p.example,{SAID}\n", CONTACTS)
    correction = ImportQuery("contacts", replace=first)
    second = desk.send("all", f"{HEADER}\nu@p.example,{SAID}\n", correction)
    desk.work()
    with Client(desk.url, "all") as api:
        states = [api.get_import(id).state for id in (first, second)]
    assert states == ["undone", "complete"]


def test_as_of_without_a_zone_is_in_utc(desk: Desk) -> None:
    asked = ImportQuery("contacts", as_of="2026-03-01T10:00:00")
    shown = desk.imported("all", f"{HEADER}\nv@p.example,{SAID}\n", asked)
    record = desk.json("import", "show", shown.id)
    assert record["as_of"] == "2026-03-01T10:00:00Z"
