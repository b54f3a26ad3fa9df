"""Sending the letters over SMTP, and reading what the relay made of each."""

import re
import smtplib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smtpproxy.demo.errors import DemoError
from smtpproxy.demo.letters import Letter
from smtpproxy.policy.model import Action
from smtpproxy.sinks.audit import reader as journal_reader

_REFUSED = re.compile(r"refused: (\w+)|: (temporary_failure)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one letter. `why` is the basis or the reason."""

    letter: Letter
    message_id: str
    code: int
    reply: str
    verdict: Action
    why: str


def send(port: int, letters: Sequence[Letter], now: datetime, audit: Path) -> list[Outcome]:
    """Send each letter as an app does, and tell the reply; the basis is the audit log's."""
    replies = []
    try:
        with smtplib.SMTP("127.0.0.1", port, "app.shop.example", timeout=10) as client:
            client.ehlo()
            for number, letter in enumerate(letters, 1):
                message_id = f"<{number}.demo@shop.example>"
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
    """One transaction; the reply that decided: the first that was not positive, or the last."""
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
    """Message-ID to the basis that is on record for its (only) recipient."""
    bases = {}
    for record in journal_reader.read(audit):
        decided = record.decided
        if decided.message_id is not None and decided.recipients:
            bases[decided.message_id] = str(decided.recipients[0].verdict.basis)
    return bases
