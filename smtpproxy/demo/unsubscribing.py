"""The demo's second part: somebody unsubscribes, and gets no more mail."""

import re
from collections.abc import Iterator
from datetime import datetime

from smtpproxy.demo.letters import Letter
from smtpproxy.demo.relay import PUBLIC_URL, CaptureMta, DemoError, DemoRelay
from smtpproxy.demo.sending import Outcome, send

_READER = "jeanne@people.example"
_NEWS = Letter(_READER, "letters", "consent", unsubscribe=None, one_click=False)
_LINK = re.compile(re.escape(PUBLIC_URL) + r"(/u/[\w-]+)")
_ID = re.compile(r"id=(\w{26})")


def unsubscribe(relay: DemoRelay, mta: CaptureMta, now: datetime) -> Iterator[str]:
    """Have her unsubscribe by the link that the relay adds; yield what happens, and why.

    Raises DemoError if anything else happens than should.
    """
    yield f"{_READER} unsubscribes with the button of her mail program:"
    first = _sent(relay, now, 1)
    link = _LINK.search(mta.messages[-1].content.decode("ascii", "replace").replace("\r\n", ""))
    if first.code != 250 or link is None:
        raise DemoError(f"the newsletter has no link: {first.reply}")
    yield f"  1. A newsletter to her, with the link that the relay added: {first.reply}"
    status = relay.post(link[1], b"List-Unsubscribe=One-Click")
    if status != 200:
        raise DemoError(f"her link does not work: {status}")
    yield f"  2. Her mail program sends one POST to that link: {status}"
    second = _sent(relay, now, 2)
    id = _ID.search(second.reply)
    if second.why != "suppressed_unsubscribe" or id is None:
        raise DemoError(f"she is still mailed: {second.reply}")
    yield f"  3. The next newsletter to her: {second.reply}"
    yield ""
    yield f"Why? `smtpproxy explain --id {id[1]}` says, in English or French, even years later:"
    yield from _essence(relay.command("explain", "--id", id[1], code=1))


def _sent(relay: DemoRelay, now: datetime, number: int) -> Outcome:
    (outcome,) = send(relay.smtp_port, [_NEWS], now, relay.audit, f"letter{number}")
    return outcome


def _essence(explanation: str) -> Iterator[str]:
    """Yield what was decided about the recipient, and what would change it, without the steps."""
    about = explanation.rpartition(f"\n{_READER}")[2].partition("\n\n  Step by step\n")[0]
    yield from (f"  {line}".rstrip() for line in f"{_READER}{about}".splitlines())
