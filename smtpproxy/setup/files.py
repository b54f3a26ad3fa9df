"""The files of a first configuration, and their way to the disk: all of them, over none."""

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from smtpproxy.mail.dkim import zone_line
from smtpproxy.settings import UnixAddress
from smtpproxy.settings.places import hostname as read_hostname
from smtpproxy.setup import UNIT_CONFIG
from smtpproxy.setup.answers import STREAM_HEADER, Answers, Route

if TYPE_CHECKING:
    import jinja2

OWNER = "smtpproxy"
"""The user of the service unit: keys are to be its own."""

UNIT_COMMAND = Path("/usr/bin/smtpproxy")
UNIT_STATE = Path("/var/lib/smtpproxy")
"""What smtpproxy.service says by itself."""

INSTALL = "install"
"""The folder, beside the configuration, of what others have to be told."""


class File(Struct, frozen=True):
    """A file to be; a secret one is for its owner's eyes only."""

    path: Path
    content: bytes
    secret: bool = False


class Machinery(Struct, frozen=True):
    """What the files say beside what was answered. `addresses` are for the doctor."""

    config: Path
    command: Path
    day: date
    postfix: Mapping[str, str] = {}
    addresses: Sequence[str] = ()


def files(answers: Answers, around: Machinery) -> list[File]:
    """Return what is to be written, the configuration first."""
    folder, install = around.config.parent, around.config.parent / INSTALL
    keys = {d: folder / f"{answers.selector}.{d}.pem" for d in answers.domains if answers.selector}
    listen = answers.listen
    words: dict[str, Any] = {
        "answers": answers,
        "day": around.day.isoformat(),
        "header": STREAM_HEADER,
        "listener": "apps" if answers.route is Route.APPS else "postfix",
        "origin": None if answers.route.relays else _origin(answers, around.postfix),
        "trusted": _trusted(answers),
        "addresses": around.addresses,
        "keys": keys,
        "postfix_host": lambda place: f"[{place.host}]:{place.port}",
        "before": lambda name, first: _before(first, around.postfix.get(name, "")),
        "config": around.config,
        "command": _own_command(around),
        "folders": [*_folders(answers)],
        "low_port": not isinstance(listen, UnixAddress) and listen.port < 1024,
    }
    made = [File(around.config, _rendered("smtpproxy.toml", words))]
    for name in ("main.cf", "master.cf", "smtpproxy.conf"):
        content = _rendered(name, words)
        if any(line and not line.startswith((b"#", b"[")) for line in content.splitlines()):
            made.append(File(install / name, content))
    return [*made, *_signing(answers, keys, install)]


def _signing(answers: Answers, keys: Mapping[str, Path], install: Path) -> Iterator[File]:
    """New keys, and what to publish of them."""
    if not keys:
        return
    from smtpproxy.relay.dkim_signing import new_key  # 6 MB, where keys are made

    records = []
    for domain, path in keys.items():
        pem, key = new_key("rsa")
        yield File(path, pem, secret=True)
        records.append(zone_line(f"{answers.selector}._domainkey.{domain}", key.record))
    yield File(install / "dns.zone", "".join(f"{record}\n" for record in records).encode())


def _origin(answers: Answers, postfix: Mapping[str, str]) -> str:
    """What Postfix adds to addresses without a domain; Debian has it in a file."""
    origin = postfix.get("myorigin", "")
    if origin.startswith("/"):
        origin = _first_line(Path(origin))
    with suppress(ValueError):
        return read_hostname(origin)
    return answers.hostname


def _first_line(path: Path) -> str:
    """Return it, "" where there is no file that is soon read."""
    try:
        if not path.is_file():
            return ""
        with path.open(encoding="ascii", errors="replace") as file:
            return file.readline(256).strip()
    except OSError:
        return ""


def _trusted(answers: Answers) -> str | None:
    """Where Postfix comes from when it tells of its clients."""
    if answers.route not in (Route.BEFORE_QUEUE, Route.AFTER_QUEUE):
        return None
    return "127.0.0.1" if isinstance(answers.listen, UnixAddress) else answers.listen.host


def _before(first: str, others: str) -> str:
    """Return a list of Postfix with `first` at its head, and not again behind it."""
    rest = [each.strip() for each in others.split(",")]
    return ", ".join([first, *(each for each in rest if each not in ("", first))])


def _own_command(around: Machinery) -> Path | None:
    """The command, where the unit's own would be another or read another file."""
    same = (around.command, around.config) == (UNIT_COMMAND, UNIT_CONFIG)
    return None if same else around.command


def _folders(answers: Answers) -> Iterator[Path]:
    """What the unit would not let the relay write to."""
    if answers.state_dir != UNIT_STATE:
        yield answers.state_dir
    for place in (answers.listen, answers.web):
        if isinstance(place, UnixAddress) and place.path.parent != Path("/run/smtpproxy"):
            yield place.path.parent


def _rendered(name: str, words: Mapping[str, Any]) -> bytes:
    return _environment().get_template(name).render(words).encode()


def _environment() -> "jinja2.Environment":
    import jinja2
    import tomlkit

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("smtpproxy.setup", "templates"),
        autoescape=False,  # no HTML: each value goes through a filter of its format
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def toml(value: object) -> str:
        return tomlkit.item(value if isinstance(value, list) else str(value)).as_string()

    made.filters.update(toml=toml, unit=_unit_word)
    return made


def _unit_word(path: Path) -> str:
    """Return a path as a word of a unit file (systemd.syntax(7))."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if any(c in text for c in " '\";") else text


def in_the_way(planned: Sequence[File]) -> list[Path]:
    """Return what is there already, under the name of a file to be."""
    return [file.path for file in planned if os.path.lexists(file.path)]


def secrets(planned: Sequence[File]) -> list[Path]:
    return [file.path for file in planned if file.secret]


def write(planned: Sequence[File], state_dir: Path) -> bool:
    """Write all files, or none; make `state_dir` where it is missing.

    As root, secrets and `state_dir` become the relay's user's: False where there is no such user.
    Raises OSError; FileExistsError when one of the files is there.
    """
    owner = _service_user()
    done: list[Path] = []
    try:
        for file in planned:
            file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            mode = 0o600 if file.secret else 0o644
            handle = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            done.append(file.path)
            with os.fdopen(handle, "wb") as written:
                written.write(file.content)
                if file.secret and owner is not None:
                    os.fchown(handle, owner.pw_uid, owner.pw_gid)
                written.flush()
                os.fsync(handle)
        if not os.path.lexists(state_dir):
            state_dir.mkdir(mode=0o700, parents=True)
            if owner is not None:
                os.chown(state_dir, owner.pw_uid, owner.pw_gid)
    except BaseException:
        for path in done:
            with suppress(OSError):
                path.unlink()
        raise
    return owner is not None or os.geteuid() != 0


def _service_user() -> pwd.struct_passwd | None:
    """The user of the service unit; None where this is not root, who alone can give to it."""
    try:
        return pwd.getpwnam(OWNER) if os.geteuid() == 0 else None
    except KeyError:
        return None
