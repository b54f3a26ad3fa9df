"""What `unsubscribe = "add"` needs, and which keys mean nothing without it."""

from collections.abc import Iterator, Mapping
from typing import Any

from smtpproxy.config.faults import Fault
from smtpproxy.config.models import Stream
from smtpproxy.config.tables import tables

_OF_ADDING = ("existing_unsubscribe", "unsubscribe_scope", "unsubscribe_mailto", "list_id")
_ASKING = ("milter", "policy")


def unsubscribe_checks(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of streams whose unsubscribe headers the relay is to add."""
    web = document.get("web")
    public = isinstance(web, dict) and "public_url" in web
    adding = set()
    for index, stream in tables(document, "stream"):
        if stream.get("unsubscribe") != "add":
            yield from _without_adding(index, stream)
            continue
        adding.add(stream.get("name"))
        place = ("stream", index, "unsubscribe")
        if stream.get("class") == "transactional":
            yield Fault(place, '"add" is for marketing streams: leave it out')
        elif not public:
            yield Fault(
                place,
                '"add" needs the address of the links: set web.public_url, for example'
                ' "https://unsubscribe.example.com"',
            )
    for index, listener in tables(document, "listener"):
        named = listener.get("streams")
        if listener.get("protocol") not in _ASKING or not isinstance(named, list):
            continue
        for at, name in enumerate(named):
            if isinstance(name, str) and name in adding:
                yield Fault(
                    ("listener", index, "streams", at),
                    f'"{name}" has unsubscribe = "add", and a {listener["protocol"]} listener'
                    " cannot give each recipient a message of his own: use another stream there",
                )


def _without_adding(index: int, stream: Mapping[str, Any]) -> Iterator[Fault]:
    for key in _OF_ADDING:
        if key in stream and stream[key] != Stream.model_fields[key].default:
            yield Fault(("stream", index, key), 'does nothing without unsubscribe = "add"')
