"""What a reason in a reply means, and what to do about it, for developers whose mail was refused.

The pages are the same for everybody: they name nobody, and look up nothing.
"""

from dataclasses import replace
from functools import lru_cache

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from smtpproxy.locale import PAGE_LANGS, Lang
from smtpproxy.locale.pages import environment
from smtpproxy.policy.model import Reason
from smtpproxy.web.look import Look

PATH = "/why/"
_REASONS = frozenset(Reason) - {Reason.NONE}


class ReasonPages:
    """The route of the pages, in the style of `look`, in every language."""

    def __init__(self, look: Look) -> None:
        self._look = replace(look, languages=PAGE_LANGS)
        self._page = lru_cache(maxsize=len(_REASONS) * len(PAGE_LANGS))(self._rendered)

    @property
    def routes(self) -> list[Route]:
        return [Route(PATH + "{reason}", self._endpoint)]

    async def _endpoint(self, request: Request) -> Response:
        reason = request.path_params["reason"]
        if reason not in _REASONS:
            raise HTTPException(404)
        asked = self._look.language(request.headers.get("accept-language", ""))
        headers = {**self._look.headers, "Cache-Control": "public, max-age=3600"}
        return HTMLResponse(self._page(reason, self._look.language_of(asked)), headers=headers)

    def _rendered(self, reason: str, lang: Lang) -> str:
        page = environment(lang).get_template("why.html")
        return page.render(look=self._look, reason=reason)
