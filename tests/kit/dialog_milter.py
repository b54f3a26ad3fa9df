"""A dialog of tests/dialogs held with a milter; the kit plays the MTA in between."""

from pathlib import Path

from tests.kit.dialog_mta import Verdict, heard
from tests.kit.mta import Mta, Outcome, encode, strings


def hold_with_milter(path: Path, mta: Mta) -> list[Verdict]:
    """Hold the dialog's transactions; return all verdicts of the milter."""
    verdicts: list[Verdict] = []
    mta.negotiate()
    mta.connect()
    for said in heard(path):
        accepted = said.reply[:1] in "23"
        if said.verb in (b"EHLO", b"HELO") and accepted:
            mta.send(encode("A"), encode("H", strings(said.command[5:])))
        elif said.verb == b"RSET":
            mta.send(encode("A"))
        elif said.verb == b"MAIL" and accepted:
            mta.mail(said.path)
        elif said.verb == b"RCPT":
            verdicts.append(_verdict(said.path, mta.rcpt(said.path), said.reply))
        elif said.verb == b"MESSAGE":
            verdicts.append(_verdict("message", mta.message(said.content), said.reply))
    return verdicts


def _verdict(about: str, outcome: Outcome, expected: str) -> Verdict:
    return Verdict(about, "250" if outcome.final == "c" else outcome.reply, expected)
