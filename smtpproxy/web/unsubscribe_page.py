"""The page behind an unsubscribe link: one button, in the language of the reader."""

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Literal

from markupsafe import Markup

from smtpproxy.locale.pages import environment
from smtpproxy.locale.texts import LANGS, REFERENCE, Lang

State = Literal["ask", "done", "unknown", "trouble", "too_often", "gone"]

_STYLE = """
body { font: 18px/1.5 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto 0; padding: 0 1rem;
       color: #1c1c1c; background: #fff }
h1 { font-size: 1.5rem }
button { font: inherit; padding: .6rem 1.4rem; border: 0; border-radius: .3rem; color: #fff;
         background: #14508c; cursor: pointer }
button:focus-visible { outline: 3px solid #d27800; outline-offset: 2px }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #161616 } }
"""
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()

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
        environment("smtpproxy.web", lang)
        .get_template("unsubscribe.html")
        .render(state=state, scope=scope, style=Markup(_STYLE), from_page=FROM_PAGE)
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
        if quality > weight and primary in LANGS:
            best, weight = primary, quality
    return best
