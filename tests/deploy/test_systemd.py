"""The service unit: systemd accepts it, it is hardened, and it suits the relay."""

import configparser
import re
import sys
from pathlib import Path

import pytest

from smtpproxy.settings import ServerSettings
from tests.kit.parts import needs
from tests.kit.processes import run

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "smtpproxy.service"


class Repeated(dict[str, object]):
    """Repeated keys, as systemd allows: their values are joined by newlines."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and isinstance(self.get(key), list):
            value = [*self[key], *value]  # type: ignore[misc]
        super().__setitem__(key, value)


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(
        dict_type=Repeated, strict=False, interpolation=None, delimiters=("=",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit as on a machine with the command installed: its program exists."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/smtpproxy", sys.executable))
    return unit


@needs("systemd-analyze")
def test_systemd_analyze_has_no_complaints(installed: Path) -> None:
    done = run("systemd-analyze", "verify", str(installed))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs("systemd-analyze")
def test_exposure_is_at_most_three(installed: Path) -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", str(installed))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 3.0


@pytest.mark.parametrize("name", ["time-sync.target", "postfix.service", "postgresql.service"])
def test_the_service_starts_after(name: str) -> None:
    """If the machine has it: verdicts depend on the clock, and the relay ends before the others."""
    (after,) = re.findall(r"^After=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert name in after.split()


def test_systemd_waits_longer_than_the_drain(service: configparser.SectionProxy) -> None:
    drain = ServerSettings(hostname="relay.example").drain_timeout
    assert float(service["TimeoutStopSec"]) >= drain + 15


def test_the_service_notifies_systemd(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert float(service["WatchdogSec"]) > 0
    assert service["KillMode"] == "mixed"  # the main process drains its workers itself


def test_journald_drops_no_lines(service: configparser.SectionProxy) -> None:
    """A campaign's refusals exceed its limit, and audit anchors would be among what it drops."""
    assert service["LogRateLimitIntervalSec"] == "0"


def test_a_slow_start_is_not_cut_short(service: configparser.SectionProxy) -> None:
    assert service["TimeoutStartSec"] == "infinity"


def test_a_wrong_configuration_is_not_retried(service: configparser.SectionProxy) -> None:
    assert service["RestartPreventExitStatus"] == "2"
    assert service["ExecReload"].startswith("/usr/bin/smtpproxy reload ")


def test_the_service_may_write_where_the_default_configuration_does(
    service: configparser.SectionProxy,
) -> None:
    server = ServerSettings(hostname="relay.example")
    assert str(server.state_dir) == f"/var/lib/{service['StateDirectory']}"
    assert service["ProtectSystem"] == "strict"


def test_the_service_runs_as_the_user_that_sysusers_creates(
    service: configparser.SectionProxy,
) -> None:
    lines = (SYSTEMD / "smtpproxy.sysusers.conf").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("u ")]
    assert users == [service["User"]] == [service["Group"]]


@needs("systemd-analyze")  # from the same package
def test_sysusers_accepts_its_file() -> None:
    done = run("systemd-sysusers", "--dry-run", str(SYSTEMD / "smtpproxy.sysusers.conf"))
    assert done.returncode == 0, done.stderr
    assert "smtpproxy" in done.stdout + done.stderr
