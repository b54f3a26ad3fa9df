"""What a reason in a reply means, and what to do about it, for developers whose mail was refused.

The pages are the same for everybody: they name nobody, and look up nothing.
"""

from functools import lru_cache

from msgspec.structs import replace
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


def reason_pages(look: Look) -> list[Route]:
    """Return the route of the pages, in the style of `look`, in every language."""
    look = replace(look, languages=PAGE_LANGS)

    @lru_cache(maxsize=len(_REASONS) * len(PAGE_LANGS))
    def page(reason: str, lang: Lang) -> str:
        return environment(lang).get_template("why.html").render(look=look, reason=reason)

    async def endpoint(request: Request) -> Response:
        reason = request.path_params["reason"]
        if reason not in _REASONS:
            raise HTTPException(404)
        asked = look.language(request.headers.get("accept-language", ""))
        headers = {**look.headers, "Cache-Control": "public, max-age=3600"}
        return HTMLResponse(page(reason, look.language_of(asked)), headers=headers)

    return [Route(PATH + "{reason}", endpoint)]
