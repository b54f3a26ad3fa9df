"""`store copy` and `store reopen`: what they are told."""

from pathlib import Path

import pytest

from tests.cli.stored import Stored

FILE = "sqlite:////srv/smtpproxy.db"
WRONG = (
    "postgresql://owner:secret@db:port/smtpproxy",
    "postgresql://owner:secret@[db/smtpproxy",
    "postgresql://owner:sec/ret@db/smtpproxy",
    "mysql://owner:secret@db/smtpproxy",
    "sqlite://",
)


@pytest.mark.parametrize("url", WRONG)
def test_a_url_that_cannot_be_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    stored = Stored(tmp_path)
    for words in (("copy", FILE, url), ("copy", url, FILE), ("reopen", url)):
        said = stored.run("store", *words, code=2).stderr
        assert "Invalid value for" in said
        assert "sec" not in said
