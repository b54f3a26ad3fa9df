"""The unsubscribe links: GET shows a page and changes nothing, POST unsubscribes.

RFC 8058: programs that look at links before people do (scanners, previews) send GET; a
mail program's button sends one POST without login, and takes no redirect for an answer.
What is answered to a link says nothing of what is known of its recipient.
"""

import asyncio
import re
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Literal, Protocol
from urllib.parse import parse_qsl

import structlog
from markupsafe import Markup
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from smtpproxy.locale import PAGE_LANGS, REFERENCE, Lang
from smtpproxy.locale.pages import environment
from smtpproxy.mail.unsubscribe_token import TokenError, Unsubscription, stream_tag
from smtpproxy.policy.breaker import Heard
from smtpproxy.policy.model import Origin
from smtpproxy.sinks.metrics import Labels, Snapshot
from smtpproxy.store.protocols import StoreUnavailable, SuppressionEntry, SuppressionStore
from smtpproxy.web.tokens import Bucket

State = Literal["ask", "done", "unknown", "trouble", "too_often", "gone"]

STYLE = """
body { font: 18px/1.5 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto 0; padding: 0 1rem;
       color: #1c1c1c; background: #fff }
h1 { font-size: 1.5rem }
button { font: inherit; padding: .6rem 1.4rem; border: 0; border-radius: .3rem; color: #fff;
         background: #14508c; cursor: pointer }
button:focus-visible { outline: 3px solid #d27800; outline-offset: 2px }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #161616 } }
"""
_STYLE_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()

HEADERS: Mapping[str, str] = {  # beside those of every answer (see `boundary`)
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "Vary": "Accept-Language",
    "X-Robots-Tag": "noindex, nofollow",
}

FROM_PAGE = "page"
"""The value of the form's field `from`: the button was pressed, by no mail program."""


def page(state: State, lang: Lang, scope: str | None = None) -> str:
    """Return the page. `scope` is what is unsubscribed from, for `ask` and `done`.

    The form has no target: it posts to the link itself, wherever a proxy put that.
    """
    return (
        environment(lang)
        .get_template("unsubscribe.html")
        .render(state=state, scope=scope, style=Markup(STYLE), from_page=FROM_PAGE)
    )


def language_of(accept_language: str) -> Lang:
    """Return the language of an Accept-Language header (RFC 9110 12.5.4) that the page has."""
    best, weight = REFERENCE, 0.0
    for item in accept_language[:500].split(","):
        tag, _, parameter = item.strip().lower().partition(";")
        primary = tag.strip().partition("-")[0]
        try:
            quality = float(parameter.strip().removeprefix("q=")) if parameter else 1.0
        except ValueError:
            continue
        if quality > weight and primary in PAGE_LANGS:
            best, weight = primary, quality
    return best


UNKNOWN = "unknown"
"""The stream of a link that no configured stream has made."""

_URLENCODED, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
"""RFC 8058 3.2. What names no type is read as the first."""
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)', re.IGNORECASE)
_FIELD_NAME = re.compile(
    rb'^content-disposition:[^\r\n]*;[ \t]*name="?([^";\r\n]*)', re.IGNORECASE | re.MULTILINE
)
LARGEST_FORM = 16 * 1024  # octets
_BODY_WITHIN = 20.0  # seconds
PER_MINUTE = 10  # of one link
_LINKS = 10_000  # whose rates are remembered
_SAME_WISH = 86_400.0  # seconds in which another POST is no second person's
_STATUS: dict[State, int] = {
    "ask": 200,
    "done": 200,
    "unknown": 404,
    "trouble": 503,
    "too_often": 429,
    "gone": 410,
}

log = structlog.get_logger(__name__)


class LinkTokens(Protocol):
    """Reads tokens: see `store.key_files.LinkReader`."""

    def open(self, token: str) -> Unsubscription: ...


class Listening(Protocol):
    """What is told of every link that was used: see `store.breaker.Breaker`."""

    async def heard(self, kind: Heard, stream: str, id: str, person: str) -> bool: ...


class Unsubscribe:
    """The routes of the links, and how often people unsubscribed.

    `writer` gives the store to write to, opened when it is first needed.
    """

    def __init__(
        self,
        tokens: LinkTokens,
        writer: Callable[[], SuppressionStore],
        streams: Iterable[str],
        *,
        now: Callable[[], datetime],
        breaker: Listening | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = tokens
        self._writer = writer
        self._breaker = breaker
        self._streams = {stream_tag(name): name for name in streams}
        self._now = now
        self._clock = clock
        self._rates: OrderedDict[str, Bucket] = OrderedDict()
        self._counted: dict[Labels, float] = {}
        for lang in PAGE_LANGS:  # reads the files now, not during a request
            page("unknown", lang)

    @property
    def routes(self) -> list[Route]:
        return [Route("/u/{token}", self._endpoint, methods=["GET", "POST"])]

    def snapshot(self) -> Snapshot:
        return Snapshot(counters={"feedback_total": dict(self._counted)})

    async def _endpoint(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._unsubscribe(request)
        return await self._show(request)

    async def _show(self, request: Request) -> Response:
        try:
            told = self._tokens.open(request.path_params["token"])
        except TokenError:
            return _answer(request, "unknown")
        except StoreUnavailable as error:
            log.error("unsubscribe_keys_failed", error=str(error))
            return _answer(request, "trouble")
        return _answer(request, "ask", told.scope)

    async def _unsubscribe(self, request: Request) -> Response:
        token = request.path_params["token"]
        try:
            told = self._tokens.open(token)
            if self._too_often(token):
                return _answer(request, "too_often")
            kind, _, parameters = request.headers.get("content-type", _URLENCODED).partition(";")
            if (kind := kind.strip().lower()) not in (_URLENCODED, _MULTIPART):
                return _answer(request, "ask", told.scope, status=415)
            body = await form_body(request)
            form = _multipart(parameters, body) if kind == _MULTIPART else urlencoded(body)
            if form.get("list-unsubscribe", "").lower() != "one-click":
                return _answer(request, "ask", told.scope, status=400)
            await self._carry_out(told, by_page=form.get("from") == FROM_PAGE)
        except TokenError as error:
            log.debug("unsubscribe_link_unknown", cause=str(error))  # anybody can ask at will
            return _answer(request, "unknown")
        except StoreUnavailable as error:
            log.error("unsubscribe_failed", error=str(error))
            return _answer(request, "trouble")
        except _Void as error:
            log.error("unsubscribe_link_void", id=told.id, error=str(error))
            return _answer(request, "gone")
        return _answer(request, "done", told.scope)

    async def _carry_out(self, told: Unsubscription, *, by_page: bool) -> None:
        """Write the suppression; it is on the disk when this returns.

        A second POST moves it to now, so that it outweighs a consent given in between.
        Raises StoreUnavailable, _Void.
        """
        now = self._now()
        entry = SuppressionEntry(
            told.recipient, told.scope, Origin.UNSUBSCRIBE, now, f"link of id={told.id}"
        )
        store = self._writer()
        try:
            (standing,) = await store.standing([entry])
            await store.add_suppressions([entry])
        except ValueError as error:  # the key of a hashed address was retired
            raise _Void(str(error)) from error
        again = standing is not None and (now - standing).total_seconds() < _SAME_WISH
        stream = self._streams.get(told.stream, UNKNOWN)
        if not again:
            row = ("unsubscribe", stream)
            self._counted[row] = self._counted.get(row, 0) + 1
        log.info(
            "unsubscribed",
            id=told.id,
            stream=stream,
            scope=told.scope,
            by="page" if by_page else "one_click",
            again=again,
        )
        if self._breaker is None:
            return
        try:
            await self._breaker.heard(Heard.UNSUBSCRIBE, stream, told.id, told.recipient)
        except StoreUnavailable as error:  # the wish itself is on the disk
            log.warning("unsubscribe_not_counted", id=told.id, error=str(error))

    def _too_often(self, token: str) -> bool:
        """Only someone with a link can use up its rate, so nobody can use up another's."""
        bucket = self._rates.pop(token, None) or Bucket(PER_MINUTE)
        self._rates[token] = bucket
        if len(self._rates) > _LINKS:
            self._rates.popitem(last=False)
        return bucket.take(self._clock()) > 0


class _Void(Exception):
    """One of our links that can no longer be used."""


async def form_body(request: Request) -> bytes:
    """Return the body, empty when it is too large or does not come."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_WITHIN):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_FORM:
                    return b""
    except (ClientDisconnect, TimeoutError):
        return b""
    return body


def urlencoded(body: bytes) -> dict[str, str]:
    """Return the fields of a form by lower-case name; none of what is no form."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return {}
    return {name.strip().lower(): value.strip() for name, value in pairs}


def _multipart(parameters: str, body: bytes) -> dict[str, str]:
    """Return the same of a form of RFC 7578."""
    found = _BOUNDARY.search(parameters)
    if found is None:
        return {}
    delimiter = b"\n--" + (found[1] or found[2]).encode("latin-1")
    lines = b"\n" + body.replace(b"\r\n", b"\n")  # a bare LF is taken too: people come first
    fields = {}
    for part in lines.split(delimiter, 20)[1:-1]:
        head, _, value = part.partition(b"\n\n")
        if name := _FIELD_NAME.search(head):
            fields[name[1].decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
    return fields


def _answer(
    request: Request, state: State, scope: str | None = None, *, status: int | None = None
) -> Response:
    headers = dict(HEADERS)
    if state in ("trouble", "too_often"):
        headers["Retry-After"] = "60"
    language = language_of(request.headers.get("accept-language", ""))
    return HTMLResponse(page(state, language, scope), status or _STATUS[state], headers)
