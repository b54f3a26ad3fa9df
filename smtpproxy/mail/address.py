"""Mail addresses: canonical form and widened keys (design.md section 8, rules.md E)."""


class AddressError(ValueError):
    """Not an address; the message says what is wrong and what would be right."""


def canonical(address: str) -> str:
    """Return the form that matching is on: unquoted, NFC, casefolded, domain as A-label."""
    raise NotImplementedError


def widened(canonical_address: str) -> str:
    """Return the key form shared by variants of one mailbox.

    The plus-tag is removed on any domain, dots on Gmail's only (googlemail.com is
    gmail.com). Two equal canonical addresses have equal widened forms. It may only
    refuse, never allow.
    """
    raise NotImplementedError


def domain_of(address: str) -> str:
    raise NotImplementedError
