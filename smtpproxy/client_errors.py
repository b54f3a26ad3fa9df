"""The errors that smtpproxy.client raises."""

from collections.abc import Mapping

import msgspec

from smtpproxy.web.api.problems import Problem


class ApiError(Exception):
    """The request was not carried out, or that is not known."""


class NoAnswer(ApiError):
    """No attempt got an answer; the cause is chained."""


class ApiProblem(ApiError):
    """The API says why the request is refused. `retry_after` is in seconds, if a retry may help."""

    def __init__(self, problem: Problem, retry_after: int | None) -> None:
        super().__init__(f"{problem.error}: {problem.detail}")
        self.problem = problem
        self.error = problem.error
        self.retry_after = retry_after


class NotPermitted(ApiProblem):
    """The token is not known, or lacks a right or a brand."""


class NotFound(ApiProblem):
    """There is nothing of that name."""


class ChangedMeanwhile(ApiProblem):
    """Somebody else has changed it: get it again and decide again."""


class TryLater(ApiProblem):
    """Too many requests, or not possible now."""


_KINDS: Mapping[int, type[ApiProblem]] = {
    401: NotPermitted,
    403: NotPermitted,
    404: NotFound,
    412: ChangedMeanwhile,
    429: TryLater,
    503: TryLater,
}


def problem_of(status: int, content: bytes, retry: int | None) -> ApiProblem:
    """Return the error for an answer other than success."""
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except msgspec.MsgspecError:  # a proxy in between
        text = f"status {status}, and not of the API: a proxy in between?"
        problem = Problem("about:blank", "No answer of the API", status, text, "unknown")
    return _KINDS.get(status, ApiProblem)(problem, retry)
