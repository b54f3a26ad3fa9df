"""What is there, and what nobody can tell."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpproxy.disk import exists, is_dir, is_file
from tests.kit.relay import REPOSITORY


def test_what_is_there(tmp_path: Path) -> None:
    file, gone = tmp_path / "file", tmp_path / "gone"
    file.touch()
    (loop := tmp_path / "loop").symlink_to(loop)
    (dangling := tmp_path / "dangling").symlink_to(gone)
    for path in (gone, file / "below", loop, dangling, Path("a\0b")):
        assert (exists(path), is_dir(path), is_file(path)) == (False, False, False), path
    assert (exists(file), is_dir(file), is_file(file)) == (True, False, True)
    assert (exists(tmp_path), is_dir(tmp_path), is_file(tmp_path)) == (True, True, False)


@pytest.mark.parametrize("question", [exists, is_dir, is_file])
def test_what_nobody_can_tell_is_an_error(question: Callable[[Path], bool], tmp_path: Path) -> None:
    """A database in a folder that may not be entered would count as missing, and nobody in it as
    suppressed."""
    with pytest.raises(OSError, match="File name too long"):
        question(tmp_path / ("x" * 300))


def test_nothing_asks_pathlib() -> None:
    """Since Python 3.14 it says no to both."""
    asks = re.compile(r"\.(?:exists|is_file|is_dir)\(\)")
    assert [
        f"{path}:{number}"
        for path in sorted((REPOSITORY / "smtpproxy").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asks.search(line)
    ] == []
