"""Where a key is read from: a file named by a variable, a systemd credential, state_dir."""

from datetime import date
from pathlib import Path

import pytest

from smtpproxy.store.key_files import add_key, drop_keys, load_keys, load_or_create_keys
from smtpproxy.store.link_keys import LinkReader, add_link_key, ensure_link_keys, load_link_keys
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured

DAY = date(2026, 3, 1)
VARIABLE = "SMTPPROXY_SUPPRESSION_KEY_FILE"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Credentials as of systemd: the unit's user reads by an ACL, shown as the group's right."""
    folder = tmp_path / "credentials"
    load_or_create_keys(folder)
    ensure_link_keys(folder, DAY)
    for file in folder.iterdir():
        file.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_a_credential_is_read_and_no_key_is_created_beside_it(
    credentials: Path, state: Path
) -> None:
    state.mkdir()
    assert load_or_create_keys(state).newest.fingerprint
    assert not ensure_link_keys(state, DAY)
    assert load_link_keys(state)[1].secret in bytes.fromhex(
        (credentials / "unsubscribe.key").read_text().split()[-1]
    )
    assert list(state.iterdir()) == []


def test_the_variable_comes_first(
    credentials: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = credentials.parent / "suppressions"
    named.write_bytes((credentials / "suppression.key").read_bytes())
    named.chmod(0o400)
    monkeypatch.setenv(VARIABLE, str(named))
    (credentials / "suppression.key").chmod(0o444)  # not consulted
    assert load_keys(state).versions == (1,)
    named.chmod(0o444)
    with pytest.raises(StoreMisconfigured, match=f"{named}: mode 0444"):
        load_keys(state)
    monkeypatch.setenv(VARIABLE, str(named / "gone"))
    with pytest.raises(StoreMisconfigured, match=f"{VARIABLE}: .* is not there"):
        load_keys(state)


def test_different_keys_in_two_places_are_refused_naming_both(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_or_create_keys(state)
    ours = load_keys(state).newest.fingerprint
    other = tmp_path / "other"
    load_or_create_keys(other)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(other))
    with pytest.raises(StoreMisconfigured) as caught:
        load_keys(state)
    text = str(caught.value)
    assert str(other / "suppression.key") in text
    assert str(state / "suppression.key") in text
    assert "remove one of the two" in text
    assert load_keys(state, alone=True).newest.fingerprint == ours
    keys = (state / "suppression.key").read_text()
    (other / "suppression.key").write_text("# written elsewhere\n" + keys)
    assert load_keys(state).newest.fingerprint == ours


def test_a_credential_is_never_written(credentials: Path, state: Path) -> None:
    before = (credentials / "suppression.key").read_bytes()
    live = {1: load_keys(state).newest.fingerprint}
    for make in (lambda: add_key(state, live), lambda: add_link_key(state, DAY)):
        with pytest.raises(StoreInaccessible, match="a systemd credential is read-only"):
            make()
    assert (credentials / "suppression.key").read_bytes() == before
    # Somebody added the next key at its origin: it is used, and the old one is left in place.
    with_next = before + b"2 " + b"ab" * 32 + b"\n"
    (credentials / "suppression.key").chmod(0o600)
    (credentials / "suppression.key").write_bytes(with_next)
    assert add_key(state, live).versions == (1, 2)
    assert drop_keys(state, [2]).versions == (1, 2)
    assert (credentials / "suppression.key").read_bytes() == with_next


def test_a_named_file_is_written_and_keeps_its_permissions(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_link_keys(tmp_path, DAY)
    named = (tmp_path / "unsubscribe.key").rename(tmp_path / "links")
    named.chmod(0o440)
    monkeypatch.setenv("SMTPPROXY_UNSUBSCRIBE_KEY_FILE", str(named))
    assert add_link_key(state, DAY).version == 2
    assert named.stat().st_mode & 0o777 == 0o440
    assert not state.exists()
    reader = LinkReader(state)
    assert reader.open_record(reader.seal_record(b"a record", b"test"), b"test") == b"a record"
