"""Configurations and stores drawn from few values, so that every combination occurs."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from msgspec.structs import replace

from smtpproxy.config import parse
from smtpproxy.mail.address import canonical
from smtpproxy.policy.model import (
    Contact,
    Evidence,
    Origin,
    RecipientFacts,
    Source,
    StreamClass,
    Suppression,
)
from smtpproxy.policy.rulebooks import BUILTIN_NAMES
from smtpproxy.settings import Settings
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sqlite import SqliteStore
from smtpproxy.store.streams import StreamEvent
from tests.kit.relay import listener, relay_config
from tests.kit.toml import to_toml
from tests.policy.cases import DAY, NOW
from tests.policy.strategies import PAUSES, random_case

ADDRESSES = [
    canonical(text)
    for text in (
        "jeanne@example.org",
        "jeanne+x@example.org",
        "jeanne@example.net",
        "jeanne%example.org@relay.example",
        '"jeanne@example.net"@relay.example',
        "contact@example.org",
        "contact@gmail.com",
        "c.ontact@googlemail.com",
        "info@x.free.fr",
        "josé@bücher.example",
        "info@bücher.example",
        '"a b"@example.org',
        "recrutement@sub.example.org",
    )
]
APART = ["jeanne@example.org", "jeanne@example.net", "contact@gmail.com", "info@x.free.fr"]
"""None of these is a variant or a reading of another."""
INTAKES = ("smtp", "lmtp", "milter", "policy")
EVIDENCE = [Evidence("form"), Evidence("form", form="p"), Evidence("\u200b"), Evidence(" ")]
CAPS = ["1/7d", "2/1d", "3/60d"]
IMPRINT = "1 rue de l'Exemple"


def configuration(random: Random, root: Path) -> Settings:
    brands = random.choice([[], [], ["shop"], ["shop", "mill"], ["shop", "mill"]])
    streams = [_stream(random, name, brands) for name in ("offers", "news", "t")]
    receipts = {"name": "receipts", "class": "transactional"}
    if random.random() < 0.4:
        receipts["purpose"] = "offers"
    if brands:
        receipts["brand"] = random.choice(brands)
    streams.append(receipts)
    names = [stream["name"] for stream in streams]
    policy = {"rulebook": random.choice(BUILTIN_NAMES), "imprint": [IMPRINT]}
    if random.random() < 0.2:
        policy["frequency_cap"] = random.choice(CAPS)
    document = {
        "listener": [listener(each, *names, protocol=each) for each in INTAKES],
        "stream": streams,
        "policy": policy,
        "brand": [{"name": each, "legal_name": each, "address": IMPRINT} for each in brands],
    }
    if not brands:
        del document["brand"]
    return parse(to_toml(relay_config(root, "127.0.0.1:25", document)), "x.toml")


def _stream(random: Random, name: str, brands: Sequence[str]) -> dict[str, Any]:
    stream: dict[str, Any] = {
        "name": name,
        "class": "marketing",
        "purpose": random.choice(["offers", "news"]) if name == "t" else name,
        "rulebook": random.choice(BUILTIN_NAMES),
        "products": random.sample(["shoes", "hats"], random.randrange(3)),
        "topics": random.sample(["shoes", "hats"], random.randrange(3)),
        "nature": random.choice(["commercial", "charity"]),
        "paused": random.random() < 0.1,
        "mode": random.choice(["enforce"] * 4 + ["observe"]),
        "refuse_at": random.choice(["rcpt"] * 4 + ["data"]),
    }
    if brands:
        stream["brand"] = random.choice(brands)
    if random.random() < 0.25:
        stream["frequency_cap"] = random.choice(CAPS)
    return stream


async def fill(random: Random, settings: Settings, store: SqliteStore) -> None:
    """Put people, suppressions, sent mail and pauses into a store."""
    marketing = [
        stream
        for stream in settings.streams.values()
        if stream.stream_class is StreamClass.MARKETING
    ]
    for address in ADDRESSES:
        known = anybody(random)
        if known.contact is not None and random.random() < 0.9:
            await store.put_contacts([person(random, known.contact, address)])
        if random.random() < 0.6:
            orders = [_order(random, address, one) for one in known.suppressions]
            await store.add_suppressions(orders)
        if random.random() < 0.3:
            for number, mailing in enumerate(known.mailings):
                sent = f"{number} {address}", random.choice(marketing), [address], mailing.at
                await store._mailings.reserve(*sent)
    if random.random() < 0.25:
        for pause in random.choice(PAUSES[-5:]):
            subject = pause.subject.replace("stream:s", "stream:offers")
            event = StreamEvent(pause.at, subject, "paused", pause.cause, until=pause.until)
            await store.note_stream(event)


def anybody(random: Random) -> RecipientFacts:
    return random_case(random)[2]


def person(random: Random, contact: Contact, address: str) -> Contact:
    """The contact at this address; half of them have a good source."""
    acts = tuple(replace(act, evidence=random.choice(EVIDENCE)) for act in contact.acts)
    contact = replace(contact, address=address, acts=acts)
    if random.random() < 0.5:
        contact = replace(contact, source=Source.DIRECT, tags=frozenset())
    return contact if random.random() < 0.4 else replace(contact, others=())


def update(random: Random, address: str) -> ContactUpdate:
    """What a line of a file says about somebody."""
    contact = anybody(random).contact or Contact(address)
    return ContactUpdate(person(random, contact, address), as_of=random.choice([None, NOW]))


def _order(random: Random, address: str, one: Suppression) -> SuppressionEntry:
    """A suppression, mostly of the address, otherwise of its domain."""
    domain = address.rpartition("@")[2]
    name = random.choice([address] * 6 + [f"@{domain}", f"*.{domain}"])
    origin = one.origin
    if name != address:
        origin = random.choice([Origin.MANUAL, Origin.OBJECTION, Origin.EXTERNAL])
    since = one.since
    if origin is Origin.ERASURE:  # otherwise the record of the decision would name nobody
        since = min(since, NOW - DAY)
    return SuppressionEntry(name, one.scope, origin, since)
