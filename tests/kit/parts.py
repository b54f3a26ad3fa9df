"""The real programs that tests use, and what happens if one is missing.

A test is marked `@needs("postfix")`. If a part is missing it is skipped, naming the part, and
the run's summary has one line for each missing part; with `CI=true` it fails, unless this Debian
no longer has the part.
`python -m tests.kit.parts` prints the Debian packages of what is missing.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest
from msgspec import Struct

PREFIX = "missing part: "
BUILD = Path(__file__).parents[2] / "build"
SENDMAIL, EXIM, OPENSMTPD = (BUILD / name for name in ("sendmail", "exim", "opensmtpd"))
_DEBIAN = Path("/etc/debian_version")
AXE = BUILD / "axe" / "axe.min.js"


class Part(Struct, frozen=True):
    """One program. `root`: it only works for the super-user. `unpacked`: it is not installed
    but unpacked, by the kit's `module`. `library`: a file that it needs, as a glob. `until`: the
    last Debian that has the package."""

    package: str
    programs: tuple[str, ...]
    root: bool = False
    unpacked: Path | None = None
    module: str = "unpacked"
    library: str = ""
    until: int | None = None


PARTS = {
    "axe": Part("chromium", ("chromium",), unpacked=AXE, module="axe"),
    "chromium": Part("chromium", ("chromium",)),
    "curl": Part("curl", ("curl",)),
    "exim": Part("util-linux", ("unshare",), root=True, unpacked=EXIM),
    "faketime": Part("faketime", ("faketime",), library="/usr/lib/*/faketime/libfaketime.so.1"),
    "haproxy": Part("haproxy", ("haproxy",)),
    "keepalived": Part("keepalived", ("keepalived",)),
    "miltertest": Part("miltertest", ("miltertest",)),
    "msmtp": Part("msmtp", ("msmtp",)),
    "opendkim": Part("opendkim", ("opendkim",)),
    "namespaces": Part("util-linux iproute2", ("unshare", "ip"), root=True),
    "nginx": Part("nginx", ("nginx",)),
    "nodemailer": Part(
        "nodejs node-nodemailer",
        ("node",),
        library="/usr/share/nodejs/nodemailer/package.json",
    ),
    "opensmtpd": Part("util-linux", ("unshare",), root=True, unpacked=OPENSMTPD),
    "phpmailer": Part(
        "php-cli libphp-phpmailer",
        ("php",),
        library="/usr/share/php/libphp-phpmailer/autoload.php",
    ),
    "perl": Part("perl", ("perl",), library="/usr/share/perl/*/Net/SMTP.pm"),  # not in perl-base
    "postfix": Part(
        "postfix libsasl2-modules",  # only recommended by it, but needed to log in
        ("postfix", "postconf"),
        root=True,
        library="/usr/lib/*/sasl2/libplain.so",
    ),
    "pgbouncer": Part("pgbouncer", ("pgbouncer",)),
    "postgresql": Part("postgresql", ("psql",), library="/usr/lib/postgresql/*/bin/postgres"),
    "prometheus": Part("prometheus", ("prometheus",)),
    "promtool": Part("prometheus", ("promtool",)),
    "sendmail": Part("util-linux", ("unshare",), root=True, unpacked=SENDMAIL, module="sendmail"),
    "s-nail": Part("s-nail", ("s-nail",)),
    "ruby-mail": Part("ruby-mail", ("ruby",), library="/usr/lib/ruby/vendor_ruby/mail.rb"),
    "rspamd": Part("rspamd", ("rspamd", "rspamadm")),
    "smtp-sink": Part("postfix", ("smtp-sink",)),
    "smtp-source": Part("postfix", ("smtp-source",)),
    "sqlite3": Part("sqlite3", ("sqlite3",)),
    "strace": Part("strace", ("strace",), root=True),
    "swiftmailer": Part(
        "php-cli php-swiftmailer", ("php",), library="/usr/share/php/Swift/autoload.php", until=12
    ),
    "symfony-mailer": Part(
        "php-cli php-symfony-mailer",
        ("php",),
        library="/usr/share/php/Symfony/Component/Mailer/autoload.php",
    ),
    "swaks": Part(
        "swaks libnet-ssleay-perl",  # only recommended by it, but needed for TLS
        ("swaks",),
        library="/usr/lib/*/perl5/*/Net/SSLeay.pm",
    ),
    "systemd-analyze": Part("systemd", ("systemd-analyze",)),
    "tmpfs": Part("mount", ("mount", "umount"), root=True),
}

# On Debian, users have no sbin in their PATH.
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"


def program(name: str) -> str:
    """Return the program's full path; raises FileNotFoundError."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


def tool(name: str) -> str:
    """Return the path of a program that pip installed for developers; skips if it is missing."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        do_without(f"{name} (make .venv/.dev)")
    return str(path)


def missing(name: str) -> str | None:
    """Say what this part lacks and what would help; None if it is available."""
    part = PARTS[name]
    if _gone(part):
        return f"{name} (not in Debian since {part.until})"
    found = all(shutil.which(each, path=SEARCH_PATH) for each in part.programs)
    if not found or (part.library and not any(Path("/").glob(part.library[1:]))):
        return f"{name} (Debian package {part.package})"
    if part.unpacked is not None and not part.unpacked.exists():
        return f"{name} (python -m tests.kit.{part.module} unpacks it)"
    if part.root and os.geteuid() != 0:
        return f"{name} (works only as root)"
    return None


def _gone(part: Part) -> bool:
    """Whether this Debian is a release without the part."""
    if part.until is None or not _DEBIAN.exists() or any(Path("/").glob(part.library[1:])):
        return False
    release = _DEBIAN.read_text().partition(".")[0]
    return release.isdecimal() and int(release) > part.until


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test, or a module by `pytestmark`, that uses these parts."""
    unknown = set(names) - PARTS.keys()
    if unknown:
        raise ValueError(f"not in PARTS: {', '.join(sorted(unknown))}")
    return pytest.mark.needs(*names)


def require(item: pytest.Item) -> None:
    """Skip (with `CI=true`: fail) a test if any of its parts is missing."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            lack = missing(name)
            if lack is None:
                continue
            if _gone(PARTS[name]):
                pytest.skip(PREFIX + lack)
            do_without(lack)


def do_without(lack: str) -> NoReturn:
    """Skip (with `CI=true`: fail) the running test, which lacks this."""
    if os.environ.get("CI") == "true":
        pytest.fail(PREFIX + lack, pytrace=False)
    pytest.skip(PREFIX + lack)


def summary(reasons: Iterable[str]) -> list[str]:
    """One line for each missing part, from the reasons of all skipped tests."""
    counts = Counter(reason.partition(PREFIX)[2].strip() for reason in reasons if PREFIX in reason)
    return [
        f"{lack} is missing: {count} test{'s' * (count > 1)} skipped"
        for lack, count in sorted(counts.items())
    ]


def missing_packages() -> list[str]:
    """The Debian packages with the missing programs."""
    return sorted({PARTS[name].package for name in PARTS if "package" in (missing(name) or "")})


if __name__ == "__main__":
    if _DEBIAN.exists():
        print(" ".join(missing_packages()))
