"""The one message that asks, when a basis has expired, whether a person wants to continue.

After three years without a sign of life, the CNIL lets a sender ask once more; silence means no
(A17). The question is asked on a stream of class `permission`, within the rulebook's window.
"""

from msgspec.structs import replace

from smtpproxy.policy.model import Basis, Mailing, Reason, Verdict
from smtpproxy.policy.periods import beginning, within
from smtpproxy.policy.rules import RecipientCase, allow, refuse
from smtpproxy.policy.rules.bases import FAILURES

_ENDED = frozenset({Reason.CONSENT_EXPIRED, Reason.CUSTOMER_STALE, Reason.INACTIVE})
"""What a basis lacks if only its time is over: these conditions are checked last."""

_MAY_BE_ASKED = allow("permission", Basis.PERMISSION)
_NOT_DUE = refuse("permission", Reason.PERMISSION_NOT_DUE)
_REPEATED = refuse("permission", Reason.PERMISSION_REPEATED)


def permission(case: RecipientCase) -> Verdict | None:
    """Allow one message in the window after the last basis expired; None if there was none.

    While a basis holds, there is nothing to ask.
    """
    failures = basis_failures(case)
    if Basis.OPT_OUT in case.rulebook.bases or Reason.NONE in failures.values():
        return _NOT_DUE
    ended = [basis for basis, failure in failures.items() if failure in _ENDED]
    if not ended:
        return None
    window = case.rulebook.permission_window
    if window is None:
        return _NOT_DUE
    # A basis that fails now and held at the beginning of the window expired within it.
    earlier = basis_failures(replace(case, now=beginning(case.now, window)))
    if all(earlier[basis] is not Reason.NONE for basis in ended):
        return _NOT_DUE
    return _MAY_BE_ASKED if asked(case) is None else _REPEATED


def has_nothing_to_ask(case: RecipientCase, verdict: Verdict) -> bool:
    """Whether the question is refused because a basis holds."""
    return (
        verdict.reason is Reason.PERMISSION_NOT_DUE and Reason.NONE in basis_failures(case).values()
    )


def basis_failures(case: RecipientCase) -> dict[Basis, Reason]:
    """Return what each recorded basis of the rulebook lacks, NONE if it holds."""
    return {basis: FAILURES[basis](case) for basis in case.rulebook.bases if basis in FAILURES}


def asked(case: RecipientCase) -> Mailing | None:
    """Return the message by which the brand already asked in this window, if any."""
    stream, window = case.stream, case.rulebook.permission_window
    return next(
        (
            mailing
            for mailing in reversed(case.facts.mailings)
            if mailing.stream == stream.counted_as and within(mailing.at, window, case.now)
        ),
        None,
    )
