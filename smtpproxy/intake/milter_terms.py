"""What the milter intake asks of an MTA, and what MTAs do differently."""

from collections.abc import Callable

from smtpproxy.wire.milter import Actions, Stage, Steps

ACTIONS = Actions.CHANGE_HEADERS | Actions.DELETE_RECIPIENTS | Actions.SET_MACROS
STEPS = (
    Steps.NO_DATA
    | Steps.NO_UNKNOWN
    | Steps.NO_END_OF_HEADERS
    | Steps.UNANSWERED_CONNECT
    | Steps.UNANSWERED_HELO
    | Steps.UNANSWERED_MAIL
    | Steps.UNANSWERED_HEADERS
    | Steps.UNANSWERED_BODY
    | Steps.LEADING_SPACE
)
"""Only RCPT and the end of a message need an answer."""

MACROS = {
    Stage.CONNECT: ("v", "{client_addr}"),
    Stage.MAIL: ("i", "{auth_authen}"),
    Stage.RCPT: ("{rcpt_mailer}",),
    Stage.END_OF_MESSAGE: ("i",),
}

_SMTP_MAILERS = frozenset({"smtp", "esmtp", "smtp8", "dsmtp", "relay"})
"""Sendmail's own, which know no aliases; which others do is a matter of its configuration."""

Macro = Callable[[str], str | None]
"""The value of a macro, None where the MTA did not tell it."""


def is_postfix(macro: Macro) -> bool:
    return (macro("v") or "").startswith("Postfix")


def without_smtp(macro: Macro) -> bool:
    """Whether mail came to Postfix by no SMTP session (non_smtpd_milters).

    Asked at MAIL. Then a refusal at RCPT is a fault of the configuration to Postfix, and jams
    the message; the verdict has to wait for its end. Nor can a recipient be taken away by what
    we are told: Postfix adds domains first, and looks for what the program wrote. Only there
    is a queue id before the first recipient.
    """
    return bool(macro("i")) and is_postfix(macro)


def forgets_recipient(macro: Macro) -> bool:
    """Whether the MTA may not find this recipient again when it is to be taken away.

    Asked at RCPT. Sendmail expands the aliases of its local mailers at once, and then sends to
    whom they lead, whatever becomes of the recipient; Postfix does it afterwards.
    """
    return not is_postfix(macro) and macro("rcpt_mailer") not in _SMTP_MAILERS


def mails_refused(macro: Macro, path: str) -> bool:
    """Whether the MTA may mail somebody whom it was told to refuse at RCPT, or forget another.

    Sendmail looks by the path, read as a list, for whom to take away again: a path with commas
    that is no single address can hit others, and miss the one it meant.
    """
    return "," in path and not is_postfix(macro)


def client_address(macro: Macro, family: str, address: str) -> str:
    """The IP address of the MTA's client, or `unix`, or `unknown`."""
    if family == "L":
        return "unix"
    found = macro("client_addr") or address or "unknown"
    return found[5:] if found[:5].lower() == "ipv6:" else found
