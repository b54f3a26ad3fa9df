"""Of which organisation a domain is, by the tree walk of RFC 9989 section 4.10.

Asked for relaxed alignment. The resolver remembers answers, so that the second message of a
sender asks nothing.
"""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from smtpproxy.mail.dmarc import (
    DmarcError,
    Psd,
    is_dmarc,
    organisation,
    organisational_domain,
    read_dmarc,
    tree,
)
from smtpproxy.policy.model import Alignment, MessageFeatures, Stream
from smtpproxy.resolver import Answer, DnsFailure

_MOST_DOMAINS = 4  # of From; honest mail has one
_MOST_SENDERS = 8  # that are asked about for one of them

Texts = Callable[[str], Awaitable[Answer]]
"""Gives the TXT records of a name; raises DnsFailure."""


class Organisations:
    """Finds organisational domains in the DNS."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    async def of(self, domain: str) -> str:
        """Return the organisational domain. Raises DnsFailure.

        Of a domain that no DMARC record is about, the public suffix list says it: the walk
        knows nothing of it then.
        """
        found: dict[str, Psd] = {}
        for name in tree(domain):
            psd = await self._psd(name)
            if psd is not None:
                found[name] = psd
            if psd in ("y", "n"):
                break
        return organisation(domain, found) if found else organisational_domain(domain)

    async def _psd(self, name: str) -> Psd | None:
        """What the record of a name says of itself; None where there is none, or several."""
        texts = (await self._texts(f"_dmarc.{name}")).texts
        records = [text for text in texts if is_dmarc(text)]
        try:
            return read_dmarc(records[0]).psd if len(records) == 1 else None
        except DmarcError:
            return None


async def with_organisations(
    organisations: Organisations, stream: Stream, features: MessageFeatures
) -> tuple[MessageFeatures, str]:
    """Return the features with the organisations that relaxed alignment has to know, and what
    failed ("" when nothing did): of those the organisation is empty."""
    look = features.content
    if stream.alignment is not Alignment.RELAXED or features.signed_by_relay or look is None:
        return features, ""
    known: dict[str, str] = {}
    failure = ""

    async def of(domain: str) -> str:
        nonlocal failure
        if domain not in known:
            try:
                known[domain] = await organisations.of(domain)
            except DnsFailure as error:
                known[domain], failure = "", str(error)
        return known[domain]

    walked = 0
    for domain in dict.fromkeys(features.from_domains):
        if domain in look.senders:
            continue
        walked += 1
        if walked > _MOST_DOMAINS:
            break  # what is not known is not aligned
        own = await of(domain)
        below = [each for each in look.senders if own and f".{each}".endswith(f".{own}")]
        for sender in below[:_MOST_SENDERS]:
            if await of(sender) == own:
                break
    organised = replace(look, organisations=tuple(known.items()))
    return replace(features, content=organised), failure
