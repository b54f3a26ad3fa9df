"""docs/quickstart.md, line by line: from a clone to a relay that enforces.

Packages come from this environment, which matches the lock, and the upstream MTA from the kit.
Between the commands, three applications send for nine days to a relay that is never stopped;
only its clock is moved.
"""

import csv
import os
import re
import site
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.deploy.quickstart_apps import Apps
from tests.kit.clock import MovedClock
from tests.kit.pages import blocks
from tests.kit.parts import needs
from tests.kit.ports import free_port, listens, wait_for
from tests.kit.processes import Running, run
from tests.kit.relay import REPOSITORY
from tests.kit.upstream import FakeUpstream

MOST_COMMANDS = 10
FIRST_DAY = datetime(2026, 11, 30, 8, tzinfo=UTC)  # a Monday
REFUSED = re.compile(
    r"550 5\.7\.1 <(\S+)> refused: (consent_withdrawn|consent_missing|no_record)"
    r" \(stream newsletter\) id=\w{26}"
)
HOME = "~"  # as on the page
_ADDRESS = re.compile(r"[\w.+-]+@[\w.-]+\.example", re.ASCII)
_VARYING = (
    (re.compile(r"\b01[0-9A-HJKMNP-TV-Z]{24}\b"), "ID"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"in \d+(\.\d+)? s\b"), "in SECONDS"),
    (re.compile(r"\bhash [0-9a-f]{12}\b"), "HASH"),
)


@dataclass
class Walk:
    """Somebody following the page: a clone, a home, and the variables exported so far."""

    home: Path
    clone: Path
    clock: MovedClock
    relay: int
    substitutes: dict[str, str]
    exported: list[str] = field(default_factory=list)
    serving: Running | None = None

    def follow(self, command: str, expected: list[str]) -> None:
        for shown, here in self.substitutes.items():
            command = command.replace(shown, here)
        if command.startswith("export "):
            self.exported.append(command)
        elif command.endswith("serve &"):
            self._serve(command.removesuffix("&"))
        elif "-m venv" in command:
            self._run(f"{command} --without-pip")  # pip would take longer than everything else
            self._lend()
        else:
            self._compare(command, self._run(command), expected)

    def _lend(self) -> None:
        """Lend the new environment the packages, pip included, of the tests' environment."""
        made = self.home / "smtpproxy"
        packages = next((made / "lib").glob("python3*/site-packages"))
        (packages / "lock.pth").write_text(f"{site.getsitepackages()[0]}\n")
        pip = made / "bin/pip"
        pip.write_text(f'#!/bin/sh\nexec "{made}/bin/python" -m pip "$@"\n')
        pip.chmod(0o755)

    def _script(self, command: str) -> str:
        return "\n".join([*self.exported, command])

    def _env(self, command: str) -> dict[str, str]:
        env = {"HOME": str(self.home), "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
        env |= {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_COMPILE": "0"}  # pip reads 0 as "no"
        env |= {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        return env | (self.clock.env if command.startswith("smtpproxy ") else {})

    def _run(self, command: str) -> str:
        script = f"{{ {self._script(command)}\n}} 2>&1"
        done = run("bash", "-c", script, cwd=self.clone, env=self._env(command), timeout=240)
        assert "Traceback" not in done.stdout, done.stdout
        codes = (0, 1) if " import " in command else (0,)  # 1: rows were rejected
        assert done.returncode in codes, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def _serve(self, command: str) -> None:
        self.serving = Running(
            ["bash", "-c", self._script(f"exec {command}")],
            output=self.home / "relay.log",
            env=self._env(command),
            cwd=self.clone,
        )
        wait_for(lambda: listens(self.relay), "the relay to listen", timeout=60)

    def _compare(self, command: str, output: str, expected: list[str]) -> None:
        for shown, here in self.substitutes.items():
            output = output.replace(here, shown)
        found = _steady(output.replace(str(self.home), HOME)).splitlines()
        wanted = _steady("\n".join(expected)).splitlines()
        assert _fits(found, wanted), "\n".join([f"$ {command}", *found, "-- on the page:", *wanted])


def _steady(text: str) -> str:
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _fits(found: list[str], wanted: list[str]) -> bool:
    """Whether the lines match the page's, where `…` stands for any number of lines."""
    parts = [re.escape(one + "\n") if one != "…" else "(?:.*\n)*?" for one in wanted]
    return re.fullmatch("".join(parts), "".join(f"{one}\n" for one in found)) is not None


def commands() -> Iterator[tuple[str, list[str]]]:
    """Each command on the page, with the lines it prints."""
    for block in blocks("quickstart.md"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, rest = part.replace("\\\n", " ").partition("\n")
            yield command, rest.splitlines()


def rows() -> list[dict[str, str]]:
    with (REPOSITORY / "docs/quickstart/clients.csv").open(encoding="cp1252", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def addresses(row: dict[str, str]) -> list[str]:
    return _ADDRESS.findall(row["Adresse e-mail"].lower())


def everybody() -> list[str]:
    """Everybody the marketing tool mails: each address in the export, once."""
    return list(dict.fromkeys(address for row in rows() for address in addresses(row)))


def day_of(text: str) -> datetime | None:
    """The day in a cell; None if there is none."""
    try:
        day = datetime.strptime(text.partition(" ")[0], "%d/%m/%Y").replace(tzinfo=UTC)
    except ValueError:
        return None
    return day if day < FIRST_DAY else None


def who_agreed() -> set[str]:
    """Who may get the newsletter, by a reading of the export independent of the product.

    That is everybody who said yes on a known day and did not say no or unsubscribe since. A no
    without a day is as new as the export.
    """
    yes: dict[str, datetime] = {}
    no: dict[str, datetime] = {}
    for row in rows():
        if len(addresses(row)) != 1:  # it is not clear whose answer this is
            continue
        (address,) = addresses(row)
        said, day = row["Opt-in newsletter"].casefold(), day_of(row["Date d'inscription"])
        if said in ("oui", "1", "x") and day:
            yes[address] = max(day, yes.get(address, day))
        if said in ("non", "0"):
            no[address] = FIRST_DAY
        if row["Désabonné le"]:
            left = day_of(row["Désabonné le"]) or FIRST_DAY
            no[address] = max(left, no.get(address, left))
    return {address for address, day in yes.items() if address not in no or day > no[address]}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    tracked = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
                  cwd=REPOSITORY).stdout.rstrip("\0").split("\0")  # fmt: skip
    there = [name for name in tracked if (REPOSITORY / name).exists()]
    clone.mkdir()
    archive = tmp_path / "clone.tar"
    subprocess.run(["tar", "-cf", archive, *there], cwd=REPOSITORY, check=True)
    subprocess.run(["tar", "-xmf", archive, "-C", clone], check=True)
    exported_at = FIRST_DAY.timestamp()
    os.utime(clone / "docs/quickstart/clients.csv", (exported_at, exported_at))
    return clone


def test_the_page_has_at_most_ten_commands() -> None:
    assert len(list(commands())) <= MOST_COMMANDS


@pytest.mark.timeout(600)  # a week of mail
@needs("faketime", "nodemailer", "msmtp")
def test_from_nothing_to_enforcing(tmp_path: Path, clone: Path) -> None:
    people = everybody()
    relay = free_port()
    with FakeUpstream() as mta:
        substitutes = {
            "127.0.0.1:2525": f"127.0.0.1:{relay}",
            "127.0.0.1:25 ": f"{mta.address} ",
            "8025": str(free_port()),
        }
        walk = Walk(tmp_path, clone, MovedClock(tmp_path / "clock", FIRST_DAY), relay, substitutes)
        apps = Apps(relay, tmp_path)
        todo = list(commands())
        for command, expected in todo:
            if command.startswith("smtpproxy report"):
                for day in range(7):
                    walk.clock.move(FIRST_DAY + timedelta(days=day, hours=1))
                    assert not a_day(apps, people, day, with_header=False)
                assert len(mta.messages) == len(people) + 7 * 8
                walk.clock.move(FIRST_DAY + timedelta(days=7))
            if command.startswith("smtpproxy stream enforce newsletter"):
                for day in (7, 8):  # the marketing tool has been fixed
                    walk.clock.move(FIRST_DAY + timedelta(days=day, hours=1))
                    assert not a_day(apps, people, day, with_header=True)
                walk.clock.move(FIRST_DAY + timedelta(days=9))
            walk.follow(command, expected)
        walk.clock.move(FIRST_DAY + timedelta(days=9, hours=1))
        before = len(mta.messages)
        refused = apps.newsletter(people, with_header=True)
        assert set(people) - refused.keys() == who_agreed()
        assert len(mta.messages) - before == len(who_agreed())
        assert all(REFUSED.fullmatch(reply) for reply in refused.values()), refused
        assert walk.serving is not None
        assert walk.serving.terminate() == 0


def a_day(apps: Apps, people: list[str], day: int, *, with_header: bool) -> dict[str, str]:
    """A seventh of all get the newsletter, and eight customers a receipt or an invoice."""
    some = people[day % 7 :: 7]
    apps.shop(some[:5])
    apps.erp(some[5:8])
    return apps.newsletter(some, with_header=with_header)
