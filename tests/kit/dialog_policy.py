"""A dialog of tests/dialogs held with a policy server; the kit plays Postfix in between.

It can only answer for recipients, since it does not see the content.
"""

from pathlib import Path

from tests.kit.dialog_mta import Verdict, heard
from tests.kit.policy import PolicyClient


def hold_with_policy(path: Path, peer: PolicyClient) -> list[Verdict]:
    """Ask about every recipient of the dialog; return the answers."""
    verdicts: list[Verdict] = []
    for said in heard(path):
        if said.verb == b"MAIL":
            peer.mail(said.path)
        elif said.verb == b"RCPT":
            action = peer.rcpt(said.path)
            verdicts.append(Verdict(said.path, "250" if action == "DUNNO" else action, said.reply))
    return verdicts
