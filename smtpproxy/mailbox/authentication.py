"""Whether a report was written by somebody entitled to: checks its DKIM signatures (RFC 6376).

The verifier of the mail path checks first, in time linear in the size of a mail. A signature that
it finds valid and that would suppress somebody must be valid for dkimpy too.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

import structlog
from msgspec import Struct

from smtpproxy.feedback.parts import on_the_wire, read_mail
from smtpproxy.feedback.personal import writer
from smtpproxy.feedback.proof import vouched
from smtpproxy.feedback.records import Action, FeedbackReport
from smtpproxy.mail.dkim import NAME, TagError, read_signature
from smtpproxy.mail.dmarc import all_aligned
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.model import SignatureState
from smtpproxy.relay.content import Body
from smtpproxy.relay.dkim_verifying import Texts, Verifier, record_of
from smtpproxy.relay.dkimpy import Dkimpy

_LONGEST = 15.0  # seconds for all signatures of a report; after that it has none
_ASKED = 2  # signatures that dkimpy checks: for senders with an RSA and an Ed25519 key

log = structlog.get_logger(__name__)


class _Signed(Struct, frozen=True):
    """A valid signature that covers the whole body."""

    index: int  # from the top
    domain: str
    record_name: str


class Authentication:
    """Checks reports without a token of ours."""

    def __init__(
        self,
        texts: Texts,
        threads: Executor,
        now: Callable[[], float],
        dkimpy: Dkimpy | None = None,
    ) -> None:
        """`now` is Unix time."""
        self._texts = texts
        self._verifier = Verifier(texts, threads, now)
        self._now = now
        self._dkimpy = Dkimpy() if dkimpy is None else dkimpy

    async def checked(self, content: bytes, report: FeedbackReport) -> FeedbackReport:
        """Return the report so that it suppresses only those for whom its writer may speak."""
        if report.sent is not None or not _suppresses(report):
            return report
        wire, who = on_the_wire(content), writer(read_mail(content))
        try:
            async with asyncio.timeout(_LONGEST):
                signed = await self._signed(wire)
        except TimeoutError:
            signed = []
        first_look = vouched(report, who, {each.domain for each in signed})
        if not _suppresses(first_look) or who is None:
            return first_look
        return vouched(report, who, await self._confirmed(wire, who, signed))

    async def close(self) -> None:
        """End dkimpy's processes."""
        await self._dkimpy.close()

    async def _signed(self, wire: bytes) -> list[_Signed]:
        head, end, rest = wire.partition(b"\r\n\r\n")
        headers = HeaderBlock(head + end)
        if headers.count("From") != 1 or headers.defect is not None:
            return []  # the signed From may differ from the one that is read
        key = NAME.lower().encode()
        fields = headers.raw_fields((key,)).get(key, [])
        body = Body(lambda: iter((rest,)), len(rest))
        found = await self._verifier.check(headers, body, (b"from",), until_valid=False)
        valid = [
            (index, self._of_all(field))
            for index, (finding, field) in enumerate(zip(found, fields, strict=False))
            if finding.state is SignatureState.VALID
        ]
        return [_Signed(index, *each) for index, each in valid if each is not None]

    def _of_all(self, field: bytes) -> tuple[str, str] | None:
        """The domain and the key's name; None if the signature leaves out some of the body."""
        try:
            signature = read_signature(field, self._now())
        except TagError:
            return None
        return (signature.domain, signature.record_name) if signature.limit is None else None

    async def _confirmed(self, wire: bytes, who: str, signed: Iterable[_Signed]) -> set[str]:
        """Return the domain of the first signature for the writer that is valid for dkimpy too."""
        domain = who.rpartition("@")[2]
        for each in [one for one in signed if all_aligned((domain,), (one.domain,))][:_ASKED]:
            record = await record_of(self._texts, each.record_name)
            if record is not None and await self._dkimpy.is_valid(
                wire, each.index, each.domain, record
            ):
                return {each.domain}
            log.warning("dkimpy does not confirm a DKIM signature", domain=each.domain)
        return set()


def _suppresses(report: FeedbackReport) -> bool:
    return any(event.action is Action.SUPPRESS for event in report.events)
