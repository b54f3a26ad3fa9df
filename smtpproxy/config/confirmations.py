"""`[confirmation]`: what it requires of the file, and the listener for the relay's own mail."""

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from smtpproxy.policy.model import CONFIRMATION_STREAM, PERSONAL_STREAM
from smtpproxy.policy.rulebook import Rulebook
from smtpproxy.settings import ListenerSettings, PolicySettings, Settings, UnixAddress
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Fault, table, tables

LISTENER = CONFIRMATION_STREAM.name
"""The name of the listener, which is that of the stream."""


def confirmation_checks(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield faults: settings that confirmations lack, and names reserved for them."""
    if "confirmation" not in document:
        return
    if "public_url" not in table(document, "web"):
        yield Fault(
            ("confirmation",),
            "needs the address of the links: set web.public_url, for example"
            ' "https://confirm.example.com"',
        )
    yield from _senders(document)
    brands = [str(brand.get("name")) for _, brand in tables(document, "brand")]
    taken = [stream_name(brand, len(brands)) for brand in brands]
    for index, stream in tables(document, "stream"):
        if stream.get("name") in taken:  # anything but text is reported elsewhere
            yield Fault(
                ("stream", index, "name"),
                f'"{stream["name"]}" is built in, for the relay\'s own mail to people:'
                " choose another name",
            )
    for index, listener in tables(document, "listener"):
        if listener.get("name") == LISTENER:
            yield Fault(
                ("listener", index, "name"),
                f'"{LISTENER}" is built in, for the relay\'s own mail: choose another name',
            )


def _senders(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield brands whose confirmations would not come from their own domains."""
    common = table(document, "confirmation").get("sender")
    for index, brand in tables(document, "brand"):
        sender, domains = brand.get("help", common), brand.get("from_domains")
        if not (isinstance(sender, str) and isinstance(domains, list) and domains):
            continue
        domain = sender.rpartition("@")[2].lower()
        if domain not in [str(each).lower() for each in domains]:
            yield Fault(
                ("brand", index, "help"),
                f"confirmations of the brand would come from {shown(sender)}, which is in none of"
                " its from_domains: set an address in one of them",
            )


def permission_checks(
    document: Mapping[str, Any], books: Mapping[str, Rulebook]
) -> Iterator[Fault]:
    """Yield what permission streams lack; `books` are by their references in the file."""
    common = table(document, "policy").get("rulebook", PolicySettings().rulebook)
    asking = set()
    for index, stream in tables(document, "stream"):
        if stream.get("class") != "permission":
            continue
        asking.add(stream.get("name"))
        place = ("stream", index, "class")
        if "confirmation" not in document:
            yield Fault(
                place, '"permission" needs links by which people confirm: add a [confirmation]'
            )
        book = books.get(str(stream.get("rulebook") or common))
        if book is not None and book.permission_window is None:
            yield Fault(
                place,
                f'rulebook "{book.name}" does not let anybody be asked when a period is over'
                " (permission_window): leave the stream out",
            )
    for index, listener in tables(document, "listener"):
        named = listener.get("streams")
        for at, name in enumerate(named if isinstance(named, list) else ()):
            if listener.get("protocol") == "policy" and name in asking:
                yield Fault(
                    ("listener", index, "streams", at),
                    f'"{name}" is of class "permission", and a policy listener never sees the'
                    " text with the link: use another listener",
                )


def stream_name(brand: str, brands: int) -> str:
    return CONFIRMATION_STREAM.name if brands < 2 else f"{CONFIRMATION_STREAM.name}-{brand}"


def with_confirmations(settings: Settings) -> Settings:
    """Add the listener for the relay's own mail, and a stream for each brand.

    The listener is a socket in `state_dir`, which nobody else can access.
    """
    if settings.confirmation is None:
        return settings
    streams = [
        replace(
            CONFIRMATION_STREAM,
            name=stream_name(brand, len(settings.brands)),
            brand=brand,
            many_brands=len(settings.brands) > 1,
            all_brands=settings.brand_names,
            rulebook=settings.policy.rulebook,
        )
        for brand in settings.brands
    ]
    personal = replace(PERSONAL_STREAM, rulebook=settings.policy.rulebook)
    listener = ListenerSettings(
        LISTENER,
        UnixAddress(settings.own_socket),
        streams=(*(stream.name for stream in streams), PERSONAL_STREAM.name),
        default_stream=streams[0].name,
    )
    return replace(
        settings,
        listeners=(*settings.listeners, listener),
        streams={**settings.streams, **{each.name: each for each in (*streams, personal)}},
    )
