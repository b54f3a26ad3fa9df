"""The maildir: what came stays until it was dealt with, whoever delivers."""

from pathlib import Path

import pytest

from smtpproxy.store.maildir import Maildir


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    maildir = Maildir(tmp_path / "feedback")
    maildir.make()
    return maildir


def ids(maildir: Maildir, limit: int = 9) -> list[str]:
    return [each.id for each in maildir.arrived(limit, 100)]


def test_what_was_delivered_is_there_until_it_is_settled(maildir: Maildir, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        maildir.deliver(name, b"content of " + name.encode())
    first = maildir.arrived(2, 100)
    assert [(each.id, each.content, each.size) for each in first] == [
        ("a", b"content of a", 12),
        ("b", b"content of b", 12),
    ]
    maildir.settle("a")
    assert ids(maildir) == ["b", "c"]
    assert list(maildir.settled()) == ["a"]
    kept = maildir.read("a", 100)
    assert kept is not None
    assert kept.content == b"content of a"
    assert not list((tmp_path / "feedback/tmp").iterdir())
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*:2,S")} == {0o600}


def test_other_programs_deliver_as_they_do(maildir: Maildir, tmp_path: Path) -> None:
    name = "1764359123.V801I2c0aM66932.mx.example"
    (tmp_path / "feedback/new" / f"{name}:2,").write_bytes(b"x" * 500)
    (tmp_path / "feedback/new/.hidden").write_bytes(b"x")
    (tmp_path / "feedback/new/link").symlink_to("/etc/passwd")
    (one,) = maildir.arrived(9, 100)
    assert (one.id, len(one.content), one.size) == (name, 100, 500)
    maildir.settle(name)
    assert ids(maildir) == []
    assert maildir.read(name, 9) is not None
    maildir.give_back(name)
    assert maildir.read(name, 9) is not None
    assert ids(maildir) == [name]
    maildir.settle(name)
    maildir.remove([name, "gone"])
    assert maildir.read(name, 9) is None


def test_a_name_that_is_taken_overwrites_nothing(maildir: Maildir, tmp_path: Path) -> None:
    (tmp_path / "feedback" / "tmp" / "a").write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        maildir.deliver("a", b"ours")
    assert (tmp_path / "feedback" / "tmp" / "a").read_bytes() == b"another's"
    assert ids(maildir) == []
