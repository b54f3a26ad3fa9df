"""Output files are complete or absent."""

from pathlib import Path

import pytest

from smtpproxy.scrub.run import Drafts


def test_a_file_appears_at_the_end_readable_only_by_its_owner(tmp_path: Path) -> None:
    place = tmp_path / "out.csv"
    place.write_text("old")
    with Drafts() as drafts:
        drafts.open(place).write(b"new")
        assert place.read_text() == "old"
        drafts.commit()
    assert place.read_text() == "new"
    assert place.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [place]


def test_nothing_is_left_of_an_unfinished_file(tmp_path: Path) -> None:
    place = tmp_path / "out.csv"

    def interrupted() -> None:
        with Drafts() as drafts:
            drafts.open(place).write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with Drafts() as drafts:
        drafts.open(tmp_path / "link").write(b"x")
        drafts.commit()
    assert (tmp_path / "real").read_bytes() == b"x"
    assert (tmp_path / "link").is_symlink()


def test_a_device_or_pipe_is_written_to_directly(tmp_path: Path) -> None:
    with Drafts() as drafts:
        drafts.open(Path("/dev/null")).write(b"x")
        drafts.commit()
    assert Path("/dev/null").is_char_device()
