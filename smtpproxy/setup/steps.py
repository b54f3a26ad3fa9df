"""The three steps that remain when the files are written."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from smtpproxy.setup import UNIT_CONFIG
from smtpproxy.setup.answers import STREAM_HEADER, Answers, Route
from smtpproxy.setup.files import INSTALL, OWNER, File

_DROP_IN = Path("/etc/systemd/system/smtpproxy.service.d")


class Step(Struct, frozen=True):
    """What to do, and the commands for it."""

    do: str
    commands: tuple[str, ...]


def steps(answers: Answers, config: Path, written: Sequence[File], *, has_unit: bool) -> list[Step]:
    """Return the three next steps in order. `has_unit`: systemd has a smtpproxy.service."""
    option = "" if config == UNIT_CONFIG else f" --config {shlex.quote(str(config))}"
    install = config.parent / INSTALL
    names = {file.path.name for file in written if file.path.parent == install}
    observed = next(stream.name for stream in answers.streams)
    return [
        Step("Check it, and start the service.", (*_starting(option, install, names, has_unit),)),
        Step(_leading_title(answers, names), (*_leading(answers, install, names),)),
        Step(
            "Import who may be mailed, see after a week what would be refused, then enforce.",
            (
                f"smtpproxy contact map people.csv{option}",
                f"smtpproxy contact import people.csv --mapping people.mapping.toml{option}",
                f"smtpproxy doctor{option}",
                f"smtpproxy report{option}",
                f"smtpproxy stream enforce {observed}{option}",
            ),
        ),
    ]


def _starting(option: str, install: Path, names: set[str], has_unit: bool) -> Iterator[str]:
    yield f"runuser -u {OWNER} -- smtpproxy check{option}"
    if not has_unit:
        yield "install -m 644 systemd/smtpproxy.service /etc/systemd/system/  # in the checkout"
    if "smtpproxy.conf" in names:
        drop_in = shlex.quote(str(install / "smtpproxy.conf"))
        yield f"install -D -m 644 {drop_in} {_DROP_IN}/smtpproxy.conf"
    yield "systemctl daemon-reload && systemctl enable --now smtpproxy"


def _leading_title(answers: Answers, names: set[str]) -> str:
    match answers.route:
        case Route.APPS:
            text = (
                f"Have the applications send to {answers.listen}; their mail is on the stream"
                f" {answers.default_stream.name} unless the header {STREAM_HEADER} names another."
            )
        case Route.RELAYHOST:
            text = "Have Postfix send through smtpproxy."
        case Route.BEFORE_QUEUE | Route.AFTER_QUEUE:
            text = "Have Postfix pass its mail through smtpproxy."
        case _:
            text = "Have Postfix ask smtpproxy."
    if "dns.zone" in names:
        text += " Publish the DKIM records, then uncomment [[dkim]]."
    return text


def _leading(answers: Answers, install: Path, names: set[str]) -> Iterator[str]:
    if "main.cf" in names:
        main = shlex.quote(str(install / "main.cf"))
        yield f"grep -v '^#' {main} | xargs -d '\\n' postconf -e"
    if "master.cf" in names:
        if answers.route is Route.BEFORE_QUEUE:
            yield "postconf -MX smtp/inet"
        yield f"cat {shlex.quote(str(install / 'master.cf'))} >>/etc/postfix/master.cf"
    if names & {"main.cf", "master.cf"}:
        yield "postfix check && postfix reload"
    if "dns.zone" in names:
        yield f"cat {shlex.quote(str(install / 'dns.zone'))}"
