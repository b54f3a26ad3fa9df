"""The unsubscribe links: GET shows a page and changes nothing, POST acts.

RFC 8058: programs that open links before people do (scanners, previews) send GET; a mail program's
button sends one POST without login, and accepts no redirect.

The answers reveal nothing about the recipient, except their language if the browser asks for none
that the pages have.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from functools import lru_cache
from typing import Literal, cast

import structlog
from msgspec import structs
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from smtpproxy.locale import Lang
from smtpproxy.locale.pages import environment, load_pages
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.unsubscribe_token import TokenError, Unsubscription, stream_tag
from smtpproxy.policy.breaker import Feedback
from smtpproxy.policy.model import BUILT_IN_BRAND, Stream
from smtpproxy.policy.scopes import Scopes
from smtpproxy.sinks.snapshots import Labels, Samples, Snapshot
from smtpproxy.store.breaker import Breaker
from smtpproxy.store.link_keys import LinkReader
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.web.forms import OtherType, read_form
from smtpproxy.web.look import Look
from smtpproxy.web.personal import PersonalPages
from smtpproxy.web.rates import LinkRates
from smtpproxy.web.wishes import Often, Wishes, opened, sealed

State = Literal[
    "ask",
    "done",
    "saved",
    "untracked",
    "undone",
    "late",
    "mailed",
    "unknown",
    "trouble",
    "too_often",
    "gone",
]

FROM_PAGE = "page"
"""The value of the form field `from`: the button on the page was pressed."""
UNKNOWN = "unknown"
"""The stream of a link whose stream is not configured."""
_STATUS: Mapping[str, int] = {"unknown": 404, "trouble": 503, "too_often": 429, "gone": 410}
_OFTEN = ("weekly", "monthly", "none")

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Unsubscribe:
    """The routes of the links, with counts of what was asked for.

    `writer` returns the store to write to, opened at first use; `streams` are those of the
    settings. Without `personal` the page cannot send mail.
    """

    tokens: LinkReader
    writer: Callable[[], Store]
    streams: Mapping[str, Stream]
    looks: Mapping[str, Look]
    _: KW_ONLY
    now: Callable[[], datetime]
    breaker: Breaker | None = None
    clock: Callable[[], float] = time.monotonic
    personal: PersonalPages | None = None

    def __post_init__(self) -> None:
        self._wishes = Wishes(self.writer, self.now)
        self._by_tag = {stream_tag(name): stream for name, stream in self.streams.items()}
        self._scopes = Scopes.of(self.streams, self.looks)
        brands = [look for look in self.looks.values() if look.brand != BUILT_IN_BRAND]
        self._otherwise = brands[0] if len(brands) == 1 else self.looks[BUILT_IN_BRAND]
        self._heard: deque[tuple[Unsubscription, str]] = deque()
        self._telling: asyncio.Task[None] | None = None
        self._rates = LinkRates(self.clock)
        self._counted: Counter[Labels] = Counter()
        self._failed = 0
        load_pages()

    @property
    def routes(self) -> list[Route]:
        return [Route("/u/{token:path}", self._endpoint, methods=["GET", "POST"])]

    def snapshot(self) -> Snapshot:
        failed: Samples = {("unsubscribe",): self._failed}
        return Snapshot(
            counters={"feedback_total": dict(self._counted), "web_failures_total": failed}
        )

    async def _endpoint(self, request: Request) -> Response:
        token = request.path_params["token"]
        visit = Visit(self.looks[BUILT_IN_BRAND], request.headers.get("accept-language", ""))
        try:
            link = self._as_of_now(self.tokens.open(token))
            visit = await self._visit(request, link)
            if request.method != "POST":
                return visit.page("ask")
            if self._rates.too_often(token):
                return visit.page("too_often")
            return await self._act(visit, link, await read_form(request))
        except TokenError as error:
            log.debug("unsubscribe_link_unknown", cause=str(error))  # anybody can cause this
            return visit.page("unknown")
        except OtherType:
            return visit.page("ask", status=415)
        except StoreUnavailable as error:
            log.error("unsubscribe_failed", error=str(error))
            self._failed += 1
            return visit.page("trouble")
        except _Void as error:
            log.error("unsubscribe_link_void", id=visit.id, error=str(error))
            return visit.page("gone")

    def _as_of_now(self, link: Unsubscription) -> Unsubscription:
        """Return a link's content with the current names of brands and purposes."""
        scope = self._scopes.of_link(link.scope, self._by_tag.get(link.stream))
        return link if scope == link.scope else structs.replace(link, scope=scope)

    async def _visit(self, request: Request, link: Unsubscription) -> "Visit":
        stream = self._by_tag.get(link.stream)
        accepted = request.headers.get("accept-language", "")
        visit = Visit(
            self.looks.get(stream.brand, self._otherwise) if stream else self._otherwise,
            accepted,
            link,
            stream.name if stream else UNKNOWN,
            personal=self.personal is not None,
        )
        # Otherwise it is a mail program.
        if visit.asked is None and (accepted or request.method != "POST"):
            visit.tag = await self._language_of(link.recipient)
        return visit

    async def _language_of(self, recipient: str) -> str | None:
        """Return a person's language, if it is on record and the store answers."""
        try:
            contact = await self.writer().contact(canonical(recipient))
        except (AddressError, StoreUnavailable):
            return None
        return contact.language if contact else None

    async def _act(self, visit: "Visit", link: Unsubscription, form: dict[str, str]) -> Response:
        """Do what a form asks for. Raises StoreUnavailable, TokenError, _Void."""
        try:
            if form.get("list-unsubscribe", "").lower() == "one-click":
                return await self._stop(visit, link, form)
            match form.get("do"):
                case "undo":
                    return await self._undo(visit, link, form.get("undo", ""))
                case "prefer":
                    return await self._prefer(visit, link, form)
                case "untrack" if visit.is_identified:
                    return await self._untrack(visit, link)
                case "link" if self.personal is not None and visit.is_identified:
                    await self.personal.send(visit.address, visit.look.brand, visit.lang)
                    return visit.page("mailed")
        except ValueError as error:  # the key of a hashed address was retired
            if isinstance(error, TokenError):
                raise
            raise _Void(str(error)) from error
        return visit.page("ask", status=400)

    async def _stop(
        self, visit: "Visit", link: Unsubscription, form: Mapping[str, str]
    ) -> Response:
        look, all_of = visit.look, form.get("all")
        scopes, stopped = [link.scope], "this"
        if all_of == "brand" and look.title:
            scopes, stopped = [look.scope], "brand"
        elif all_of == "controller" and len(look.siblings) > 1:
            scopes, stopped = [f"brand:{name}" for name, _ in look.siblings], "controller"
        by_page = form.get("from") == FROM_PAGE
        done = await self._wishes.stop(link, scopes, undoable=by_page)
        if not done.again:
            self._counted["unsubscribe", visit.stream] += 1
        log.info(
            "unsubscribed",
            id=link.id,
            stream=visit.stream,
            scope=" ".join(scopes),
            by="page" if by_page else "one_click",
            again=done.again,
        )
        self._hear(link, visit.stream)
        undo = sealed(done.undo, self.tokens) if by_page else ""
        return visit.page("done", stopped, undo=undo)

    def _hear(self, link: Unsubscription, stream: str) -> None:
        if self.breaker is not None:
            self._heard.append((link, stream))
            if self._telling is None:
                self._telling = asyncio.create_task(self._tell(self.breaker))

    async def _tell(self, breaker: Breaker) -> None:
        """Have unsubscribes counted; no answer waits for it, as the suppression is on disk."""
        try:
            while self._heard:
                link, stream = self._heard.popleft()
                try:
                    await breaker.heard(Feedback.UNSUBSCRIBE, stream, link.id, link.recipient)
                except StoreUnavailable as error:
                    log.warning("unsubscribe_not_counted", id=link.id, error=str(error))
                await asyncio.sleep(0)  # answers come first
        finally:
            self._telling = None

    async def _undo(self, visit: "Visit", link: Unsubscription, token: str) -> Response:
        try:
            undo = opened(token, self.tokens)
        except TokenError:
            return visit.page("late")
        done = await self._wishes.undo(link, undo)
        if done:
            self._counted["undo", visit.stream] += 1
        log.info("unsubscribe_undone", id=link.id, stream=visit.stream, done=done)
        return visit.page("undone" if done else "late")

    async def _prefer(
        self, visit: "Visit", link: Unsubscription, form: Mapping[str, str]
    ) -> Response:
        wished = {
            purpose: cast(Often, often)
            for purpose in visit.look.labels
            if (often := form.get(f"often:{purpose}", "")) in _OFTEN
        }
        if not wished or not visit.address:
            return visit.page("ask")
        undo = await self._wishes.prefer(link, visit.look.brand, wished)
        self._counted["preference", visit.stream] += 1
        if "none" in wished.values():
            self._hear(link, visit.stream)
        log.info("preference", id=link.id, stream=visit.stream, brand=visit.look.brand)
        return visit.page("saved", undo=sealed(undo, self.tokens), held=wished)

    async def _untrack(self, visit: "Visit", link: Unsubscription) -> Response:
        brand = None if visit.look.brand == BUILT_IN_BRAND else visit.look.brand
        if await self._wishes.untrack(link, brand):
            self._counted["untrack", visit.stream] += 1
        log.info("tracking_withdrawn", id=link.id, stream=visit.stream, brand=brand)
        return visit.page("untracked")


class _Void(Exception):
    """A link of the relay that can no longer be used."""


class Visit:
    """One request: its brand's look, language and link."""

    def __init__(
        self,
        look: Look,
        accept_language: str,
        link: Unsubscription | None = None,
        stream: str = UNKNOWN,
        *,
        personal: bool = False,
    ) -> None:
        self.look = look
        self.asked = look.language(accept_language)
        self.tag: str | None = None  # the person's language
        self.stream = stream
        self.id = link.id if link else ""
        self.scope = link.scope if link else ""
        keyed = link is None or link.recipient.startswith("hmac:")
        self.address = "" if link is None or keyed else link.recipient
        self._personal = personal

    @property
    def is_identified(self) -> bool:
        """Whether the person and the brand are known."""
        return bool(self.address and self.look.title)

    @property
    def lang(self) -> Lang:
        return self.asked or self.look.language_of(self.tag)

    def page(
        self,
        state: State,
        stopped: str = "this",
        *,
        undo: str = "",
        held: Mapping[str, Often] | None = None,
        status: int | None = None,
    ) -> Response:
        data = "" if not self.is_identified else "link" if self._personal else "write"
        asked = (self.look, self.lang, state, self.scope, self.stream, stopped, data)
        page = render(*asked, undo, tuple((held or {}).items())) if undo else _rendered(*asked)
        headers = dict(self.look.headers)
        if state in ("trouble", "too_often"):
            headers["Retry-After"] = "60"
        return HTMLResponse(page, status or _STATUS.get(state, 200), headers)


def render(
    look: Look,
    lang: Lang,
    state: State,
    scope: str,
    stream: str,
    stopped: str,
    data: str,
    undo: str = "",
    held: tuple[tuple[str, Often], ...] = (),
) -> str:
    """Return the page. Its forms have no target: they post to the link itself, at whatever path a
    proxy serves it."""
    purpose = scope.removeprefix("purpose:") if scope.startswith("purpose:") else ""
    named = dict(look.stopped(purpose, lang))
    label = named.pop(stream, "") or look.label(purpose, lang) if purpose else ""
    also = tuple(sorted({name for name in named.values() if name != label}))
    choices: tuple[tuple[str, str], ...] = ()
    if data and state in ("ask", "done") and stopped == "this":
        choices = tuple(
            (each, look.label(each, lang))
            for each in look.labels
            if not (state == "done" and each == purpose)
        )
    more = scope != "marketing"  # can be stopped
    template = environment(lang).get_template("unsubscribe.html")
    return template.render(
        look=look,
        state=state,
        stopped=stopped,
        label=label,
        also=also,
        names=_names(look, scope, stopped),
        all_of_brand=look.title if more and stopped == "this" and scope != look.scope else "",
        all_brands=_siblings(look) if more and stopped != "controller" else (),
        kept=purpose not in look.also_transactional,
        purposes=choices,
        held=[(look.label(each, lang), often) for each, often in held],
        undo=undo,
        tracks=bool(look.tracks and data and state in ("ask", "done")),
        data=data if look.help or data == "link" else "",
        from_page=FROM_PAGE,
    )


def _names(look: Look, scope: str, stopped: str) -> tuple[str, ...]:
    """Return the brands whose advertising is stopped; empty: all, unnamed."""
    if stopped == "controller":
        return _siblings(look)
    if stopped == "brand" and look.title:
        return (look.title,)
    kind, _, brand = scope.partition(":")
    return (look.titles.get(brand, brand),) if kind == "brand" else tuple(look.titles.values())


def _siblings(look: Look) -> tuple[str, ...]:
    """Return the brands of the controller, if there are several."""
    return tuple(title for _, title in look.siblings) if len(look.siblings) > 1 else ()


_rendered = lru_cache(maxsize=512)(render)
