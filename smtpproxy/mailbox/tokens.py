"""Reads our own tokens in a report: which message it is about, and whom that went to.

A token is proof, wherever in the report it is. Addresses in the report only help to find the
recipient that a return path was made for.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from msgspec.structs import replace

from smtpproxy.feedback.records import Clues, Sent
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.return_path import ReturnPath, candidates
from smtpproxy.mail.unsubscribe_token import TokenError, Unsubscription, stream_tag
from smtpproxy.policy.model import Stream
from smtpproxy.policy.scopes import Scopes
from smtpproxy.sinks.audit.lines import ERASED
from smtpproxy.store.feedback import SentMessage
from smtpproxy.store.link_keys import LinkReader

_MAX_TOKENS = 20  # tokens that are tried
_MAX_ADDRESSES = 200
_READ = 256 * 1024  # octets of a report that are searched
_LINK = re.compile(r"/u/([A-Za-z0-9_-]{30,200})(?![A-Za-z0-9_-])")
_SUBJECT = re.compile(r"(?<![A-Za-z0-9_-])([A-Za-z0-9_-]{30,200})(?![A-Za-z0-9_-])")
_ADDRESS = re.compile(r"[^\s<>\"',;:()\[\]\\@]{1,64}@[A-Za-z0-9.-]{1,253}")


@dataclass(eq=False)
class Tokens:
    """Reads tokens under any of the keys, and finds whom they were made for.

    `message` returns this relay's record by the id of the decision.
    """

    links: LinkReader
    domain: str
    streams: Mapping[str, Stream]
    message: Callable[[str], SentMessage | None]

    def __post_init__(self) -> None:
        self._streams = {stream_tag(name): stream for name, stream in self.streams.items()}
        self._scopes = Scopes.of(self.streams)

    def of(self, content: bytes, elsewhere: Mapping[str, SentMessage]) -> "ReportTokens":
        """Return the `feedback.TokenReader` for one report; `elsewhere` is what other relays know
        about messages."""
        return ReportTokens(self, content[:_READ], elsewhere)

    def return_path(self, texts: Iterable[str]) -> ReturnPath | None:
        """Return the first return path that we made. Raises StoreMisconfigured."""
        for local_part in islice(
            (each for text in texts for each in candidates(text)), _MAX_TOKENS
        ):
            try:
                return self.links.return_paths(local_part).read(local_part)
            except TokenError:
                continue
        return None

    def link(self, texts: Iterable[str]) -> Unsubscription | None:
        """Return what the first token of an unsubscribe link says. Raises StoreMisconfigured."""
        for token in islice(texts, _MAX_TOKENS):
            try:
                unsubscription = self.links.open(token)
            except TokenError:
                continue
            stream = self._streams.get(unsubscription.stream)
            return replace(unsubscription, scope=self._scopes.of_link(unsubscription.scope, stream))
        return None

    def went_to(self, path: ReturnPath, addresses: Iterable[str]) -> str | None:
        """Return which of these canonical addresses the return path was made for."""
        paths = self.links.return_paths("")
        return next((each for each in addresses if paths.concerns(path, each)), None)

    def named(self, text: str) -> Iterator[str]:
        """Yield the canonical addresses that a report names, each once."""
        seen: set[str] = set()
        for found in _ADDRESS.finditer(text):
            if found[0] in seen or found[0].lower().endswith("@" + self.domain):
                continue
            if len(seen) >= _MAX_ADDRESSES:
                return
            seen.add(found[0])
            with suppress(AddressError):
                yield canonical(found[0])

    def stream(self, tag: bytes) -> Stream | None:
        return self._streams.get(tag)


class ReportTokens:
    """Reads the tokens of one report. After `read`, `path` is the return path that it came to, and
    `lacks` the one whose record is missing but needed to know whom it concerns; `is_of_erased` says
    that the record has them erased."""

    def __init__(
        self, tokens: Tokens, content: bytes, elsewhere: Mapping[str, SentMessage]
    ) -> None:
        self._tokens = tokens
        self._elsewhere = elsewhere
        self.lacks: ReturnPath | None = None
        self.is_of_erased = False
        self._text = content.decode("latin-1")
        self._headers = HeaderBlock(content)
        self.path: ReturnPath | None = None

    def read(self, clues: Clues) -> Sent | None:
        """Return what the first valid token says. Raises StoreMisconfigured, OSError."""
        tokens = self._tokens
        self.path = tokens.return_path(clues.recipients)
        asked = tokens.link(self._asked(clues))
        if asked is not None:
            return self._sent(asked.stream, asked.recipient, asked.id, asked.scope)
        places = (*clues.reverse_paths, *clues.message_ids, *clues.feedback_ids, self._text)
        path = self.path or tokens.return_path(places)
        if path is not None:
            recipient = self._went_to(path)
            if recipient is not None:
                return self._sent(path.stream, recipient, path.id)
        link = tokens.link(_LINK.findall(" ".join((*clues.unsubscribe_uris, self._text))))
        return None if link is None else self._sent(link.stream, link.recipient, link.id)

    def _went_to(self, path: ReturnPath) -> str | None:
        """Return the canonical recipient of the message: an address in the report, or in the
        record.

        None where neither names them. Raises OSError.
        """
        tokens = self._tokens
        found = tokens.went_to(path, tokens.named(self._text))
        if found is not None:
            return found
        message = tokens.message(path.id) or self._elsewhere.get(path.id)
        if message is None:
            self.lacks = path
            return None
        found = tokens.went_to(path, message.recipients)
        if found is None:
            self.is_of_erased = any(each.startswith(ERASED) for each in message.recipients)
        return found

    def _asked(self, clues: Clues) -> Iterator[str]:
        """Where a mail program puts the token of a mailto link when it asks to unsubscribe."""
        for value in (*self._headers.values("Subject"), *map(str.encode, clues.recipients)):
            yield from _SUBJECT.findall(value.decode("latin-1"))

    def _sent(self, tag: bytes, recipient: str, id: str, scope: str | None = None) -> Sent:
        stream = self._tokens.stream(tag)
        name, brand = (None, None) if stream is None else (stream.name, stream.brand)
        return Sent(recipient, name, brand, id, scope)
