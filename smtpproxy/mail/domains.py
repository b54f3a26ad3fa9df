"""Organisational domains, by the public suffix list (RFC 7489 3.2)."""

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4_096)
def organisational_domain(domain: str) -> str:
    """Return the domain that somebody registered: `example.co.uk` of `news.example.co.uk`.

    `domain` is a lower-case A-label; one that is a public suffix itself, or no domain at all
    (an address literal), is its own. The list is the one that came with the installation.
    """
    if not domain or domain.startswith("["):
        return domain
    return _suffixes().privatesuffix(domain) or domain


def all_aligned(domains: Iterable[str], others: Collection[str], *, strict: bool = False) -> bool:
    """Whether each of the domains is among the others (`strict`), or of the organisation of one
    of them (DMARC alignment). Linear in how many there are."""
    left = set(domains).difference(others)
    if strict or not left:
        return not left
    organisations = set(map(organisational_domain, others))
    return all(organisational_domain(each) in organisations for each in left)


@lru_cache(maxsize=1)
def _suffixes() -> Any:
    """Read with the first use: the list takes a tenth of a second."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
