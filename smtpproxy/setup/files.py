"""Makes the files of a first configuration, and writes all of them, never over an existing one."""

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from smtpproxy.disk import flush, is_file, sync_path
from smtpproxy.mail.dkim import zone_line
from smtpproxy.settings import TcpAddress, UnixAddress
from smtpproxy.settings.mail import UNIT_STATE
from smtpproxy.settings.places import hostname as read_hostname
from smtpproxy.setup import UNIT_CONFIG
from smtpproxy.setup.answers import STREAM_HEADER, Answers, Route

if TYPE_CHECKING:
    import jinja2

OWNER = "smtpproxy"
"""The user of the service unit, who has to own the keys."""

UNIT_COMMAND = Path("/usr/bin/smtpproxy")
"""The program that smtpproxy.service runs."""

INSTALL = "install"
"""The folder, beside the configuration, with files for Postfix, systemd and the DNS."""


class File(Struct, frozen=True):
    """A file to write; only its owner may read a secret one."""

    path: Path
    content: bytes
    secret: bool = False


class Machinery(Struct, frozen=True):
    """What the files need besides the answers. `addresses` are for the doctor."""

    config: Path
    command: Path
    day: date
    postfix: Mapping[str, str] = {}
    addresses: Sequence[str] = ()


def files(answers: Answers, machinery: Machinery) -> list[File]:
    """Return the files to write, the configuration first."""
    folder, install = machinery.config.parent, machinery.config.parent / INSTALL
    keys = {d: folder / f"{answers.selector}.{d}.pem" for d in answers.domains if answers.selector}
    words: dict[str, Any] = {
        "answers": answers,
        "day": machinery.day.isoformat(),
        "header": STREAM_HEADER,
        "listener": "apps" if answers.route is Route.APPS else "postfix",
        "origin": None if answers.route.relays else _origin(answers, machinery.postfix),
        "trusted": _trusted(answers),
        "addresses": machinery.addresses,
        "keys": keys,
        "postfix_host": lambda place: f"[{place.host}]:{place.port}",
        "before": lambda name, first: _before(first, machinery.postfix.get(name, "")),
        "config": machinery.config,
        "command": _own_command(machinery),
        "folders": [*_folders(answers)],
        "low_ports": [
            place.port
            for place in (answers.listen, answers.web)
            if isinstance(place, TcpAddress) and place.port < 1024
        ],
    }
    made = [File(machinery.config, _rendered("smtpproxy.toml", words))]
    for name in ("main.cf", "master.cf", "smtpproxy.conf"):
        content = _rendered(name, words)
        if any(line and not line.startswith((b"#", b"[")) for line in content.splitlines()):
            made.append(File(install / name, content))
    return [*made, *_signing(answers, keys, install)]


def _signing(answers: Answers, keys: Mapping[str, Path], install: Path) -> Iterator[File]:
    """Yield new keys, and the records to publish for them."""
    if not keys:
        return
    from smtpproxy.relay.dkim_signing import new_key  # 6 MB, only to make keys

    records = []
    for domain, path in keys.items():
        pem, key = new_key("rsa")
        yield File(path, pem, secret=True)
        records.append(zone_line(f"{answers.selector}._domainkey.{domain}", key.record))
    yield File(install / "dns.zone", "".join(f"{record}\n" for record in records).encode())


def _origin(answers: Answers, postfix: Mapping[str, str]) -> str:
    """Return the domain that Postfix adds to addresses without one; Debian has it in a file."""
    origin = postfix.get("myorigin", "")
    if origin.startswith("/"):
        origin = _first_line(Path(origin))
    with suppress(ValueError):
        return read_hostname(origin)
    return answers.hostname


def _first_line(path: Path) -> str:
    """Return the first line, "" if it is not a regular file that can be read."""
    try:
        if not is_file(path):
            return ""
        with path.open(encoding="ascii", errors="replace") as file:
            return file.readline(256).strip()
    except OSError:
        return ""


def _trusted(answers: Answers) -> str | None:
    """Return the address from which Postfix forwards its clients' addresses."""
    if answers.route not in (Route.BEFORE_QUEUE, Route.AFTER_QUEUE):
        return None
    return "127.0.0.1" if isinstance(answers.listen, UnixAddress) else answers.listen.host


def _before(first: str, others: str) -> str:
    """Return a list for Postfix with `first` at its head, and not again later."""
    rest = [each.strip() for each in others.split(",")]
    return ", ".join([first, *(each for each in rest if each not in ("", first))])


def _own_command(machinery: Machinery) -> Path | None:
    """Return the command if the unit's own is different or reads a different file."""
    same = (machinery.command, machinery.config) == (UNIT_COMMAND, UNIT_CONFIG)
    return None if same else machinery.command


def _folders(answers: Answers) -> Iterator[Path]:
    """Yield the folders that the unit does not let the relay write to."""
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
        autoescape=False,  # not HTML: each value goes through a filter of its own format
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


def already_existing(planned: Sequence[File]) -> list[Path]:
    """Return the paths of planned files that already exist."""
    return [file.path for file in planned if os.path.lexists(file.path)]


def secrets(planned: Sequence[File]) -> list[Path]:
    return [file.path for file in planned if file.secret]


def write(planned: Sequence[File], state_dir: Path) -> bool:
    """Write all files, or none; make `state_dir` if it is missing.

    As root, give secrets and `state_dir` to the relay's user; False if that user does not exist.
    Raises OSError; FileExistsError when one of the files exists.
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
                flush(written)
            sync_path(file.path.parent)
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
    """Return the user of the service unit; None unless this is root, who alone can chown."""
    try:
        return pwd.getpwnam(OWNER) if os.geteuid() == 0 else None
    except KeyError:
        return None
