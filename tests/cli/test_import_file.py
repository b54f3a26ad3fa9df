"""`contact import` and `suppress import` on files of every kind and state."""

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from smtpproxy.cli.import_file import rejected_of
from tests.cli.stored import BATCH, IN_SMALL_BATCHES, Stored
from tests.kit.ports import wait_for
from tests.kit.relay import COMMAND, REPOSITORY

HEADER = "address,scope,origin,since\n"
GOOD = HEADER + "anna@people.example,all,complaint,2026-01-01\n"
BAD = HEADER + "bert,all,complaint\n"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def started(stored: Stored, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments, "--config", str(stored.config_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=stored.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )


def suppressed(stored: Stored) -> int:
    return len(stored.run("suppress", "export").stdout.splitlines()) - 1


class TestRejected:
    def test_the_input_file_is_never_overwritten(self, stored: Stored) -> None:
        path = stored.file("list.csv", BAD)
        other = stored.folder / "other-name"
        os.link(path, other)
        for name in (path, str(other)):
            error = stored.run("suppress", "import", path, "--rejected", name, code=2).stderr
            assert f"--rejected: {name} is an input; name another file" in error
        assert Path(path).read_text() == BAD

    def test_nor_is_the_file_behind_standard_input(self, stored: Stored) -> None:
        path = stored.file("list.csv", BAD)
        command = (*COMMAND, "suppress", "import", "-", "--rejected", path)
        with Path(path).open() as file:
            done = subprocess.run(
                [*command, "--config", str(stored.config_path)],
                stdin=file, capture_output=True, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith(f"Error: {path}: is the file to be imported")
        assert Path(path).read_text() == BAD

    @pytest.mark.parametrize("content", [GOOD, BAD])
    @pytest.mark.parametrize("named", [True, False])
    def test_a_file_not_written_by_an_import_stays(
        self, stored: Stored, content: str, named: bool
    ) -> None:
        path = stored.file("list.csv", content)
        precious = stored.file("precious" if named else "list.csv.rejected", "do not\nlose\n")
        options = ["--rejected", precious] if named else []
        error = stored.run("suppress", "import", path, *options, code=2).stderr
        assert error.startswith(f"Error: {precious}: there is a file that no import wrote")
        assert Path(precious).read_text() == "do not\nlose\n"
        assert not [*stored.folder.rglob("*.db")]

    @pytest.mark.parametrize("content", [GOOD, BAD])
    @pytest.mark.parametrize("named", [True, False])
    def test_rejected_lines_of_a_scrub_stay(
        self, stored: Stored, content: str, named: bool
    ) -> None:
        stored.run(
            "scrub", stored.file("list.csv", "address\nnobody\n"), "--stream", "offers", code=1
        )
        aside = stored.folder / "list.csv.rejected"
        lines = aside.read_text()
        path = stored.file("list.csv", content)
        options = ["--rejected", str(aside)] if named else []
        error = stored.run("suppress", "import", path, *options, code=2).stderr
        assert error.startswith(f"Error: {aside}: there is a file that a scrub wrote; move it away")
        assert aside.read_text() == lines

    def test_rejected_lines_of_an_earlier_import_are_replaced(self, stored: Stored) -> None:
        path = stored.file("list.csv", BAD)
        aside = stored.folder / "aside"
        for _ in range(2):
            stored.run("suppress", "import", path, "--rejected", str(aside), code=1)
            stored.run("suppress", "import", path, code=1)
        assert aside.read_text() == Path(f"{path}.rejected").read_text()
        stored.file("list.csv", GOOD)
        stored.run("suppress", "import", path, "--rejected", str(aside))
        stored.run("suppress", "import", path)
        assert "bert" in aside.read_text()  # a person chose its name
        assert not Path(f"{path}.rejected").exists()

    def test_without_rejected_lines_there_is_no_file(self, stored: Stored) -> None:
        path = stored.file("list.csv", GOOD)
        stored.run("suppress", "import", path, "--rejected", str(stored.folder / "aside"))
        stored.run("suppress", "import", path)
        assert not list(stored.folder.glob("*aside*"))
        assert not list(stored.folder.glob("*.rejected"))

    def test_the_file_is_readable_by_its_owner_only(self, stored: Stored) -> None:
        path = stored.file("list.csv", BAD)
        aside = Path(f"{path}.rejected")
        for mode in (None, 0o644):
            if mode:
                aside.chmod(mode)
            stored.run("suppress", "import", path, code=1)
            assert aside.stat().st_mode & 0o777 == 0o600

    def test_if_it_cannot_be_written_nothing_is_imported(self, stored: Stored) -> None:
        path = stored.file("list.csv", GOOD + "bert,all,complaint\n")
        nowhere = stored.folder / "no-such-folder" / "aside"
        error = stored.run("suppress", "import", path, "--rejected", str(nowhere), code=1).stderr
        assert error == f"Error: {nowhere}: No such file or directory\n"
        assert "no database yet" in stored.run("suppress", "export", code=1).stderr

    def test_it_can_be_a_device(self, stored: Stored) -> None:
        path = stored.file("list.csv", BAD)
        done = stored.json("suppress", "import", path, "--rejected", "/dev/null", code=1)
        assert done["rejected"] == 1
        assert Path("/dev/null").is_char_device()


class TestInput:
    def test_a_pipe_or_standard_input_can_be_imported(self, stored: Stored) -> None:
        first = started(stored, "suppress", "import", "-")
        out, error = first.communicate(GOOD, timeout=60)
        assert (first.returncode, error) == (0, "")
        assert out.startswith("standard input: 1 added")
        second = started(stored, "suppress", "import", "/dev/stdin", "--json")
        assert '"unchanged": 1' in second.communicate(GOOD, timeout=60)[0]
        assert second.returncode == 0

    def test_a_fifo_can_be_imported(self, stored: Stored) -> None:
        fifo = stored.folder / "feed.csv"
        os.mkfifo(fifo)
        process = started(stored, "suppress", "import", str(fifo))
        with fifo.open("w") as feed:
            feed.write(BAD)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "1 rejected" in out
        assert "# line 2: " in Path(f"{fifo}.rejected").read_text()

    def test_lines_rejected_from_standard_input_go_to_the_working_folder(
        self, stored: Stored
    ) -> None:
        process = started(stored, "suppress", "import", "-")
        out, _ = process.communicate(BAD, timeout=60)
        assert out.endswith("their reasons: stdin.rejected\n")
        assert "bert" in (stored.folder / "stdin.rejected").read_text()

    @pytest.mark.parametrize(
        ("file", "rejected"),
        [
            ("/dev/stdin", "stdin.rejected"),
            ("/dev/fd/3", "stdin.rejected"),
            ("/proc/self/fd/3", "stdin.rejected"),
            ("/dev/shm/list.csv", "/dev/shm/list.csv.rejected"),
        ],
    )
    def test_rejected_lines_go_beside_the_file(self, file: str, rejected: str) -> None:
        assert rejected_of(Path(file)) == Path(rejected)

    def test_a_slow_pipe_can_be_interrupted(self, stored: Stored) -> None:
        process = started(stored, "suppress", "import", "-")
        assert process.stdin is not None
        process.stdin.write(GOOD)
        process.stdin.flush()
        wait_for((stored.folder / "stdin.rejected").exists, "the import to begin")
        wait_for(lambda: [*stored.folder.rglob("suppression.key")], "the store to be created")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130

    @pytest.mark.parametrize("name", ["list.csv", "list.ndjson"])
    def test_lines_that_end_with_cr_only_are_read(self, stored: Stored, name: str) -> None:
        content = GOOD if name == "list.csv" else (
            '{"address":"anna@people.example","scope":"all","origin":"manual"}\n'
            '{"address":"bert@people.example","scope":"all","origin":"manual"}\n'
        )  # fmt: skip
        path = stored.file(name, content.replace("\n", "\r"))
        result = stored.run("suppress", "import", path)
        assert f"{path}: its lines end in CR only; each is read as a line" in result.stderr
        assert suppressed(stored) == content.count("@")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("", "no rows: it is empty"),
            ("\n\r\n", "no rows: it is empty, or contains only blank lines"),
            (HEADER, "no rows below its header 'address,scope,origin,since'"),
            (HEADER.strip() + "\r", "no rows below its header"),
        ],
    )
    def test_a_file_without_rows_is_an_error(self, stored: Stored, content: str, says: str) -> None:
        path = stored.file("list.csv", content)
        aside = stored.file("list.csv.rejected", "# line 7: x\ny\n")
        assert f"Error: {path}: {says}" in stored.run("suppress", "import", path, code=1).stderr
        assert Path(aside).exists()
        assert stored.json("suppress", "import", path, code=1)["lines"] == 0

    def test_a_mapping_can_name_the_keys_of_ndjson(self, stored: Stored) -> None:
        mapping = stored.file("mapping.toml", "[columns]\n'properties.Mail' = 'address'\n")
        lines = ['{"id":7,"properties":{"mail":"anna@people.example"}}', "[]", ""]
        path = stored.file("people.ndjson", "\n".join(lines))
        done = stored.json("contact", "import", path, "--mapping", mapping, code=1)
        assert (done["added"], done["rejected"]) == (1, 1)
        rejected = Path(f"{path}.rejected").read_text()
        assert rejected.startswith("properties.mail\n# line 2: not a JSON object on one line")
        stored.run("contact", "show", "anna@people.example")

    def test_a_missing_file_is_wrong_usage(self, stored: Stored) -> None:
        error = stored.run("suppress", "import", "no-such-file", code=2).stderr
        assert "File 'no-such-file' does not exist" in error


def test_a_failing_import_says_how_far_it_got(stored: Stored) -> None:
    """A file size limit stands in for the disk: a write past it fails."""
    good = "".join(f"user{n}@people.example,all,complaint\n" for n in range(BATCH))
    bad = "x" * 2_000 + ",all,complaint\n"
    path = stored.file("list.csv", HEADER + good + bad * 1_500)
    limit = 2 * 1024 * 1024
    stored.run("suppress", "add", "anna@people.example")
    done = subprocess.run(
        [*IN_SMALL_BATCHES, "suppress", "import", path, "--config", str(stored.config_path)],
        capture_output=True,
        cwd=REPOSITORY,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"Error: {path}.rejected: File too large: before that {BATCH} added"
    )
    assert "; run it again for the rest with --resume 01" in done.stderr
    assert done.stderr.count("\n") == 1
    assert suppressed(stored) == BATCH + 1
