"""Writing a stream's mode into the configuration changes nothing else."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smtpproxy.config import load
from smtpproxy.config.mode import CannotChange, edited
from smtpproxy.disk import locked
from smtpproxy.policy.model import Mode
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

HEAD = """\
# our relay
[server]
hostname = "relay.example"
state_dir = "/var/lib/smtpproxy"   # keys, store

[[listener]]
name = "apps"
address = "127.0.0.1:2525"
streams = ["offers", "letters"]

[upstream]
address = "127.0.0.1:10025"

"""
POLICY = '[policy]\nmode = "observe"  # for now\n\n'
STREAMS = """\
[[stream]]
name = "offers"
class = "marketing"     # what we sell
purpose = "offers"

# what people subscribe to
[[stream]]
name = "letters"
class = "marketing"
purpose = "letters"
mode = "enforce" # since May
[stream.label]
en = "Letters"
"""


def lines(old: str, new: str) -> tuple[list[str], list[str]]:
    """The removed lines and the added ones."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    return [x for x in before if x not in after], [x for x in after if x not in before]


@pytest.mark.parametrize(
    ("text", "name", "mode", "gone", "come"),
    [
        (HEAD + POLICY + STREAMS, "offers", "enforce", [], ['mode = "enforce"\n']),
        (HEAD + POLICY + STREAMS, "letters", "observe",
         ['mode = "enforce" # since May\n'], ['mode = "observe" # since May\n']),
        (HEAD + STREAMS, "offers", "observe", [], ['mode = "observe"\n']),
        # for mail without a stream: other streams keep their mode
        (HEAD + POLICY + STREAMS, "default", "enforce",
         ['mode = "observe"  # for now\n'],
         ['mode = "enforce"  # for now\n', 'mode = "observe"\n']),
        (HEAD + STREAMS, "default", "observe", [],
         ['mode = "enforce"\n', "[policy]\n", 'mode = "observe"\n']),
        (HEAD + "[policy]\nrulebook = 'fr' # ours\n# end\n" + STREAMS, "default", "observe", [],
         ['mode = "observe"\n', 'mode = "enforce"\n']),
        # other notations
        ('policy.rulebook = "fr"\npolicy.mode = "observe" # x\n' + HEAD + STREAMS, "default",
         "enforce", ['policy.mode = "observe" # x\n'],
         ['policy.mode = "enforce" # x\n', 'mode = "observe"\n']),
        ('stream = [{name = "offers", class = "marketing", purpose = "x"}, # a\n'
         ' {name = "letters", class = "marketing", purpose = "y"}] # b\n' + HEAD, "letters",
         "observe", [' {name = "letters", class = "marketing", purpose = "y"}] # b\n'],
         [' {name = "letters", class = "marketing", purpose = "y", mode = "observe"}] # b\n']),
        ((HEAD + POLICY + STREAMS).replace("\n", "\r\n"), "offers", "enforce", [],
         ['mode = "enforce"\r\n']),
        ((HEAD + POLICY + STREAMS).replace('name = "offers"', '"name"  =  "offers"'), "offers",
         "enforce", [], ['mode = "enforce"\n']),
    ],
)  # fmt: skip
def test_only_the_mode_changes(
    tmp_path: Path, text: str, name: str, mode: str, gone: list[str], come: list[str]
) -> None:
    path = tmp_path / "smtpproxy.toml"
    path.write_bytes(text.encode())
    before = load(path)
    edit = edited(path, name, Mode(mode))
    edit.write()
    written = path.read_bytes().decode()
    went, came = lines(text, written)
    assert (went, sorted(set(came))) == (gone, sorted(come))
    after = load(path)
    modes = {each: stream.mode for each, stream in before.streams.items()}
    assert {each: stream.mode for each, stream in after.streams.items()} == {**modes, name: mode}
    # a new key goes to its table, before the comment on the next one
    assert "# what people subscribe to\nmode" not in written
    assert edited(path, name, Mode(mode)).changes == ()


def test_a_file_without_a_final_newline(tmp_path: Path) -> None:
    path = tmp_path / "smtpproxy.toml"
    only = HEAD.replace(', "letters"]', "]")
    path.write_text(f'{only}[[stream]]\nname = "offers"\nclass = "marketing"\npurpose = "offers"')
    edited(path, "offers", Mode.OBSERVE).write()
    assert load(path).streams["offers"].mode is Mode.OBSERVE


def test_owner_permissions_and_links_are_kept(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text("\ufeff" + HEAD + STREAMS)
    real.chmod(0o640)
    link = tmp_path / "smtpproxy.toml"
    link.symlink_to(real)
    if os.geteuid() == 0:
        os.chown(real, 12345, 54321)
    before = real.stat()
    edited(link, "offers", Mode.OBSERVE).write()
    after = real.stat()
    assert link.is_symlink()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    assert real.read_bytes().startswith(b"\xef\xbb\xbf#")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["real.toml", "smtpproxy.toml"]


def test_a_concurrent_edit_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "smtpproxy.toml"
    path.write_text(HEAD + STREAMS)
    edit = edited(path, "offers", Mode.OBSERVE)
    path.write_text(HEAD + STREAMS + "# mine\n")
    with pytest.raises(CannotChange, match="changed in the meantime"):
        edit.write()
    assert path.read_text().endswith("# mine\n")


def test_one_of_two_concurrent_commands_is_told_to_run_again(tmp_path: Path) -> None:
    path = tmp_path / "smtpproxy.toml"
    path.write_text(HEAD + STREAMS)
    edit = edited(path, "offers", Mode.OBSERVE)
    with ThreadPoolExecutor(1) as aside, locked(tmp_path, None):
        written = aside.submit(edit.write)
        with pytest.raises(TimeoutError):
            written.result(0.2)
        path.write_text(HEAD + STREAMS + "# mine\n")
    with pytest.raises(CannotChange, match="run this again"):
        written.result(10)
    assert path.read_text().endswith("# mine\n")


def test_a_full_disk_leaves_the_file_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "smtpproxy.toml"
    path.write_text(HEAD + STREAMS)
    edit = edited(path, "offers", Mode.OBSERVE)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CannotChange, match=r'No space left .*\[\[stream\]\] offers: mode = "observe"'
    ):
        edit.write()
    assert path.read_text() == HEAD + STREAMS
    assert list(tmp_path.iterdir()) == [path]


def test_modes_that_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "smtpproxy.toml"
    built_in = {
        "web": {"public_url": "https://u.example.com"},
        "confirmation": {"sender": "a@b.example"},
    }
    path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:25", built_in)))
    with pytest.raises(CannotChange, match="built in"):
        edited(path, "confirmations", Mode.OBSERVE)
    with pytest.raises(CannotChange, match=r"there is no stream 'offer'; known: .*offers"):
        edited(path, "offer", Mode.OBSERVE)
