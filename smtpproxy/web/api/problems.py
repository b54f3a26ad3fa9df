"""Answers to refused requests: problem details (RFC 9457), by kind."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

MEDIA_TYPE = "application/problem+json"


class Kind(Struct, frozen=True):
    """One problem: its status, and a title that is always the same."""

    status: int
    title: str


KINDS: Mapping[str, Kind] = {
    "body_wrong": Kind(400, "The body is not as described."),
    "parameter_wrong": Kind(400, "A parameter is not as described."),
    "parameter_unknown": Kind(400, "There is no such parameter."),
    "scope_wrong": Kind(400, "This is not a scope."),
    "purpose_unknown": Kind(400, "No stream has the purpose."),
    "stream_wrong": Kind(400, "The stream does not fit the request."),
    "reason_wrong": Kind(400, "The reason is free text, which may contain personal data."),
    "header_twice": Kind(400, "A header field is given twice."),
    "gone": Kind(400, "The request ended early."),
    "token_missing": Kind(401, "There is no token."),
    "token_unknown": Kind(401, "The token is not known."),
    "not_permitted": Kind(403, "The token lacks the right."),
    "not_of_your_brand": Kind(403, "The token is not for this brand, or for all of them."),
    "not_found": Kind(404, "There is nothing with that name."),
    "not_allowed": Kind(405, "The path does not accept this method."),
    "target_too_long": Kind(414, "The path and query are too long."),
    "header_too_large": Kind(431, "The header section is too large."),
    "internal": Kind(500, "An internal failure."),
    "in_progress": Kind(409, "The same request is being done."),
    "not_confirmable": Kind(409, "There is nothing to confirm."),
    "changes_gone": Kind(410, "The log of changes does not reach back that far."),
    "changed_meanwhile": Kind(412, "It was changed in the meantime."),
    "not_undoable": Kind(409, "The import cannot be undone."),
    "too_large": Kind(413, "The request is too large."),
    "key_reused": Kind(422, "The idempotency key was used for a different request."),
    "too_many_requests": Kind(429, "The token makes too many requests."),
    "too_many_jobs": Kind(429, "Too many imports are waiting for their turn."),
    "too_many_mails": Kind(429, "Too many confirmations were sent to this address, or to all."),
    "takes_too_long": Kind(503, "The request takes too long."),
    "relay_unavailable": Kind(503, "The relay does not accept the mail at the moment."),
    "store_unavailable": Kind(503, "The store does not answer at the moment."),
    "disk_full": Kind(507, "There is no room for the file."),
}


class Problem(Struct, frozen=True):
    """Why a request was refused (RFC 9457)."""

    type: Annotated[str, Meta(description="Where this kind of problem is described.")]
    title: Annotated[str, Meta(description="The kind of problem; always the same text.")]
    status: Annotated[int, Meta(description="The HTTP status.")]
    detail: Annotated[str, Meta(description="What is wrong this time, for people.")]
    error: Annotated[str, Meta(description="The kind, as a word for programs.")]


class Gone(Problem, frozen=True):
    """The log of changes does not reach back to `since`."""

    since: int
    next: Annotated[int, Meta(description="Send as `since` after a whole export.")]


_RIGHT = {
    "not_found": "no operation has this path; expected one of those in /v1/docs"
    " (/v1/consents and /v1/permission-links take a [confirmation] in the configuration)",
    "not_allowed": "the operations of this path have other methods; expected one in Allow",
}
"""Details for requests that match no operation."""

_OF_HTTP = ("not_found", "not_allowed", "target_too_long", "header_too_large", "internal")


def problem_of(status: int, detail: str) -> Problem | None:
    """Return the problem of a request that matches no operation; None for other statuses."""
    for error in _OF_HTTP:
        if KINDS[error].status == status:
            return Refused(error, _RIGHT.get(error, detail)).body
    return None


def encoded(problem: Problem, path: str) -> bytes:
    """Return the answer to a request for a path under /v1.

    `type` becomes relative to that path: a proxy may serve the API below another one.
    """
    up = "../" * (path.count("/") - 2)
    return msgspec.json.encode(replace(problem, type=up + problem.type))


class Refused(Exception):
    """A refused request; `error` is one of KINDS."""

    def __init__(
        self, error: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        kind = KINDS[error]
        self.status = kind.status
        self.body = Problem(f"docs#{error}", kind.title, kind.status, detail, error)
        self.headers = dict(headers or {})


class RefusedChanges(Refused):
    """The changes asked for are no longer in the log."""

    def __init__(self, detail: str, since: int, newest: int) -> None:
        super().__init__("changes_gone", detail)
        self.body = Gone(**asdict(self.body), since=since, next=newest)
