"""The file of unsubscribe link keys: made once, added to, never replaced."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

from smtpproxy.mail.unsubscribe_token import TokenError, Unsubscription
from smtpproxy.store.link_keys import (
    LINK_KEY_FILE,
    LinkReader,
    add_link_key,
    ensure_link_keys,
    link_ring,
    load_link_keys,
)
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured

DAY = date(2026, 3, 1)
TOLD = Unsubscription("jeanne@people.example", "marketing", "01JKB3Q00020CT1R0RZ1H6E7A8", b"abcd")


def test_the_file_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    assert ensure_link_keys(tmp_path, DAY)
    before = (tmp_path / LINK_KEY_FILE).read_bytes()
    assert not ensure_link_keys(tmp_path, DAY)
    assert (tmp_path / LINK_KEY_FILE).read_bytes() == before
    assert (tmp_path / LINK_KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [(key.version, key.made) for key in load_link_keys(tmp_path).values()] == [(1, DAY)]
    assert [path.name for path in tmp_path.iterdir()] == [LINK_KEY_FILE]


def test_concurrent_starts_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ensure_link_keys(tmp_path, DAY), range(8)))
    assert sum(made) == 1
    assert len(load_link_keys(tmp_path)) == 1


def test_adding_a_key_keeps_the_others(tmp_path: Path) -> None:
    ensure_link_keys(tmp_path, DAY)
    (first,) = load_link_keys(tmp_path).values()
    old = link_ring(tmp_path).seal(TOLD)
    added = add_link_key(tmp_path, date(2027, 1, 1))
    assert list(load_link_keys(tmp_path).values()) == [first, added]
    ring = link_ring(tmp_path)
    assert ring.sealing == 2
    assert ring.open(old) == TOLD
    assert ring.seal(TOLD) != old


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-5],
        lambda text: text + text.splitlines()[-1] + "\n",  # a repeated version
        lambda text: text.replace("2026-03-01", "2026-13-01"),
        lambda text: text.replace("\n1 ", "\n0 "),
        lambda text: text.replace("\n1 ", "\n256 "),
        lambda text: text + "and more\n",
    ],
)
def test_an_invalid_file_is_never_replaced(tmp_path: Path, spoil: object) -> None:
    ensure_link_keys(tmp_path, DAY)
    file = tmp_path / LINK_KEY_FILE
    assert callable(spoil)
    text = spoil(file.read_text())
    file.write_text(text)
    for use in (load_link_keys, lambda f: ensure_link_keys(f, DAY), lambda f: add_link_key(f, DAY)):
        with pytest.raises(StoreMisconfigured, match="restore it from the backup"):
            use(tmp_path)
    assert file.read_text() == text


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ensure_link_keys(tmp_path, DAY)
    (tmp_path / LINK_KEY_FILE).chmod(0o640)
    with pytest.raises(StoreMisconfigured, match="make it 0600"):
        load_link_keys(tmp_path)


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreInaccessible):
        ensure_link_keys(tmp_path / "gone", DAY)
    with pytest.raises(StoreMisconfigured, match="missing"):
        load_link_keys(tmp_path)


def test_a_reader_without_keys_accepts_no_link_until_there_is_one(tmp_path: Path) -> None:
    reader = LinkReader(tmp_path)
    with pytest.raises(TokenError):
        reader.open("A" * 60)
    ensure_link_keys(tmp_path, DAY)
    assert reader.open(link_ring(tmp_path).seal(TOLD)) == TOLD


def test_a_key_does_not_show_its_secret(tmp_path: Path) -> None:
    ensure_link_keys(tmp_path, DAY)
    [key] = load_link_keys(tmp_path).values()
    assert repr(key) == f"LinkKey(1, {key.fingerprint})"
