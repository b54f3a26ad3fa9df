"""What is examined in a message only if its stream requires it: text, senders, subject.

Two bodies with the same fingerprint differ only in the names and addresses of their recipients, in
greetings, and in the tokens of links. Numbers and codes in the text are not masked, because they
distinguish receipts, codes and invoices (docs/bulk.md has the figures).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

from msgspec.structs import replace

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import decode_words
from smtpproxy.mail.visible_text import VisibleText, folded
from smtpproxy.policy.bulk import bulk_signs
from smtpproxy.policy.model import Alignment, ContentFeatures, MessageFeatures, Stream, StreamClass
from smtpproxy.policy.way_out import shows_way_out

# Prefixes of replies and forwards in the languages of the product, and Nordic ones. Not the Polish
# PD, which begins a postscript in Spanish.
_PREFIX = re.compile(
    r"\s*((?:re|res|r|aw|antw|odp|sv|vs|rif|fw|fwd|wg|tr|rv|i|enc|vb|doorst)(?:\s?[\[(]\d{1,3}[\])])?)\s?[:\uff1a]",
    re.IGNORECASE,
)
_DOMAIN_TAG = re.compile(rb"(?:\A|;)\s*d\s*=\s*([A-Za-z0-9._-]{1,255})\s*(?:;|\Z)")
_MAX_SIGNATURES = 20
_LONGEST_FIELD = 4_096  # octets
_NOTHING = ContentFeatures()
_BROKEN = "MTAs break its unsubscribe link, in a line of more than 998 octets"


def check_content(
    stream: Stream,
    features: MessageFeatures,
    headers: HeaderBlock,
    reverse_path: str,
    visible: VisibleText | None,
    people: Sequence[str] = (),
) -> MessageFeatures:
    """Return the features with what else the rules of the stream need.

    `visible` is the text that readers see, None if no rule needs it; `people` are the canonical
    recipients. How many people were sent the same text is counted elsewhere.
    """
    if visible is not None and visible.malformed is not None:
        features = replace(features, malformed=features.malformed or visible.malformed)
    senders: tuple[str, ...] = ()
    if stream.alignment is not Alignment.OFF:
        senders = _senders(headers, reverse_path)
    if stream.stream_class is StreamClass.TRANSACTIONAL:
        signs = bulk_signs(headers, None if visible is None else visible.text)
        look = ContentFeatures(senders=senders, bulk_markers=signs.fields, bulk_text=signs.text)
        return features if look == _NOTHING else replace(features, content=look)
    if visible is not None and visible.unclear is not None:  # it must not count as seen
        features = replace(features, malformed=features.malformed or visible.unclear)
    prefix = _fake_prefix(headers) if stream.honest_subject else None
    if visible is None:
        return replace(features, content=ContentFeatures(senders=senders, fake_prefix=prefix))
    shows_unsubscribe = stream.body_optout and shows_way_out(stream, features, visible, people)
    breaks = shows_unsubscribe and bool(visible.broken)
    if breaks and not shows_way_out(stream, features, visible.unbroken(), people):
        features = replace(features, malformed=features.malformed or _BROKEN)
    look = ContentFeatures(
        senders=senders,
        fake_prefix=prefix,
        shows_unsubscribe=shows_unsubscribe,
        shows_imprint=_held(visible, stream.imprint) is not None,
        text_cut=not visible.whole,
    )
    statement = features.source_statement or _held(visible, stream.source_statement)
    return replace(features, content=look, source_statement=statement)


def _held(visible: VisibleText, texts: Sequence[str]) -> str | None:
    """Return the first of the texts that is in what readers see, ignoring case, accents and
    spaces."""
    return next((text for text in texts if folded(text) in visible.text), None)


def _fake_prefix(headers: HeaderBlock) -> str | None:
    """Return the prefix of a reply or forward if the message is neither."""
    subjects = headers.values("Subject")
    if not subjects or any((*headers.values("In-Reply-To"), *headers.values("References"))):
        return None  # an empty one names no message that this could be a reply to
    subject = decode_words(subjects[0][:_LONGEST_FIELD].decode("utf-8", "replace"))
    found = _PREFIX.match(folded(subject))
    return None if found is None else found[1]


def _senders(headers: HeaderBlock, reverse_path: str) -> tuple[str, ...]:
    """The domains responsible for the message: those of the envelope sender and the signatures."""
    domains = [reverse_path.rpartition("@")[2].lower()] if reverse_path else []
    for value in headers.values("DKIM-Signature")[:_MAX_SIGNATURES]:
        found = _DOMAIN_TAG.search(value)
        if found is not None:
            domains.append(found[1].decode("ascii").lower())
    return tuple(dict.fromkeys(domains))


# Each word is matched once: matching from inside words, or backtracking, would be quadratic.
_ADDRESS = re.compile(r"(?<![^\s<>@\"'(),;:])[^\s<>@\"'(),;:]++@[^\s<>@\"'(),;:]{1,255}")
_URI = re.compile(r"(?:https?://|mailto:)\S+")
_GREETING = re.compile(
    r"\b(dear|hello|hi|hey|bonjour|bonsoir|cher|chere|salut|hallo|guten tag|liebe|lieber"
    r"|sehr geehrte|sehr geehrter|hola|estimad[oa]|querid[oa]|buenos dias|ciao|gentile|salve"
    r"|beste|geachte|ola|prezad[oa]|car[oa]|czesc|witaj) [^,.!:;?\n]{1,60}+(?=[,.!:;?])"
)
_TOKEN = re.compile(r"(?=[^/]*[0-9])[^/]{6,}|[^/]{20,}")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_SHORTEST_NAME = 2  # letters: initials are not names
_MAX_NAMES = 60
_LEAST_TEXT = 8  # words: a shorter text proves nothing
_PIECE = 65_536  # characters: searching for many words blocks other threads


def fingerprint(
    visible: VisibleText, recipients: Iterable[str], names: Sequence[str], *, numbers: bool = False
) -> bytes | None:
    """Return 16 octets; None if the body has too few words to distinguish it from others.

    `recipients` are addresses, and `names` what the header calls the readers. `numbers`: mask the
    numbers in the text too.
    """
    text = _URI.sub("~", visible.text)
    text = _ADDRESS.sub("@", text)
    text = _GREETING.sub(r"\1 @", text)
    own = _own_words(recipients, names)
    if own is not None:
        text = " ".join([own.sub("@", piece) for piece in _pieces(text)])
    if numbers:
        text = _NUMBER.sub("#", text)
    if len(text.split(" ", _LEAST_TEXT)) <= _LEAST_TEXT:
        return None
    masked = "\n".join((text, *sorted({_masked_link(link) for link in visible.links})))
    return blake2b(masked.encode("utf-8", "replace"), digest_size=16).digest()


def _own_words(recipients: Iterable[str], names: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern for the readers' names: their words, and local parts and the words in these."""
    words: set[str] = set()
    for name in names:
        words |= set(re.findall(r"[^\W\d_]+", folded(name)))
    for address in recipients:
        local = folded(address.rpartition("@")[0])
        words |= {local, *re.findall(r"[^\W\d_]+", local)}
    longest = sorted((word for word in words if len(word) > _SHORTEST_NAME), key=len, reverse=True)
    if not longest:
        return None
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest[:_MAX_NAMES]))})\b")


def _pieces(text: str) -> Iterator[str]:
    """Split a text at spaces, which are dropped."""
    start = 0
    while (space := text.find(" ", start + _PIECE)) >= 0:
        yield text[start:space]
        start = space + 1
    yield text[start:]


def _masked_link(link: str) -> str:
    """A link without its personal parts: query, fragment, path segments that look like tokens."""
    scheme, colon, rest = link.partition(":")
    path = rest.partition("#")[0].partition("?")[0]
    if scheme.lower() == "mailto":
        return "mailto:" + path.rpartition("@")[2].lower()
    return scheme.lower() + colon + "/".join(_TOKEN.sub("*", part) for part in path.split("/"))
