"""Whether somebody who may say it wrote a report: its DKIM signatures (RFC 6376), by the DNS.

By the verifier of the mail path, whose work is linear in the size of a mail.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from smtpproxy.feedback import Action, FeedbackReport
from smtpproxy.feedback.parts import on_the_wire, read_mail
from smtpproxy.feedback.personal import writer
from smtpproxy.feedback.proof import vouched
from smtpproxy.mail.dkim import NAME, TagError, read_signature
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.model import SignatureState
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim_verifying import Texts, Verifier

_LONGEST = 15.0  # seconds for all signatures of a report; then it has none


class Authentication:
    """Checks reports that have no token of ours."""

    def __init__(self, texts: Texts, threads: Executor, now: Callable[[], float]) -> None:
        """`now` is Unix time."""
        self._verifier = Verifier(texts, threads, now)
        self._now = now

    async def checked(self, content: bytes, report: FeedbackReport) -> FeedbackReport:
        """Return the report; it suppresses only whom its writer may speak for."""
        suppresses = any(event.action is Action.SUPPRESS for event in report.events)
        if report.sent is not None or not suppresses:
            return report
        try:
            async with asyncio.timeout(_LONGEST):
                signers = await self._signers(content)
        except TimeoutError:
            signers = frozenset()
        return vouched(report, writer(read_mail(content)), signers)

    async def _signers(self, content: bytes) -> frozenset[str]:
        """Return the domains of valid signatures that leave nothing of the body out."""
        wire = on_the_wire(content)
        head, end, rest = wire.partition(b"\r\n\r\n")
        headers = HeaderBlock(head + end)
        if headers.count("From") != 1 or headers.defect is not None:
            return frozenset()  # which From was signed, and which one is read, may differ
        key = NAME.lower().encode()
        fields = headers.raw_fields((key,)).get(key, [])
        body = Body(lambda: iter((rest,)), len(rest))
        found = await self._verifier.check(headers, body, (b"from",), until_valid=False)
        return frozenset(
            finding.domain
            for finding, field in zip(found, fields, strict=False)
            if finding.state is SignatureState.VALID and self._is_of_all(field)
        )

    def _is_of_all(self, field: bytes) -> bool:
        try:
            return read_signature(field, self._now()).limit is None
        except TagError:
            return False
