"""The installation in README.md, line by line, on a throwaway copy of this machine.

The root file system is an overlay and the network has only a loopback, so that users, units
and ports can be used as written. Packages come from this environment, which matches the lock.
systemd does not run there, so the test does what the unit says instead of `systemctl`.
"""

import configparser
import re
import site
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tests.kit.parts import do_without, needs
from tests.kit.processes import run
from tests.kit.relay import REPOSITORY

OURS = ("-z", "--cached", "--others", "--exclude-standard")
LOCKS = ("requirements.lock", "requirements-build.lock")
README = (REPOSITORY / "README.md").read_text("utf-8")
UNIT = REPOSITORY / "systemd" / "smtpproxy.service"

_WITHIN = """
mount -t tmpfs tmpfs {top}
mkdir {top}/upper {top}/work {top}/root
mount -t overlay overlay -o lowerdir=/,upperdir={top}/upper,workdir={top}/work {top}/root || exit 77
cd {top}/root
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p packages checkout
mount --bind {packages} packages
ip link set lo up
rm -rf opt/smtpproxy usr/bin/smtpproxy var/lib/smtpproxy etc/smtpproxy
tar -x -C checkout -f {archive}
cp {contacts} {suppressions} checkout
cp {script} checkout/install.sh
chmod a+rx {parents}
exec chroot . sh -e /checkout/install.sh
"""

_BEFORE = """
cd /checkout
export PATH={python}:$PATH PIP_NO_INDEX=1 PIP_ROOT_USER_ACTION=ignore
export PIP_NO_COMPILE=0  # pip reads it as a no
# What is installed in the environment of the tests, pip too, is in the new one.
python3() {{
    command python3 "$@" --without-pip
    echo /packages >"$(echo /opt/smtpproxy/lib/python3*/site-packages)/lock.pth"
}}
pip() {{ /opt/smtpproxy/bin/python -m pip "$@"; }}
systemctl() {{ echo "systemctl $*"; }}
# Nobody is there to be asked.
smtpproxy() {{
    [ "$1" != init ] || set -- init --yes {answers}
    command smtpproxy "$@"
}}
set -x
"""

_AFTER = """
set +x
systemd-analyze verify /etc/systemd/system/smtpproxy.service || true
install -d -o smtpproxy -g smtpproxy /run/smtpproxy
(cd /var/lib/smtpproxy && stat -c '%U %a %n' . smtpproxy.db suppression.key)
(cd /etc/smtpproxy && stat -c '%U %a %n' *.pem smtpproxy.toml)
setpriv --reuid={user} --regid={user} --init-groups {start} 2>/run/log &
command python3 - <<'END' || { cat /run/log; exit 1; }
import smtplib, time, urllib.request
for attempt in range(300):
    try:
        print("healthz", urllib.request.urlopen("http://127.0.0.1:8025/healthz").status)
        break
    except OSError:
        time.sleep(0.1)
client = smtplib.SMTP("127.0.0.1", 2525)
print(2525, client.ehlo()[0])
END
kill -TERM $!
wait $! && echo "ended with 0"
"""

ANSWERS = (
    "--hostname relay.shop.fr --upstream 127.0.0.1:25 --brand shop --legal-name 'Shop SA'"
    " --postal-address '1 rue X, Paris' --from-domain shop.fr"
)
CONTACT = '{"address":"jeanne@example.org","source":"direct"}\n'
SUPPRESSION = "address,scope,origin\nmax@example.org,all,unsubscribe\n"


def lines() -> str:
    section = README.partition("## Deploy it")[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def locked_but_not_installed() -> list[str]:
    """The packages pip would ask its index for, if the Makefile did not make the environment."""
    locked = "".join((REPOSITORY / name).read_text("utf-8") for name in LOCKS)
    installed = {
        (re.sub(r"[-_.]+", "-", each.name).lower(), each.version)
        for each in metadata.distributions()
    }
    wanted = re.findall(r"^([\w.-]+)==(\S+)", locked, re.MULTILINE)
    return [name for name, version in wanted if (name.lower(), version) not in installed]


@needs("namespaces")
def test_the_lines_of_the_readme_start_the_service(tmp_path: Path) -> None:
    absent = locked_but_not_installed()
    if absent:
        do_without(f"{', '.join(absent)} (make test installs what the locks name)")
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.read(UNIT)
    service = parser["Service"]
    python = Path(sys.base_prefix) / "bin"
    files = {
        "contacts": ("contacts.ndjson", CONTACT),
        "suppressions": ("suppressions.csv", SUPPRESSION),
        "script": (
            "install.sh",
            _BEFORE.format(python=python, answers=ANSWERS)
            + lines()
            + _AFTER.replace("{user}", service["user"]).replace("{start}", service["execstart"]),
        ),
    }
    for name, text in files.values():
        (tmp_path / name).write_text(text)
    archive, top = tmp_path / "checkout.tar", tmp_path / "top"
    top.mkdir()
    tracked = run("git", "ls-files", *OURS, cwd=REPOSITORY).stdout.rstrip("\0").split("\0")
    there = [name for name in tracked if (REPOSITORY / name).exists()]
    subprocess.run(["tar", "-c", "-f", archive, *there], cwd=REPOSITORY, check=True)
    within = _WITHIN.format(
        top=top,
        packages=site.getsitepackages()[0],
        archive=archive,
        parents=" ".join(f".{each}" for each in python.parents),
        **{key: tmp_path / name for key, (name, _) in files.items()},
    )
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-e",
            "-c",
            within,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode == 77:
        do_without("overlayfs (of the kernel)")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "/etc/smtpproxy/smtpproxy.toml: good" in said
    owned = "smtpproxy 700 .\nsmtpproxy 600 smtpproxy.db\nsmtpproxy 600 suppression.key\n"
    assert owned in said
    assert "systemctl enable --now smtpproxy" in said
    assert re.search(r"smtpproxy 600 s\d{4}\.shop\.fr\.pem\nroot 644 smtpproxy\.toml\n", said), said
    assert "healthz 200\n2525 250\nended with 0\n" in said
    assert "is from the example" not in said
    assert "there is no user" not in said
