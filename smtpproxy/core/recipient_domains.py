"""Whether the recipients' domains say that they take no mail (RFC 7505)."""

import asyncio
from collections.abc import Iterable, Mapping

from smtpproxy.resolver import DnsFailure, Resolver

_AT_ONCE = 50


class RecipientDomains:
    """Asks for MX records. The resolver remembers the answers.

    Only a null MX is certain. A name that is not there may be there tomorrow, or be known
    to the upstream alone, and a DNS that does not answer tells nothing: such mail goes on to
    the upstream, which asks for itself. What the law asks of mail does not hang on it.
    """

    def __init__(self, resolver: Resolver, patience: float) -> None:
        """`patience` is how many seconds all the recipients of one step may take together."""
        self._resolver = resolver
        self._patience = patience

    async def null_mx(self, addresses: Iterable[str]) -> Mapping[str, bool]:
        """Return for canonical addresses whether their domain has a null MX, where it is known."""
        domains = {address: address.rpartition("@")[2] for address in addresses}
        names = [name for name in dict.fromkeys(domains.values()) if _is_name(name)]
        known: dict[str, bool] = {}
        try:
            async with asyncio.timeout(self._patience):
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
