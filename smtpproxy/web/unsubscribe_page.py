"""The page behind an unsubscribe link: one button, two languages, nothing from elsewhere."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import Literal

Language = Literal["en", "fr"]
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


@dataclass(frozen=True, slots=True)
class _Words:
    titles: Mapping[State, str]
    texts: Mapping[State, str]
    purpose: str
    marketing: str
    kept: str
    button: str


_ENGLISH = _Words(
    titles={
        "ask": "Unsubscribe",
        "done": "You are unsubscribed",
        "unknown": "This link does not work",
        "trouble": "That did not work",
        "too_often": "Please wait a moment",
        "gone": "This link is too old",
    },
    texts={
        "ask": "",
        "done": "",
        "unknown": "Some programs cut long links. Follow the link of the message once more, or"
        " answer the sender and ask to be taken off the list.",
        "trouble": "A fault on our side: you are not unsubscribed yet. Please try again in some"
        " minutes, or answer the sender and ask to be taken off the list.",
        "too_often": "This link was used many times within a minute. Please try again in a minute.",
        "gone": "It cannot be carried out any more. Use the link of a newer message, or answer the"
        " sender and ask to be taken off the list.",
    },
    purpose="You will get no more messages of this kind: {purpose}.",
    marketing="You will get no more advertising from this sender.",
    kept="What concerns your orders or your account still reaches you.",
    button="Unsubscribe",
)
_FRENCH = _Words(
    titles={
        "ask": "Se désinscrire",
        "done": "Vous êtes désinscrit(e)",
        "unknown": "Ce lien ne fonctionne pas",
        "trouble": "La désinscription a échoué",
        "too_often": "Merci de patienter un instant",
        "gone": "Ce lien est trop ancien",
    },
    texts={
        "ask": "",
        "done": "",
        "unknown": "Certains logiciels coupent les liens longs. Suivez de nouveau le lien du"
        " message, ou répondez à l’expéditeur en demandant à être retiré de la liste.",
        "trouble": "Une panne de notre côté : vous n’êtes pas encore désinscrit(e). Réessayez dans"
        " quelques minutes, ou répondez à l’expéditeur en demandant à être retiré de la liste.",
        "too_often": "Ce lien a servi de nombreuses fois en une minute. Réessayez dans une minute.",
        "gone": "Il ne peut plus être traité. Utilisez le lien d’un message plus récent, ou"
        " répondez à l’expéditeur en demandant à être retiré de la liste.",
    },
    purpose="Vous ne recevrez plus de messages de ce type : {purpose}.",
    marketing="Vous ne recevrez plus de publicité de cet expéditeur.",
    kept="Ce qui concerne vos commandes ou votre compte vous parviendra toujours.",
    button="Se désinscrire",
)
_WORDS: Mapping[Language, _Words] = {"en": _ENGLISH, "fr": _FRENCH}


def page(state: State, language: Language, scope: str | None = None) -> str:
    """Return the page. `scope` is what is unsubscribed from, for `ask` and `done`.

    The form has no target: it posts to the link itself, wherever a proxy put that.
    """
    words = _WORDS[language]
    paragraphs = [escape(words.texts[state])] if words.texts[state] else []
    if scope is not None and state in ("ask", "done"):
        paragraphs += [_what(words, scope), escape(words.kept)]
    body = "".join(f"<p>{paragraph}</p>\n" for paragraph in paragraphs)
    if state == "ask":
        body += (
            '<form method="post">'
            '<input type="hidden" name="List-Unsubscribe" value="One-Click">'
            f'<input type="hidden" name="from" value="{FROM_PAGE}">'
            f"<button>{escape(words.button)}</button></form>\n"
        )
    title = escape(words.titles[state])
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="robots" content="noindex"><title>{title}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>{title}</h1>\n{body}</main></body></html>\n"
    )


def language_of(accept_language: str) -> Language:
    """Return the language of an Accept-Language header (RFC 9110 12.5.4) that the page has."""
    best: Language = "en"
    weight = 0.0
    for item in accept_language[:500].split(","):
        tag, _, parameter = item.strip().lower().partition(";")
        primary = tag.strip().partition("-")[0]
        try:
            quality = float(parameter.strip().removeprefix("q=")) if parameter else 1.0
        except ValueError:
            continue
        if quality > weight and (primary == "fr" or primary == "en"):
            best, weight = ("fr" if primary == "fr" else "en"), quality
    return best


def _what(words: _Words, scope: str) -> str:
    purpose = scope.removeprefix("purpose:")
    if purpose == scope:
        return escape(words.marketing)
    return escape(words.purpose).format(purpose=f"<strong>{escape(purpose)}</strong>")
