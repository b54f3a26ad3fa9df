"""The repository: its files, its documents, and the wheel that users install."""

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.kit.processes import run
from tests.kit.relay import REPOSITORY

LONGEST = 400
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(?:root|work)/\w|/home/(?!\w+\.example)\w|/tmp/\w")


def tracked() -> list[Path]:
    """Every file under version control; without git, every source file."""
    done = run("git", "ls-files", "-z", cwd=REPOSITORY)
    if done.returncode != 0:
        return [path for path in (REPOSITORY / "smtpproxy").rglob("*.py") if path.is_file()]
    names = [name for name in done.stdout.split("\0") if name]
    return [path for name in names if (path := REPOSITORY / name).is_file()]


def lines_naming(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line) and path != Path(__file__):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}")
    return found


def test_no_file_is_too_long_to_read() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): length
        for path in (REPOSITORY / "smtpproxy").rglob("*.py")
        if (length := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long


def test_no_file_names_a_machine_s_own_path() -> None:
    assert lines_naming(MACHINE_PATHS) == []


def test_generated_files_are_not_tracked() -> None:
    generated = [
        str(path.relative_to(REPOSITORY))
        for path in tracked()
        if path.suffix in (".pyc", ".db", ".log", ".whl")
        or {"build", "dist", "__pycache__"} & set(path.relative_to(REPOSITORY).parts[:-1])
    ]
    assert generated == []


def test_the_changelog_has_a_place_for_the_next_change() -> None:
    assert re.search(r"^## \[?Unreleased\]?", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)


def test_documents_cited_in_messages_exist() -> None:
    """Users see these names, as in `Source: docs/law.md A31`."""
    texts = {path: path.read_text("utf-8") for path in (REPOSITORY / "smtpproxy").rglob("*.*")
             if path.suffix in (".py", ".toml")}  # fmt: skip
    cited = {
        name
        for text in texts.values()
        for name in re.findall(r"\b([a-z0-9][a-z0-9-]*\.md)\b", text)
    }
    there = {
        path.name
        for folder in ("docs", "smtpproxy")
        for path in (REPOSITORY / folder).rglob("*.md*")
    }
    assert cited
    assert cited - there == set()


def test_the_changelog_says_everything_once() -> None:
    entries = re.split(r"^(?=- |#)", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.M)
    twice = [entry for entry in entries if entry.startswith("- ") and entries.count(entry) > 1]
    assert twice == []


def test_every_decision_record_is_listed_and_numbered_once() -> None:
    records = sorted(path.name for path in (REPOSITORY / "docs/adr").glob("[0-9]*.md"))
    index = (REPOSITORY / "docs/adr/README.md").read_text()
    assert records
    assert [name for name in records if f"({name})" not in index] == []
    assert re.findall(r"\(([0-9][^)]*\.md)\)", index) == records
    numbers = [name[:4] for name in records]
    assert numbers == [f"{number:04}" for number in range(1, len(records) + 1)]


def test_the_readme_names_the_two_commands_to_begin_with() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def test_files_named_in_the_flow_exist() -> None:
    files = [path.as_posix() for path in (REPOSITORY / "smtpproxy").rglob("*.py")]
    named = set(re.findall(r"`([\w/]+\.py)`", (REPOSITORY / "docs/flow.md").read_text()))
    assert not [name for name in named if not any(file.endswith(f"/{name}") for file in files)]


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not (path.parent / target).exists():
                broken.append(f"{path.relative_to(REPOSITORY)}: {target}")
    assert broken == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by pip as in README.md."""
    out = tmp_path_factory.mktemp("wheel")
    done = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "-w", str(out), ".", cwd=REPOSITORY, timeout=150,
    )  # fmt: skip
    if done.returncode != 0 and "hatchling" in done.stderr:
        pytest.skip("the build backend is not installed")
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_has_only_the_product(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(REPOSITORY))
        for path in tracked()
        if path.is_relative_to(REPOSITORY / "smtpproxy")
    }
    assert names >= wanted
    assert {name.partition("/")[0] for name in names} == {"smtpproxy"}
    assert "smtpproxy/py.typed" in names
    assert any(name.endswith(".sql") for name in names)
    assert any(name.endswith(".toml") for name in names)


def test_the_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """Away from the repository, with the dependencies of this environment."""
    site = tmp_path / "site"
    done = run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
        "--no-compile", "--target", str(site), str(wheel), timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    config = tmp_path / "smtpproxy.toml"
    config.write_text('[server]\nhostname = "relay.example"\nstate_dirr = "/x"\n')
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import smtpproxy\n"
        "assert smtpproxy.__file__.startswith(sys.path[0]), smtpproxy.__file__\n"
        "from smtpproxy.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(site), "check", "--config", str(config)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "state_dirr" in done.stdout + done.stderr


def test_no_two_migrations_have_one_number() -> None:
    for folder in (REPOSITORY / "smtpproxy" / "store").glob("*/migrations"):
        numbers = [path.name[:4] for path in sorted(folder.glob("*.sql"))]
        assert numbers == [f"{n:04}" for n in range(1, len(numbers) + 1)], folder


def test_a_migration_that_landed_is_never_edited() -> None:
    for folder in (REPOSITORY / "smtpproxy" / "store").glob("*/migrations"):
        listed = dict(
            reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()
        )
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob("*.sql"))
        }
        assert found == listed, (
            f"{folder}: databases that had a migration never have it again, so write a new one; "
            "a new one goes into the list: sha256sum NAME.sql >> SHA256SUMS"
        )
