"""The lock files: everything pyproject.toml asks for, with the hash of each file."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.kit.relay import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
RUNTIME = ("requirements.lock", "requirements-build.lock")
DEVELOPMENT = "requirements-dev.lock"
_PINNED = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[a-z0-9.!+]+)(?: ; (?P<marker>[^\\]+))?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n",
    re.MULTILINE,
)


def locked(name: str) -> dict[str, re.Match[str]]:
    return {found["name"]: found for found in _PINNED.finditer((REPOSITORY / name).read_text())}


def unmet(wanted: Iterable[str], pins: dict[str, re.Match[str]]) -> list[str]:
    """Follow the requirements of installed packages; return those the lock does not meet."""
    found, seen, todo = [], set(), list(wanted)
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        pin = pins.get(name)
        if pin is None or not requirement.specifier.contains(pin["version"]):
            found.append(str(requirement))
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        try:
            more = requires(name) or ()
        except PackageNotFoundError:  # a build tool that is not installed here
            continue
        for text in more:
            marker = Requirement(text).marker
            if marker is None or any(
                marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
            ):
                todo.append(text.partition(";")[0])
    return found


def test_the_lock_meets_the_projects_requirements() -> None:
    assert unmet(PROJECT["project"]["dependencies"], locked("requirements.lock")) == []
    build = [*PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"]["build"]]
    assert unmet(build, locked("requirements-build.lock")) == []
    extras = PROJECT["project"]["optional-dependencies"]
    tools = [it for it in map(Requirement, extras["dev"]) if not it.marker or it.marker.evaluate()]
    assert unmet(map(str, tools), locked(DEVELOPMENT)) == []


def test_developers_use_the_released_versions() -> None:
    runtime, tools = locked("requirements.lock"), locked(DEVELOPMENT)
    assert {name: tools[name]["version"] for name in runtime} == {
        name: pin["version"] for name, pin in runtime.items()
    }


def test_a_lock_that_lacks_something_is_detected() -> None:
    pins = locked("requirements.lock")
    assert unmet(["uvicorn>=999"], pins) == ["uvicorn>=999"]
    assert unmet(["uvicorn"], {k: v for k, v in pins.items() if k != "h11"})
    assert unmet(["not-locked"], pins) == ["not-locked"]


@pytest.mark.parametrize("name", [*RUNTIME, DEVELOPMENT])
def test_every_line_is_a_release_with_its_hashes(name: str) -> None:
    """pip accepts the whole file or nothing, and is configured elsewhere for its index."""
    text = (REPOSITORY / name).read_text()
    rest = _PINNED.sub("", text).splitlines()
    assert [line for line in rest if not line.startswith("#")] == []
    assert "://" not in text
    assert "index" not in text
    assert locked(name)


@pytest.mark.parametrize("name", RUNTIME)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_lock_is_complete_on_every_supported_machine(
    name: str, python: str, machine: str
) -> None:
    here = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    out = [
        pin
        for pin, found in locked(name).items()
        if found["marker"] and not Marker(found["marker"].strip()).evaluate(here)
    ]
    assert out == []


def test_installed_packages_match_the_lock() -> None:
    install = "--require-hashes -r requirements.lock -r requirements-build.lock"
    project = "--no-deps --no-build-isolation"
    for name in ("README.md", "docs/operations.md"):
        text = (REPOSITORY / name).read_text()
        assert f"pip install {install}" in text, name
        assert f"pip install {project}" in text, name
    makefile = (REPOSITORY / "Makefile").read_text()
    assert f"install-packages $(BIN) {install}" in makefile
    assert f"install-packages $(BIN) {project}" in makefile
