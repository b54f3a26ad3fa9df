"""Brands: who is talking to people, and what a stream is called when they read about it."""

import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from smtpproxy.settings.names import Line, Mailbox, Name, PageLanguage, line, page_language
from smtpproxy.settings.places import Domain, File
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Key, Written

_COLOUR = re.compile(r"#(?:[0-9a-f]{3}|[0-9a-f]{6})")


def colour(value: object) -> str:
    """Return a colour as `#` and six hexadecimal digits, in lower case."""
    text = value.lower() if isinstance(value, str) else ""
    if not _COLOUR.fullmatch(text):
        raise ValueError(f'{shown(value)} is not a colour such as "#005a9c"')
    return text if len(text) == 7 else "#" + "".join(2 * digit for digit in text[1:])


def labels(value: object) -> Mapping[str, str]:
    """Return texts for people, by language."""
    if not isinstance(value, dict) or not value:
        raise ValueError(
            'must be text by language, {en = "Special offers", fr = "Offres"}, not ' + shown(value)
        )
    return {page_language(lang): line(text) for lang, text in value.items()}


Colour = Annotated[str, Written(colour)]
Labels = Annotated[Mapping[str, str], Written(labels)]


class BrandSettings(Struct, frozen=True):
    """A seller as people know it, and who is responsible for it. Consent is given to one brand."""

    name: Annotated[Name, Key(example="shoes")]
    title: Line | None = None  # what people call it; None: the legal name
    legal_name: Line | None = None  # of the controller; None, in the file: that of [controller]
    address: Line | None = None  # likewise
    help: Mailbox | None = None  # where people can write
    from_domains: frozenset[Domain] = frozenset()  # no other brand's; empty: as the streams say
    languages: tuple[PageLanguage, ...] = ()  # the first if none fits; empty: all available
    logo: File | None = None
    colour: Colour | None = None  # on a light background
    colour_dark: Colour | None = None  # on a dark background


LARGEST_LOGO = 64 * 1024  # octets; it is in every page
_PICTURES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"<svg": "svg+xml",
    b"<?xml": "svg+xml",
}


class UnusableLogo(ValueError):
    """The file cannot be used as a picture; the text says why."""


def logo_source(path: Path) -> str:
    """Return a picture as the source of an `img`. Raises OSError, UnusableLogo."""
    with path.open("rb") as file:
        octets = file.read(LARGEST_LOGO + 1)
    if len(octets) > LARGEST_LOGO:
        raise UnusableLogo(f"has more than {LARGEST_LOGO // 1024} KiB: it is in every page")
    kind = next((kind for magic, kind in _PICTURES.items() if octets.startswith(magic)), None)
    if kind is None:
        raise UnusableLogo("is not a picture: it may be SVG, PNG, JPEG, WebP or GIF")
    return f"data:image/{kind};base64,{b64encode(octets).decode()}"
