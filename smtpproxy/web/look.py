"""How pages show a brand: its name, logo, colours and owner, and the names of its mail."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import structlog
from markupsafe import Markup
from msgspec import Struct

from smtpproxy.locale import PAGE_LANGS, REFERENCE, Lang, Phrase, say
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    EVERY_PURPOSE,
    Rulebook,
    Stream,
    StreamClass,
    TrackingPixels,
)
from smtpproxy.policy.rules.recipient import TRACKING
from smtpproxy.settings import BrandSettings, Settings
from smtpproxy.settings.brands import UnusableLogo, logo_source

Labels = Mapping[str, Mapping[str, Mapping[Lang, str]]]
_BLUE, _LIGHT_BLUE = "#14508c", "#9cc9f5"

log = structlog.get_logger(__name__)

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c1c1c; --line: #767676;
        --brand: %(light)s; --on-brand: %(on_light)s }
@media (prefers-color-scheme: dark) { :root { --ground: #161616; --text: #e6e6e6; --line: #8c8c8c;
        --brand: %(dark)s; --on-brand: %(on_dark)s } }
* { box-sizing: border-box }
body { font: 1.125rem/1.5 system-ui, sans-serif; margin: 0; color: var(--text);
       background: var(--ground); overflow-wrap: break-word }
header { border-top: .5rem solid var(--brand); padding: 1rem 1rem 0 }
header, main, footer { max-width: 36rem; margin: 0 auto }
header p { margin: 0; font-weight: 600; display: flex; align-items: center; gap: .75rem }
header img { max-height: 3rem; max-width: 12rem }
main { padding: 0 1rem 1rem }
h1 { font-size: 1.5rem; line-height: 1.25 }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem }
form { margin: 1rem 0 }
button { font: inherit; font-weight: 600; width: 100%%; padding: .7rem 1rem; border-radius: .3rem;
         border: 2px solid var(--text); color: var(--on-brand); background: var(--brand);
         cursor: pointer; text-align: center }
fieldset { border: 1px solid var(--line); border-radius: .3rem; margin: 0 0 1rem;
           padding: .25rem 1rem .75rem }
legend { font-weight: 600; padding: 0 .25rem }
label { display: block; padding: .3rem 0 }
input[type=radio], input[type=checkbox] { width: 1.2rem; height: 1.2rem; margin: 0 .6rem 0 0;
         vertical-align: -.15rem; accent-color: var(--text) }
input[type=text], select { font: inherit; width: 100%%; padding: .4rem; color: inherit;
         background: var(--ground); border: 1px solid var(--line); border-radius: .3rem }
:focus-visible { outline: 3px solid var(--text); outline-offset: 3px }
dt { font-weight: 600; margin-top: .75rem }
dd { margin: 0 }
footer { padding: 1rem; border-top: 1px solid var(--line); font-size: 1rem }
footer p { margin: .25rem 0 }
"""


class Look(Struct, frozen=True, eq=False):
    """One brand as pages show it. Looks are compared by identity: there is one for each brand."""

    brand: str
    title: str
    controller: str
    address: str
    help: str
    languages: tuple[Lang, ...]
    labels: Labels
    """The names of its marketing, by purpose and stream."""
    marketing: tuple[tuple[Stream, Rulebook], ...]
    """The streams of that marketing, with their rulebooks."""
    elsewhere: Mapping[str, Labels]
    """The names of the other brands' marketing."""
    also_transactional: frozenset[str]
    """Purposes that any brand's transactional stream also has: stopping them stops more than
    marketing."""
    tracks: bool
    """Whether consent to tracking matters on any of its streams."""
    siblings: tuple[tuple[str, str], ...]
    """Name and title of each brand of the same controller, including this one."""
    titles: Mapping[str, str]
    """The titles of all brands, by name."""
    scope: str
    """The scope that stops all its marketing."""
    logo: str
    style: Markup
    headers: Mapping[str, str]

    def stopped(self, purpose: str, lang: Lang) -> Mapping[str, str]:
        """Return the names of what `purpose:NAME` stops, by stream, other brands included."""
        found: dict[str, str] = {}
        for labels in (*self.elsewhere.values(), self.labels):
            found.update(_named(labels, purpose, lang))
        return found

    def label(self, purpose: str, lang: Lang, brand: str | None = None) -> str:
        """Return the name of a purpose's mail, with the brand if it is another one."""
        if purpose == TRACKING:
            return say(Phrase("page.tracking"), lang)
        if purpose == EVERY_PURPOSE:
            of = "brand" if brand in self.titles else "marketing"
            return say(
                Phrase(f"page.scope.{of}", {"brand": self.titles.get(brand or "", "")}), lang
            )
        labels = self.elsewhere.get(brand or "", self.labels)
        label = ", ".join(dict.fromkeys(_named(labels, purpose, lang).values())) or purpose
        other = dict(self.siblings).get(brand or "") if labels is not self.labels else None
        return f"{label} ({other})" if other else label

    def language(self, accept_language: str) -> Lang | None:
        """Return the best language of an Accept-Language header (RFC 9110 12.5.4) that it has."""
        best, weight = None, 0.0
        for item in accept_language[:500].split(","):
            tag, _, parameter = item.strip().lower().partition(";")
            primary = tag.strip().partition("-")[0]
            try:
                quality = float(parameter.strip().removeprefix("q=")) if parameter else 1.0
            except ValueError:
                continue
            if quality > weight and primary in self.languages:
                best, weight = primary, quality
        return best

    def language_of(self, tag: str | None) -> Lang:
        """Return the language of a tag, otherwise English, otherwise the brand's first."""
        primary = (tag or "").partition("-")[0]
        if primary in self.languages:
            return primary
        return REFERENCE if REFERENCE in self.languages else self.languages[0]


def looks(settings: Settings) -> dict[str, Look]:
    """Return the look of each brand, and as `BUILT_IN_BRAND` that of pages without one."""
    brands = dict(settings.brands)
    if BUILT_IN_BRAND not in brands:
        nobody = BrandSettings(BUILT_IN_BRAND, title="", legal_name="", address="")
        brands[BUILT_IN_BRAND] = nobody
    # Hundreds of brands have to name each other's marketing: read the streams once for each.
    labels = {name: _labels(_streams(name, settings), settings) for name in brands}
    return {name: _look(brand, settings, labels) for name, brand in brands.items()}


def _look(brand: BrandSettings, settings: Settings, all_labels: Mapping[str, Labels]) -> Look:
    own = _streams(brand.name, settings)
    transactional = [
        stream
        for stream in settings.streams.values()
        if stream.stream_class is StreamClass.TRANSACTIONAL
    ]
    light, dark = brand.colour or _BLUE, brand.colour_dark or brand.colour or _LIGHT_BLUE
    colours = {"light": light, "dark": dark}
    colours |= {f"on_{name}": readable_on(colour) for name, colour in colours.items()}
    style = Markup(_STYLE % colours)
    others = settings.brands if len(settings.brands) > 1 else {}
    same = [b for b in settings.brands.values() if b.legal_name == brand.legal_name]
    return Look(
        brand.name,
        brand.title or "",
        brand.legal_name or "",
        brand.address or "",
        brand.help or (settings.controller.contact if settings.controller else ""),
        brand.languages or PAGE_LANGS,
        all_labels[brand.name],
        tuple((each, settings.rulebooks[each.rulebook]) for each in _marketing(own, settings)),
        {name: all_labels[name] for name in others if name != brand.name},
        frozenset(stream.purpose for stream in transactional if stream.purpose),
        any(s.tracking_pixels in (TrackingPixels.REFUSE, TrackingPixels.STRIP) for s in own),
        tuple((each.name, each.title or each.name) for each in same),
        {each.name: each.title or each.name for each in settings.brands.values()},
        "marketing" if brand.name == BUILT_IN_BRAND else f"brand:{brand.name}",
        _shown_logo(brand.logo),
        style,
        _headers(style),
    )


def _streams(brand: str, settings: Settings) -> list[Stream]:
    """Return the brand's streams that have a purpose; if there is only one brand, all such."""
    alone = len(settings.brands) < 2
    return [
        stream
        for stream in settings.streams.values()
        if stream.purpose and (stream.brand == brand or alone)
    ]


def _marketing(streams: Sequence[Stream], settings: Settings) -> list[Stream]:
    """Return the declared streams of marketing."""
    declared = {each.name for each in settings.declared_streams}
    return [
        stream
        for stream in streams
        if stream.stream_class is StreamClass.MARKETING and stream.name in declared
    ]


def _labels(streams: Sequence[Stream], settings: Settings) -> Labels:
    labelled = {each.name: each.label or {} for each in settings.declared_streams}
    labels: dict[str, dict[str, Mapping[Lang, str]]] = {}
    for stream in _marketing(streams, settings):
        if stream.purpose:
            label = labelled[stream.name] or {REFERENCE: stream.name}
            labels.setdefault(stream.purpose, {})[stream.name] = label
    return labels


def _named(labels: Labels, purpose: str, lang: Lang) -> dict[str, str]:
    return {name: _in(lang, each) for name, each in labels.get(purpose, {}).items()}


def _headers(style: str) -> Mapping[str, str]:
    """Return the headers of pages, in addition to those of every answer (`web.app.HEADERS`)."""
    digest = b64encode(sha256(style.encode()).digest()).decode()
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self';"
            " base-uri 'none'; frame-ancestors 'none'"
        ),
        "Vary": "Accept-Language",
        "X-Robots-Tag": "noindex, nofollow",
    }


def readable_on(colour: str) -> str:
    """Return black or white, whichever is more readable on it: the better one has a contrast of at
    least 4.58 (WCAG 2.2, 1.4.3)."""
    red, green, blue = (_linear(int(colour[place : place + 2], 16) / 255) for place in (1, 3, 5))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def _shown_logo(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return logo_source(path)
    except (OSError, UnusableLogo) as error:
        log.warning("logo_unusable", file=str(path), error=str(error))
        return ""


def _in(lang: Lang, label: Mapping[Lang, str]) -> str:
    return label.get(lang) or label.get(REFERENCE) or next(iter(label.values()))
