"""What the DNS says of domains: of which organisation one is, and whether one takes no mail.

Organisations are found by the tree walk of RFC 9989 section 4.10, for relaxed alignment; a null
MX by RFC 7505. The resolver remembers answers, so that the second message asks nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

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
from smtpproxy.resolver import Answer, DnsFailure, Resolver

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


_AT_ONCE = 50


class RecipientDomains:
    """Asks for MX records. The resolver remembers the answers.

    Only a null MX is certain. A name that is not there may be there tomorrow, or be known
    to the upstream alone, and a DNS that does not answer tells nothing: such mail goes on to
    the upstream, which asks for itself. What the law asks of mail does not hang on it.
    """

    def __init__(self, resolver: Resolver, timeout: float) -> None:
        """`timeout` is how many seconds all the recipients of one step may take together."""
        self._resolver = resolver
        self._timeout = timeout

    async def null_mx(self, addresses: Iterable[str]) -> Mapping[str, bool]:
        """Return for canonical addresses whether their domain has a null MX, where it is known."""
        domains = {address: address.rpartition("@")[2] for address in addresses}
        names = [name for name in dict.fromkeys(domains.values()) if _is_name(name)]
        known: dict[str, bool] = {}
        try:
            async with asyncio.timeout(self._timeout):
                if len(names) == 1:
                    await self._ask(names[0], known)
                for start in range(0, len(names) if len(names) > 1 else 0, _AT_ONCE):
                    some = names[start : start + _AT_ONCE]
                    await asyncio.gather(*(self._ask(name, known) for name in some))
        except TimeoutError:
            pass  # what is known by now counts
        return {address: known[name] for address, name in domains.items() if name in known}

    async def _ask(self, domain: str, known: dict[str, bool]) -> None:
        try:
            exchangers = (await self._resolver.lookup(domain, "MX")).exchangers
        except DnsFailure:
            return
        # Beside others it is a mistake (RFC 7505 section 3), and which one is meant is open.
        known[domain] = len(exchangers) == 1 and not exchangers[0].host


def _is_name(domain: str) -> bool:
    """Whether it can have an MX: an address literal is none, nor is a name without a dot."""
    return "." in domain and not domain.startswith("[")
