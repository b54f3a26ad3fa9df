"""The one message that asks, when the time of a basis is over, whether a person wants to go on.

At the end of the three years without a sign of life the CNIL lets a sender ask once more; silence
is a no (A17). It is asked on a stream of class `permission`, within the rulebook's window.
"""

from msgspec.structs import replace

from smtpproxy.policy.model import Basis, Mailing, Reason, Verdict
from smtpproxy.policy.periods import beginning, within
from smtpproxy.policy.rules import RecipientCase, allow, refuse
from smtpproxy.policy.rules.bases import FAILURES

_ENDED = frozenset({Reason.CONSENT_EXPIRED, Reason.CUSTOMER_STALE, Reason.INACTIVE})
"""What a basis lacks when only time has passed: these are asked last, after all else holds."""

_MAY_BE_ASKED = allow("permission", Basis.PERMISSION)
_NOT_DUE = refuse("permission", Reason.PERMISSION_NOT_DUE)
_REPEATED = refuse("permission", Reason.PERMISSION_REPEATED)


def permission(case: RecipientCase) -> Verdict | None:
    """Allow it once, in the window after the last basis ended; None where none ever was.

    A basis that still holds needs no question.
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
    # What holds no more, and held so long ago, ended in between.
    earlier = basis_failures(replace(case, now=beginning(case.now, window)))
    if all(earlier[basis] is not Reason.NONE for basis in ended):
        return _NOT_DUE
    return _MAY_BE_ASKED if asked(case) is None else _REPEATED


def has_nothing_to_ask(case: RecipientCase, verdict: Verdict) -> bool:
    """Whether it is refused because a basis holds."""
    return (
        verdict.reason is Reason.PERMISSION_NOT_DUE and Reason.NONE in basis_failures(case).values()
    )


def basis_failures(case: RecipientCase) -> dict[Basis, Reason]:
    """Return what each basis of the rulebook that rests on a record lacks, NONE where it holds."""
    return {basis: FAILURES[basis](case) for basis in case.rulebook.bases if basis in FAILURES}


def asked(case: RecipientCase) -> Mailing | None:
    """Return the message by which the brand asked in this window, None where it has not."""
    stream, window = case.stream, case.rulebook.permission_window
    return next(
        (
            mailing
            for mailing in reversed(case.facts.mailings)
            if mailing.stream == stream.counted_as and within(mailing.at, window, case.now)
        ),
        None,
    )
