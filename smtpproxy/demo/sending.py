"""The demo's letters on their way, and what becomes of each."""

import re
import smtplib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from smtpproxy.demo.letters import Letter
from smtpproxy.demo.relay import DemoError
from smtpproxy.policy.model import Action
from smtpproxy.sinks.audit import reader as journal_reader

_REFUSED = re.compile(r"refused: (\w+)|: (temporary_failure)")


class Outcome(Struct, frozen=True):
    """The outcome of one letter. `why` is the basis or the reason."""

    letter: Letter
    message_id: str
    code: int
    reply: str
    verdict: Action
    why: str


def send(
    port: int, letters: Sequence[Letter], now: datetime, audit: Path, name: str = "demo"
) -> list[Outcome]:
    """Send each letter as an application does; bases come from the audit log.

    `name` is part of the Message-IDs, which have to differ.
    """
    replies = []
    try:
        with smtplib.SMTP("127.0.0.1", port, "app.shop.example", timeout=10) as client:
            client.ehlo()
            for number, letter in enumerate(letters, 1):
                message_id = f"<{number}.{name}@shop.example>"
                replies.append((letter, message_id, *_put(client, letter, message_id, now)))
    except (OSError, smtplib.SMTPException) as error:
        raise DemoError(f"sending over SMTP failed: {error}") from error
    bases = _bases(audit)
    return [
        Outcome(
            letter,
            message_id,
            code,
            reply,
            _verdict(code),
            bases.get(message_id, "?") if code < 400 else _reason(reply),
        )
        for letter, message_id, code, reply in replies
    ]


def _put(client: smtplib.SMTP, letter: Letter, message_id: str, now: datetime) -> tuple[int, str]:
    """Run a transaction; return the deciding reply: the first negative one, or the last."""
    code, text = client.mail(letter.reverse_path)
    if code < 400:
        code, text = client.rcpt(letter.to)
    if code < 400:
        code, text = client.data(letter.message(message_id, now))
    if code >= 400:
        client.rset()
    return code, f"{code} {text.decode(errors='replace')}"


def _verdict(code: int) -> Action:
    if code < 400:
        return Action.ALLOW
    return Action.DEFER if code < 500 else Action.REFUSE


def _reason(reply: str) -> str:
    found = _REFUSED.search(reply)
    return next(filter(None, found.groups())) if found else "?"


def _bases(audit: Path) -> dict[str, str]:
    """Return the recorded basis for the only recipient of each Message-ID."""
    bases = {}
    for record in journal_reader.read(audit):
        decided = record.decided
        if decided.message_id is not None and decided.recipients:
            bases[decided.message_id] = str(decided.recipients[0].verdict.basis)
    return bases
