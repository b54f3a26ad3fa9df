"""What the DNS says about domains: to which organisation one belongs, and null MX.

Organisations are found by the tree walk of RFC 9989 section 4.10, for relaxed alignment; a null MX
by RFC 7505. The resolver caches answers, so that the second message asks nothing.
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

_MAX_FROM_DOMAINS = 4  # in From; honest mail has one
_MAX_SENDERS = 8  # looked up for each of them

Texts = Callable[[str], Awaitable[Answer]]
"""Returns the TXT records of a name; raises DnsFailure."""


class Organisations:
    """Finds organisational domains in the DNS."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    async def of(self, domain: str) -> str:
        """Return the organisational domain. Raises DnsFailure.

        If the walk finds no DMARC record, the public suffix list decides.
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
        """The `psd` of a name's record; None if there is no record, or several."""
        texts = (await self._texts(f"_dmarc.{name}")).texts
        records = [text for text in texts if is_dmarc(text)]
        try:
            return read_dmarc(records[0]).psd if len(records) == 1 else None
        except DmarcError:
            return None


async def with_organisations(
    organisations: Organisations, stream: Stream, features: MessageFeatures
) -> tuple[MessageFeatures, str]:
    """Return the features with the organisations that relaxed alignment needs, and what failed (""
    if nothing did); a domain whose lookup failed has an empty organisation."""
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
        if walked > _MAX_FROM_DOMAINS:
            break  # the others count as not aligned
        own = await of(domain)
        below = [each for each in look.senders if own and f".{each}".endswith(f".{own}")]
        for sender in below[:_MAX_SENDERS]:
            if await of(sender) == own:
                break
    organised = replace(look, organisations=tuple(known.items()))
    return replace(features, content=organised), failure


_AT_ONCE = 50


class RecipientDomains:
    """Looks up MX records. The resolver caches the answers.

    Only a null MX is certain. A missing name may exist tomorrow, or only the upstream may know it,
    and a DNS that does not answer says nothing: such mail goes to the upstream, which does its own
    lookup. No legal requirement depends on it.
    """

    def __init__(self, resolver: Resolver, timeout: float) -> None:
        """`timeout`: seconds for all recipients of one step together."""
        self._resolver = resolver
        self._timeout = timeout

    async def null_mx(self, addresses: Iterable[str]) -> Mapping[str, bool]:
        """Return whether each canonical address's domain has a null MX, if that is known."""
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
            pass  # what was learned in time counts
        return {address: known[name] for address, name in domains.items() if name in known}

    async def _ask(self, domain: str, known: dict[str, bool]) -> None:
        try:
            exchangers = (await self._resolver.lookup(domain, "MX")).exchangers
        except DnsFailure:
            return
        # Beside other records it is a mistake (RFC 7505 section 3), and either may be meant.
        known[domain] = len(exchangers) == 1 and not exchangers[0].host


def _is_name(domain: str) -> bool:
    """Whether the domain can have an MX: an address literal or a name without a dot cannot."""
    return "." in domain and not domain.startswith("[")
