"""A client of the API: each operation is a method that takes and returns records.

    with Client("https://consent.example.com", token) as api:
        api.suppress(NewSuppression("anna@example.org", "marketing", Origin.OBJECTION))

A request without an answer, or told to come later, is retried automatically and carried out once,
because each write has an idempotency key. A request that is not carried out is an ApiError.
"""

import http.client
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from smtpproxy.policy.model import Origin, Source
from smtpproxy.store.exchange.contact_record import ContactRecord
from smtpproxy.web.api.by_mail import (
    ByMail,
    ConsentStart,
    ConsentStarted,
    PermissionLinks,
    PermissionLinksRequest,
)
from smtpproxy.web.api.consents import Consents, ConsentToRecord, RecordedConsent, Withdrawal
from smtpproxy.web.api.contacts import ContactQuestion, Contacts, Erased, Erasing, WrittenContact
from smtpproxy.web.api.import_jobs import Imports
from smtpproxy.web.api.imports import (
    ImportList,
    ImportQuery,
    ImportShown,
    RejectedLine,
)
from smtpproxy.web.api.operation import operation_of
from smtpproxy.web.api.problems import Problem
from smtpproxy.web.api.propagation import Changes, CheckRequest, Propagation, Results
from smtpproxy.web.api.streams import (
    Paused,
    PauseRequest,
    Resumed,
    ResumeRequest,
    StreamList,
    Streams,
)
from smtpproxy.web.api.suppressions import (
    AddedSuppressions,
    AddressQuestion,
    KnownSuppressions,
    Lift,
    Lifted,
    ListedSuppression,
    NewSuppression,
    NewSuppressions,
    Suppressions,
)
from smtpproxy.web.api.verdicts import (
    AddressVerdicts,
    Decisions,
    DecisionSearch,
    DecisionShown,
    VerdictRequest,
    Verdicts,
)

__all__ = [
    "ApiError",
    "ApiProblem",
    "ChangedMeanwhile",
    "CheckRequest",
    "Client",
    "ConsentStart",
    "ConsentToRecord",
    "ContactRecord",
    "DecisionSearch",
    "Erasing",
    "ImportQuery",
    "Lift",
    "NewSuppression",
    "NoAnswer",
    "NotFound",
    "NotPermitted",
    "Origin",
    "PauseRequest",
    "PermissionLinksRequest",
    "ResumeRequest",
    "Source",
    "StoredContact",
    "TryLater",
    "Withdrawal",
]

T = TypeVar("T", bound=Struct)


_LONGEST_WAIT = 30  # seconds between two attempts
_PAUSE = 1  # second after an attempt without an answer
_NO_ANSWER = (502, 504)  # from a proxy that got none itself


class ApiError(Exception):
    """The request was not carried out, or nobody knows whether it was."""


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
    """Nothing has that name."""


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


def _problem_of(status: int, content: bytes, retry: int | None) -> ApiProblem:
    """Return the error for an answer other than success."""
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except msgspec.MsgspecError:  # a proxy in between
        text = f"status {status}, but not from the API: is there a proxy in between?"
        problem = Problem("about:blank", "No answer from the API", status, text, "unknown")
    return _KINDS.get(status, ApiProblem)(problem, retry)


class StoredContact(Struct, frozen=True):
    """A contact, and its version for `Client.upsert_contact`."""

    contact: ContactRecord
    version: str


class Client:
    """One connection to the API of `url`, for one thread.

    Methods raise ApiError. They wait between attempts; in a program with an event loop, call them
    in a thread (`asyncio.to_thread`).
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 90.0,
        retries: int = 2,
        context: ssl.SSLContext | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`timeout` of an attempt is in seconds, longer than the longest wait for changes.

        There are `retries` if no answer came, or one that says to retry within 30 seconds.
        """
        self._retries = retries
        self._sleep = sleep
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url!r} is not an http or https URL")
        self._base = parts.path.rstrip("/")
        self._authorization = f"Bearer {token}"
        if parts.scheme == "https":
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=timeout
            )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def changes(self, since: int, *, limit: int = 1_000, wait: int = 0) -> Changes:
        query = {"since": since, "limit": limit, "wait": wait}
        return self._ask(Propagation.changes, query=query)

    def check_suppressions(self, asked: CheckRequest) -> Results:
        return self._ask(Propagation.check_suppressions, asked)

    def suppress(
        self, *suppressions: NewSuppression, keep_notes: bool = False
    ) -> AddedSuppressions:
        return self._ask(Suppressions.suppress, NewSuppressions(list(suppressions), keep_notes))

    def list_suppressions(self) -> Iterator[ListedSuppression]:
        """Yield all of them, page by page."""
        after: str | None = ""
        while after is not None:
            query = {"after": after, "limit": 1_000}
            page = self._ask(Suppressions.list_suppressions, query=query)
            yield from page.suppressions
            after = page.next

    def show_suppressions(self, address: str) -> KnownSuppressions:
        return self._ask(Suppressions.show_suppressions, AddressQuestion(address))

    def lift_suppressions(self, asked: Lift) -> Lifted:
        return self._ask(Suppressions.lift_suppressions, asked)

    def start_consent(self, asked: ConsentStart) -> ConsentStarted:
        return self._ask(ByMail.start_consent, asked)

    def permission_links(self, asked: PermissionLinksRequest) -> PermissionLinks:
        return self._ask(ByMail.permission_links, asked)

    def record_consent(self, asked: ConsentToRecord) -> RecordedConsent:
        return self._ask(Consents.record_consent, asked)

    def withdraw_consent(self, asked: Withdrawal) -> RecordedConsent:
        return self._ask(Consents.withdraw_consent, asked)

    def get_contact(self, address: str) -> StoredContact | None:
        try:
            found = self._answer(Contacts.get_contact, ContactQuestion(address))
        except NotFound as error:
            if error.error != "not_found":  # from a proxy in between
                raise
            return None
        return msgspec.json.decode(found, type=StoredContact)

    def upsert_contact(
        self, contact: ContactRecord, *, version: str | None = None
    ) -> WrittenContact:
        """Write a contact; with a `version`, only if that is still current. A new one has version
        ""."""
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        if version == "":
            headers = {"If-None-Match": "*"}
        written = self._answer(Contacts.upsert_contact, contact, headers=headers)
        return msgspec.json.decode(written, type=WrittenContact)

    def erase_contact(self, asked: Erasing) -> Erased:
        return self._ask(Contacts.erase_contact, asked)

    def check(self, stream: str, addresses: list[str]) -> AddressVerdicts:
        return self._ask(Verdicts.check, VerdictRequest(stream, addresses))

    def get_decision(self, id: str) -> Decisions:
        return self._ask(Verdicts.get_decision, id=id)

    def find_decisions(self, asked: DecisionSearch) -> Iterator[DecisionShown]:
        """Yield all matching decisions, page by page, the newest first."""
        while True:
            page = self._ask(Verdicts.find_decisions, asked)
            yield from page.decisions
            if page.next is None:
                return
            asked = msgspec.structs.replace(asked, after=page.next)

    def list_streams(self) -> StreamList:
        return self._ask(Streams.list_streams)

    def pause_stream(self, asked: PauseRequest) -> Paused:
        return self._ask(Streams.pause_stream, asked)

    def resume_stream(self, asked: ResumeRequest) -> Resumed:
        return self._ask(Streams.resume_stream, asked)

    def list_imports(self) -> ImportList:
        return self._ask(Imports.list_imports)

    def get_import(self, id: str) -> ImportShown:
        return self._ask(Imports.get_import, id=id)

    def start_import(self, file: Path, asked: ImportQuery) -> ImportShown:
        """Send a file; `get_import` returns its progress."""
        query = {
            name: content
            for name, content in msgspec.to_builtins(asked).items()
            if content not in (None, [], ())
        }
        return self._ask(Imports.start_import, query=query, file=file)

    def rejected_lines(self, id: str) -> Iterator[RejectedLine]:
        """Yield all of them, page by page."""
        after: int | None = 0
        while after is not None:
            page = self._ask(Imports.rejected_lines, id=id, query={"after": after})
            yield from page.rejected
            after = page.next

    def cancel_import(self, id: str) -> ImportShown:
        return self._ask(Imports.cancel_import, id=id)

    def undo_import(self, id: str) -> ImportShown:
        return self._ask(Imports.undo_import, id=id)

    def _ask(self, method: Callable[..., Awaitable[T]], *asked: Struct, **more: Any) -> T:
        answers = cast(type[T], operation_of(method).answers)
        return msgspec.json.decode(self._answer(method, *asked, **more), type=answers)

    def _answer(
        self,
        method: Callable[..., Awaitable[Struct]],
        asked: Struct | None = None,
        *,
        id: str = "",
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> bytes:
        asked_for = f"?{urlencode(query, doseq=True)}" if query else ""
        operation = operation_of(method)
        target = self._base + operation.path.replace("{id}", quote(id, safe="")) + asked_for
        body = None if asked is None else msgspec.json.encode(asked)
        sent = {"Authorization": self._authorization, **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        if operation.keyed:
            sent["Idempotency-Key"] = str(uuid.uuid4())
        for left in range(self._retries, -1, -1):
            try:
                status, content, retry = self._exchange(
                    operation.method, target, file or body, sent
                )
            except NoAnswer:
                if not left:
                    raise
                self._sleep(_PAUSE)
                continue
            if status == operation.status:
                return content
            if not left or retry is None or retry > _LONGEST_WAIT:
                raise _problem_of(status, content, retry)
            self._sleep(retry)
        raise AssertionError("unreachable")

    def _exchange(
        self, method: str, target: str, body: bytes | Path | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, int | None]:
        """Return status, body and Retry-After. Raises NoAnswer."""
        used = self._connection.sock is not None
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may already have answered
                self._send(method, target, body, headers)
            response = self._connection.getresponse()
            content, retry = response.read(), response.getheader("Retry-After") or ""
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            if used and isinstance(error, ConnectionError):  # it was closed meanwhile
                return self._exchange(method, target, body, headers)
            raise NoAnswer(f"no answer from the API: {error}") from error
        if response.status in _NO_ANSWER:
            raise NoAnswer(f"no answer from the API: a proxy answered {response.status}")
        return response.status, content, int(retry) if retry.isdecimal() else None

    def _send(
        self, method: str, target: str, body: bytes | Path | None, headers: Mapping[str, str]
    ) -> None:
        if not isinstance(body, Path):
            self._connection.request(method, target, body, dict(headers))
            return
        with body.open("rb") as file:
            size = {"Content-Length": str(body.stat().st_size)}
            self._connection.request(method, target, file, {**headers, **size})
