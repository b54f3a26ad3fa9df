"""The users file, and limits on failed logins."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpproxy.auth import Attempts, Authenticator, Outcome
from smtpproxy.auth.users import (
    PasswordChecker,
    TooBusy,
    User,
    Users,
    UsersError,
    empty,
    read,
    verify,
    write,
)
from smtpproxy.settings import AuthSettings
from smtpproxy.wire.sasl import CheckPassword, Proven

PASSWORD = "pass wörd"
SHOP = User.of("shop", PASSWORD)


def stored(path: Path) -> Users:
    users = empty()
    write(path, Users({"shop": SHOP}, users.key))
    return read(path)


def test_the_file_is_read_back_and_holds_no_password(tmp_path: Path) -> None:
    path = tmp_path / "users"
    users = stored(path)
    assert users.by_name == {"shop": SHOP}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PASSWORD not in path.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [path]
    assert SHOP.hash not in repr(users)
    assert "scram" not in repr(users)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_users_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "users"
    stored(path)
    path.chmod(mode)
    with pytest.raises(UsersError, match=f"open to others \\(mode {mode:o}\\): chmod 600"):
        read(path)


_KEY = "A" * 43 + "="


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("shop", "line 4 cannot be read"),
        ("shop nonsense SCRAM-SHA-256$1:AA==$AA==:AA==", "line 4 cannot be read"),
        (f"new {SHOP.hash} SCRAM-SHA-1$4096:AAAA${_KEY}:{_KEY}", "line 4 cannot be read"),
        (f"a\0b {SHOP.hash} SCRAM-SHA-256$4096:AAAA${_KEY}:{_KEY}", "line 4 cannot be read"),
        (f"new {SHOP.hash} SCRAM-SHA-256$4096:AAAA${_KEY}:AAAA", "line 4 cannot be read"),
        (f"new {SHOP.hash} SCRAM-SHA-256$4096:${_KEY}:{_KEY}", "line 4 cannot be read"),
        (f"new {SHOP.hash} SCRAM-SHA-256$0:AAAA${_KEY}:{_KEY}", "line 4 cannot be read"),
        (f"new nonsense SCRAM-SHA-256$4096:AAAA${_KEY}:{_KEY}", "line 4 cannot be read"),
        (None, "line 4: the user appears twice"),
        ("%key 00", "has no line %key"),
    ],
)
def test_a_faulty_line_is_reported_without_its_content(
    tmp_path: Path, line: str | None, wrong: str
) -> None:
    path = tmp_path / "users"
    stored(path)
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([*lines, line or lines[-1]]) + "\n\n", "utf-8")
    with pytest.raises(UsersError, match=wrong) as caught:
        read(path)
    assert "argon2" not in str(caught.value)


def test_empty_lines_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "users"
    stored(path)
    with path.open("a") as file:
        file.write(f" \nnew {SHOP.hash} SCRAM-SHA-256$4096:AAAA${_KEY}:{_KEY}\n")
    assert set(read(path).by_name) == {"shop", "new"}


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsersError, match=str(tmp_path)):
        read(tmp_path)


def test_a_missing_users_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsersError, match="does not exist yet: smtpproxy user add"):
        read(tmp_path / "users")


def test_passwords_are_normalized_before_comparison() -> None:
    assert verify(SHOP, PASSWORD)
    assert verify(SHOP, "pass wo\u0308rd"), "the same letters from another keyboard"
    assert not verify(SHOP, "pass word")
    assert not verify(None, PASSWORD)
    with pytest.raises(ValueError, match="is empty"):
        User.of("shop", "")


async def test_a_right_password_is_remembered_until_the_hash_changes() -> None:
    clock = [0.0]
    checker = PasswordChecker(lambda: clock[0])
    assert await checker.check(SHOP, PASSWORD)
    assert len(checker._right) == 1
    assert not await checker.check(SHOP, "wrong")
    assert not await checker.check(None, PASSWORD)
    assert not await checker.check(User("shop", User.of("shop", "new").hash, SHOP.scram), PASSWORD)
    assert len(checker._right) == 1
    checker.close()
    assert await checker.check(SHOP, PASSWORD), "without a thread"
    clock[0] = 300.0
    with pytest.raises(RuntimeError):  # no longer remembered, and the threads are gone
        await checker.check(SHOP, PASSWORD)


async def test_too_many_passwords_at_once_are_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpproxy.auth.users._WAITING", 0)
    checker = PasswordChecker(lambda: 0.0)
    with pytest.raises(TooBusy):
        await checker.check(SHOP, PASSWORD)
    checker.close()


async def test_the_second_of_two_concurrent_passwords_is_deferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smtpproxy.auth.users._WAITING", 1)
    checker = PasswordChecker(lambda: 0.0)
    two = [checker.check(SHOP, "wrong") for _ in range(2)]
    first, second = await asyncio.gather(*two, return_exceptions=True)
    assert (first, type(second)) == (False, TooBusy)
    assert await checker.check(SHOP, PASSWORD)
    checker.close()


async def test_the_oldest_remembered_password_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smtpproxy.auth.users._REMEMBERED", 1)
    checker = PasswordChecker(lambda: 0.0)
    for name in ("first", "second"):
        assert await checker.check(User(name, SHOP.hash, SHOP.scram), PASSWORD)
    assert len(checker._right) == 1
    checker.close()
    assert await checker.check(User("second", SHOP.hash, SHOP.scram), PASSWORD)


@pytest.fixture
def authenticator(tmp_path: Path) -> Iterator[Authenticator]:
    stored(tmp_path / "users")
    settings = AuthSettings(tmp_path / "users", max_failures_per_user=1)
    authenticator = Authenticator(settings, 1, lambda error: None)
    yield authenticator
    authenticator.close()


async def test_a_barred_user_is_not_even_checked(authenticator: Authenticator) -> None:
    right = CheckPassword("shop", PASSWORD), Proven("shop")
    for step in right:
        assert await authenticator.judge(step, "192.0.2.1") == Outcome("ok", "shop")
    await authenticator.judge(CheckPassword("shop", "wrong"), "192.0.2.2")
    for step in right:
        assert await authenticator.judge(step, "192.0.2.3") == Outcome("limited")


async def test_a_user_removed_during_the_login_is_refused(authenticator: Authenticator) -> None:
    assert await authenticator.judge(Proven("gone"), "192.0.2.1") == Outcome("failed")


async def test_a_password_that_cannot_be_checked_now_does_not_count_as_a_failure(
    authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.auth.users._WAITING", 0)
    for _ in range(2):
        step = CheckPassword("shop", PASSWORD)
        assert await authenticator.judge(step, "192.0.2.1") == Outcome("busy")


def attempts(clock: list[float]) -> Attempts:
    return Attempts(per_address=3, per_user=2, window=60.0, now=lambda: clock[0])


def test_an_address_is_barred_while_its_failures_are_recent() -> None:
    clock = [0.0]
    counted = attempts(clock)
    for number in range(3):
        assert counted.barred("192.0.2.1") is None
        counted.failed("192.0.2.1", f"user{number}")
        clock[0] += 1
    assert counted.barred("192.0.2.1") == "address"
    assert counted.barred("192.0.2.2") is None
    clock[0] = 60.0
    assert counted.barred("192.0.2.1") is None


def test_ipv6_clients_are_barred_by_network() -> None:
    counted = attempts([0.0])
    for host in ("2001:db8::1", "2001:db8::2", "2001:db8::ffff:1"):
        counted.failed(host, None)
    assert counted.barred("2001:db8::3") == "address"
    assert counted.barred("2001:db8:0:1::3") is None
    for _ in range(3):
        counted.failed("no:address", None)
    assert counted.barred("no:address") == "address"
    assert counted.barred("another:address") is None


def test_a_user_is_barred_except_from_their_usual_addresses() -> None:
    clock = [0.0]
    counted = attempts(clock)
    counted.succeeded("192.0.2.1", "shop")
    clock[0] = 86_399.0
    counted.failed("192.0.2.2", "shop")
    counted.failed("192.0.2.3", "shop")
    assert counted.barred("192.0.2.4", "shop") == "user"
    assert counted.barred("192.0.2.1", "shop") is None
    assert counted.barred("192.0.2.4", "other") is None
    clock[0] = 86_400.0
    assert counted.barred("192.0.2.1", "shop") == "user", "usual until a day ago"


def test_memory_for_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpproxy.auth._REMEMBERED", 10)
    counted = attempts([0.0])
    for number in range(100):
        counted.failed(f"192.0.2.{number}", f"user{number}")
        counted.failed("192.0.2.250", None)
        assert number < 2 or counted.barred("192.0.2.250") == "address"
        counted.succeeded(f"192.0.2.{number}", f"user{number}")
        counted.succeeded("192.0.2.250", "shop")
    newest = [f"user{number}" for number in range(90, 100)]
    assert list(counted._users) == newest
    homes = [*(user for user, _ in counted._succeeded)]
    assert homes == [*newest[1:], "shop"], "the oldest are forgotten first"
    assert len(counted._addresses) == 10
    assert len(counted._addresses["192.0.2.250"]) == 3


def test_the_file_keeps_its_owner(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may change owners")
    path = tmp_path / "users"
    stored(path)
    os.chown(path, 1234, 1234)
    stored(path)
    assert path.stat().st_uid == 1234


def test_ctrl_c_leaves_no_temporary_file_with_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "users")
    assert not list(tmp_path.iterdir())
