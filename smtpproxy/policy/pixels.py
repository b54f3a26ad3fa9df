"""Tracking pixels in HTML: pictures that show nothing but report who opened a message.

A picture counts if it is loaded from elsewhere and
- its address is known to count openings (policy/trackers.py), or
- it is at most one pixel large, or hidden by its own attributes, and its address says whom or which
  message it is for, or
- it is a background made by a program whose address says that openings are counted.
A spacer that keeps a table in shape is not one: a file for everybody, on the sender's server
(docs/tracking.md has the figures). Linear in the length of the source.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import islice

from msgspec import Struct

from smtpproxy.mail.cutting import COMMENT, NO_PICTURE, NOTHING, CannotCut, Piece, cut
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.html_syntax import plain_of
from smtpproxy.mail.mime import EncodedText, decode_text, is_ascii_wise, read_texts
from smtpproxy.mail.pictures import Picture, pictures
from smtpproxy.policy.model import Pixel, PixelSign
from smtpproxy.policy.trackers import known_trackers

_MAX_PICTURES = 5_000  # later ones are ignored
_LONGEST_URL = 4_096
_MAX_HOSTS = 10  # that are recorded

_NUMBER = re.compile(r"\s*+\+?(\d{1,5})(?:\.\d{1,9})?\s*+(px|pt)?\s*+(?:!|;|\Z)", re.I)
_DECLARATION = re.compile(r"(?:\A|;)\s*+([a-z-]{1,20}+)\s*+:([^;]{0,99}+)", re.I)
_URL = re.compile(r"(?:https?:[/\\]*+|[/\\]{2,}+)([^/\\?#]{1,255}+)([^#]*+)", re.I)
_BLANK = re.compile(r"[\t\r\n]+")
_NOTHING = re.compile(r"\s*0?(?:0|\.0{1,9})%?\s*(?:!.*)?")
_STATIC = re.compile(r"\.(?:gif|png|jpe?g|webp|bmp|svg|ico)\Z", re.I)
_VERSION = re.compile(r"\?(?:v|ver|version|rev|build|cb|t|ts|_)?=?[\w.-]{0,14}\Z", re.I)
_WORD = re.compile(
    r"(?<![a-z])(?:opens?|opened|openrate|opentrack\w*|mailopen|track(?:er|ing)?|trk|beacons?"
    r"|webbug|impressions?|readreceipt)(?![a-z])",
    re.I,
)
_SPACER = re.compile(
    r"(?:spacers?|space|blank|clear|clr|empty|trans|transparent|shim|dots?|pixels?|px|1x1|1px|white"
    r"|gr[ae]y|black|lines?|rule|hr|divider|corner|bg|bkg)(?![a-z])|spacer|cleardot|transpar",
    re.I,
)
_TOKEN = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|[0-9a-f]{20,}|[0-9]{9,}"
    r"|(?=[^/]*[0-9])(?=[^/]*[a-z])(?=[^/]*[A-Z])[A-Za-z0-9_=~.-]{16,}"
)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SIGNED = re.compile(rb"multipart/(?:signed|encrypted)|application/(?:x-)?pkcs7-mime", re.I)


class FoundPixel(Struct, frozen=True):
    """A pixel, and the picture in the source."""

    pixel: Pixel
    picture: Picture

    @property
    def piece(self) -> Piece:
        """What to cut out: a tag, or the address of a background."""
        picture, instead = self.picture, COMMENT
        if picture.background:
            instead = NO_PICTURE
        elif picture.commented:
            instead = NOTHING
        return picture.start, picture.end, instead


def find_pixels(source: str) -> tuple[FoundPixel, ...]:
    """Return the tracking pixels in HTML, in order."""
    found = []
    for picture in islice(pictures(source), _MAX_PICTURES):
        pixel = _pixel(picture)
        if pixel is not None:
            found.append(FoundPixel(pixel, picture))
    return tuple(found)


def pixels_of(texts: Iterable[EncodedText]) -> tuple[Pixel, ...]:
    """Return the pixels in the texts of a message, each host once."""
    found: dict[str, Pixel] = {}
    for text in texts:
        if not text.plain:
            for each in find_pixels(_source(text)):
                found.setdefault(each.pixel.host, each.pixel)
    return tuple(found.values())[:_MAX_HOSTS]


def without_pixels(headers: HeaderBlock, body: bytes, *, whole: bool = True) -> bytes:
    """Return the body of a message, or its beginning, without its tracking pixels.

    Raises CannotCut if the content is signed by its author (RFC 1847, RFC 8551), or if they cannot
    be located in the message as encoded.
    """
    if _SIGNED.search(body) or any(map(_SIGNED.search, headers.raw_values("Content-Type"))):
        raise CannotCut("its content is signed")
    before, all_read, _ = read_texts(headers, body)
    edited = body
    for text in reversed(before):
        pixels = () if text.plain else find_pixels(_source(text))
        if not pixels:
            continue
        cut_off = not whole and text.end == len(body)
        last = pixels[-1].picture
        if not is_ascii_wise(text.charset) or (cut_off and last.end + 4 > len(text.octets)):
            raise CannotCut("its text is encoded so that nothing can be cut from it")
        if not last.closed and not (whole and all_read):
            raise CannotCut("the end of its last tag was not read")
        edited = cut(edited, text, [each.piece for each in pixels])
    after, _, _ = read_texts(headers, edited)
    if len(after) != len(before) or pixels_of(after):
        raise CannotCut("cutting them out would change the rest of the message")
    return edited


def _source(text: EncodedText) -> str:
    """The HTML of a part, one character per octet if possible; only ASCII matters here."""
    if is_ascii_wise(text.charset):
        return text.octets.decode("latin-1")
    return decode_text(text.octets, text.charset)


def _pixel(picture: Picture) -> Pixel | None:
    found = (_pixel_at(url, picture) for url in picture.urls)
    return next((each for each in found if each is not None), None)


def _pixel_at(address: str, picture: Picture) -> Pixel | None:
    url = _URL.match(_BLANK.sub("", plain_of(address[:_LONGEST_URL])).strip())
    if url is None:
        return None
    host = url[1].rpartition("@")[2].partition(":")[0].lower().rstrip(".")
    path = url[2].replace("\\", "/")
    if _is_known(host, path):
        return Pixel(host, PixelSign.KNOWN)
    attributes, style = picture.attributes, _style(picture.attributes.get("style", ""))
    if _is_tiny(style, attributes, both=picture.background):
        return Pixel(host, PixelSign.TINY) if _is_personal(path) else None
    if picture.background:
        return Pixel(host, PixelSign.HIDDEN) if _is_opening_counter(path) else None
    if _is_hidden(attributes, style):
        return Pixel(host, PixelSign.HIDDEN) if _mentions_opening(path) else None
    return None


def _style(value: str) -> dict[str, str]:
    """The declarations of a style; the last of the same name counts."""
    if ":" not in value:
        return {}
    return {name.lower(): stated for name, stated in _DECLARATION.findall(plain_of(value))}


def _is_known(host: str, path: str) -> bool:
    known, path = known_trackers(), _UUID.sub("*", path.lower())
    domain, dot = host, "."
    while dot:
        if domain in known and path.startswith(known[domain]):
            return True
        _, dot, domain = domain.partition(".")
    return path.startswith(known["*"])


def _pixels(value: str | None, *, attribute: bool) -> int | None:
    """A length in pixels, or None. In a style it needs its unit, unless it is 0."""
    found = _NUMBER.match(value) if value else None
    if found is None or not (attribute or found[2] or found[1] == "0"):
        return None
    return int(found[1])


def _is_tiny(style: Mapping[str, str], attributes: Mapping[str, str], *, both: bool) -> bool:
    """Whether it is at most one pixel each way. A missing side is as long as the other, unless
    `both` are required: a line as wide as the page has a background too."""
    sides: list[int] = []
    for name in ("width", "height"):
        stated = [
            _pixels(style.get(name), attribute=False),
            _pixels(style.get(f"max-{name}"), attribute=False),
        ]
        known = [each for each in stated if each is not None]
        side = min(known) if known else None
        if side is None:
            if name in style and style[name].strip():
                return False  # in another unit: 100%
            value = attributes.get(name)
            side = _pixels(value, attribute=True)
            if side is None and value:
                return False
        if side is not None:
            sides.append(side)
    return len(sides) > both and max(sides) <= 1


def _is_hidden(attributes: Mapping[str, str], style: Mapping[str, str]) -> bool:
    return (
        "hidden" in attributes
        or style.get("display", "").strip()[:4].lower() == "none"
        or style.get("visibility", "").strip()[:6].lower() == "hidden"
        or _NOTHING.fullmatch(style.get("opacity", "")) is not None
    )


def _is_personal(path: str) -> bool:
    """Whether an invisible picture's address is not that of one file for everybody."""
    place, mark, query = path.partition("?")
    segments = place.split("/")
    name = _STATIC.sub("", segments[-1])
    if name == segments[-1]:
        return True  # not a picture by its name: a program answers
    if mark and not _VERSION.fullmatch(mark + query):
        return True
    if _WORD.search(place):
        return True
    if _TOKEN.fullmatch(name):
        return True
    return not _SPACER.match(name) and any(_TOKEN.fullmatch(each) for each in segments[:-1])


def _mentions_opening(path: str) -> bool:
    """Whether the address says that openings are counted; pictures are hidden for many reasons."""
    return _WORD.search(path.partition("?")[0]) is not None


def _is_opening_counter(path: str) -> bool:
    """Whether the address is of a program that counts openings; a background has no size."""
    place = path.partition("?")[0]
    return _WORD.search(place) is not None and _STATIC.search(place) is None
