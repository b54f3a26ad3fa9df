"""The maildir keeps whatever arrives until it is settled, whoever delivers it."""

import os
import time
from pathlib import Path

import pytest

from smtpproxy.store.maildir import Maildir


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    maildir = Maildir(tmp_path / "feedback")
    maildir.make()
    return maildir


def name(letter: str) -> str:
    """A file name like those of our own deliveries."""
    return letter * 26


def ids(maildir: Maildir, limit: int = 9) -> list[str]:
    return [each.id for each in maildir.arrived(limit, 100)]


def test_mail_stays_until_it_is_settled(maildir: Maildir, tmp_path: Path) -> None:
    for letter in "BAC":
        maildir.deliver(name(letter), b"content of " + letter.encode())
    first = maildir.arrived(2, 100)
    assert [(each.id, each.content, each.size) for each in first] == [
        (name("A"), b"content of A", 12),
        (name("B"), b"content of B", 12),
    ]
    assert (maildir.waiting(9), maildir.waiting(2)) == (3, 2)
    maildir.settle(name("A"))
    assert ids(maildir) == [name("B"), name("C")]
    assert maildir.waiting(9) == 2
    assert list(maildir.settled()) == [name("A")]
    kept = maildir.read(name("A"), 100)
    assert kept is not None
    assert kept.content == b"content of A"
    assert not list((tmp_path / "feedback" / "tmp").iterdir())
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*:2,S")} == {0o600}


def test_deliveries_by_other_programs_are_read(maildir: Maildir, tmp_path: Path) -> None:
    foreign = "1764359123.V801I2c0aM66932.mx.example"
    (tmp_path / "feedback/new" / f"{foreign}:2,").write_bytes(b"x" * 500)
    (tmp_path / "feedback/new/.hidden").write_bytes(b"x")
    (tmp_path / "feedback/new/link").symlink_to("/etc/passwd")
    assert ids(maildir) == [], "it may still be incomplete"
    written = time.time()
    os.utime(tmp_path / "feedback" / "new" / f"{foreign}:2,", (written - 1, written - 1))
    (one,) = maildir.arrived(9, 100)
    assert (one.id, len(one.content), one.size) == (foreign, 100, 500)
    maildir.settle(foreign)
    assert ids(maildir) == []
    assert maildir.read(foreign, 9) is not None
    maildir.give_back(foreign)
    assert maildir.read(foreign, 9) is not None
    assert maildir.read(foreign, 9) is not None
    maildir.settle(foreign)
    maildir.remove([foreign, "gone"])
    assert maildir.read(foreign, 9) is None


def test_an_existing_name_is_not_overwritten(maildir: Maildir, tmp_path: Path) -> None:
    (tmp_path / "feedback" / "tmp" / "a").write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        maildir.deliver("a", b"ours")
    assert (tmp_path / "feedback" / "tmp" / "a").read_bytes() == b"another's"
    assert ids(maildir) == []
