"""The links in confirmation mails: GET shows the question and changes nothing, POST confirms.

Programs follow links before people do (RFC 8058 section 1), so only the button on the page acts. A
link works once, until it expires, and only for the owner of the address that it was mailed to; the
answers reveal nothing about that address.
"""

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Literal, Protocol

import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from smtpproxy.locale import REFERENCE, Lang, Phrase, say
from smtpproxy.locale.pages import environment, load_pages
from smtpproxy.mail.confirmation_token import PATH, Confirmation, Kind
from smtpproxy.mail.unsubscribe_token import TokenError
from smtpproxy.policy.model import BUILT_IN_BRAND
from smtpproxy.sinks.rows import CONFIRMATION_ANSWERS
from smtpproxy.sinks.snapshots import Labels, Samples, Snapshot
from smtpproxy.store.link_keys import LinkReader
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.web.forms import OtherType, read_form
from smtpproxy.web.look import Look
from smtpproxy.web.rates import LinkRates, forwarded_client

State = Literal["ask", "done", "again", "over", "unknown", "trouble", "too_often"]

_STATUS: Mapping[State, int] = {
    "ask": 200,
    "done": 200,
    "again": 200,
    "over": 410,
    "unknown": 404,
    "trouble": 503,
    "too_often": 429,
}

log = structlog.get_logger(__name__)


class Confirmed(Protocol):
    """What to do for one kind of confirmation."""

    def words(self, confirmation: Confirmation, lang: Lang) -> Mapping[str, str]:
        """Return the values for the texts `confirm.STATE.KIND`."""
        ...

    async def confirm(
        self, confirmation: Confirmation, client: str, lang: Lang, form: Mapping[str, str]
    ) -> State | Response:
        """Act on it; `client` is an IP address, or empty. Raises StoreUnavailable."""
        ...


@dataclass(eq=False)
class ConfirmationLinks:
    """The routes of the links. `kinds` act on each kind; `trusts` returns whether a peer is a proxy
    whose X-Forwarded-For is trusted."""

    tokens: LinkReader
    kinds: Mapping[Kind, Confirmed]
    looks: Mapping[str, Look]
    _: KW_ONLY
    trusts: Callable[[str], bool]
    now: Callable[[], datetime]
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._rates = LinkRates(self.clock)
        self._counted: Counter[Labels] = Counter()
        self._failed = 0
        load_pages()

    @property
    def routes(self) -> list[Route]:
        return [Route(PATH + "{token:path}", self._endpoint, methods=["GET", "POST"])]

    def snapshot(self) -> Snapshot:
        failed: Samples = {("confirmation",): self._failed}
        return Snapshot(
            counters={"confirmations_total": dict(self._counted), "web_failures_total": failed}
        )

    async def _endpoint(self, request: Request) -> Response:
        token = request.path_params["token"]
        look = self.looks[BUILT_IN_BRAND]
        lang = look.language(request.headers.get("accept-language", "")) or REFERENCE
        confirmation: Confirmation | None = None
        found: State | Response
        try:
            confirmation = self.tokens.open_confirmation(token)
            look = self.looks.get(confirmation.brand, look)
            accepted = request.headers.get("accept-language", "")
            lang = look.language(accepted) or look.language_of(confirmation.lang)
            found = await self._answer(request, token, confirmation, lang)
        except TokenError as error:
            log.debug("confirmation_link_unknown", cause=str(error))  # anybody can cause this
            found = "unknown"
        except StoreUnavailable as error:
            log.error("confirmation_failed", error=str(error))
            self._failed += 1
            found = "trouble"
        return found if isinstance(found, Response) else self._page(found, confirmation, look, lang)

    async def _answer(
        self, request: Request, token: str, confirmation: Confirmation, lang: Lang
    ) -> State | Response:
        if confirmation.kind not in self.kinds:
            return "unknown"
        gone = confirmation.brand and confirmation.brand not in self.looks  # from the settings
        if gone or self.now() > confirmation.until:
            return "over"
        if request.method != "POST":
            return "ask"
        if self._rates.too_often(token):
            return "too_often"
        try:
            form = await read_form(request)
        except OtherType:
            form = {}
        if form.get("confirm") != "yes":
            return "ask"
        client = client_address(request, self.trusts)
        found = await self.kinds[confirmation.kind].confirm(confirmation, client, lang, form)
        state: State = "done" if isinstance(found, Response) else found
        if state in CONFIRMATION_ANSWERS:
            self._counted[confirmation.kind, state] += 1
        log.info("confirmation", kind=confirmation.kind, brand=confirmation.brand, state=state)
        return found

    def _page(
        self, state: State, confirmation: Confirmation | None, look: Look, lang: Lang
    ) -> Response:
        words: Mapping[str, str] = {}
        key: str = state
        if (
            confirmation is not None
            and confirmation.kind in self.kinds
            and state in ("ask", "done")
        ):
            words, key = (
                self.kinds[confirmation.kind].words(confirmation, lang),
                f"{state}.{confirmation.kind}",
            )
        texts = {
            part: say(Phrase(f"confirm.{part}.{key}", dict(words)), lang)
            for part in (("title", "text", "button") if state == "ask" else ("title", "text"))
        }
        page = environment(lang).get_template("confirmation.html")
        headers = dict(look.headers)
        if state in ("trouble", "too_often"):
            headers["Retry-After"] = "60"
        return HTMLResponse(page.render(state=state, look=look, **texts), _STATUS[state], headers)


def client_address(request: Request, trusts: Callable[[str], bool]) -> str:
    """Return the last address in X-Forwarded-For that is not a trusted proxy's, or the peer's.

    Empty if neither is an address.
    """
    peer = request.client.host if request.client else "unix"
    forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
    if trusts(peer) and (client := forwarded_client(forwarded, trusts)) is not None:
        return client
    try:
        return str(ipaddress.ip_address(peer))
    except ValueError:
        return ""
