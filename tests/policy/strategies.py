"""Cases drawn from few values, so that every combination occurs: random, or by hypothesis."""

from datetime import datetime, timedelta
from random import Random

from hypothesis import settings
from hypothesis import strategies as st

from smtpproxy.policy.campaign import Campaign, Trial
from smtpproxy.policy.model import (
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Frequency,
    Mailing,
    Nature,
    Origin,
    Pause,
    Preference,
    Provenance,
    Purchase,
    Reading,
    RecipientFacts,
    Source,
    Stream,
    StreamClass,
    Suppression,
)
from smtpproxy.policy.periods import parse_cap
from tests.policy.cases import DAY, NOW, THREE_YEARS_AGO, TICK

HOUR = timedelta(hours=1)
untimed = settings(deadline=None)
"""For property tests: a busy machine must not make them fail."""

ADDRESSES = ["jeanne@example.org", "contact@example.org", "contact@gmail.com", "info@x.free.fr"]

# Around the edges: three years ago, now, and the future.
MOMENTS = [
    THREE_YEARS_AGO - timedelta(days=400),
    THREE_YEARS_AGO - 30 * DAY - TICK,
    THREE_YEARS_AGO - 30 * DAY,
    THREE_YEARS_AGO - TICK,
    THREE_YEARS_AGO,
    THREE_YEARS_AGO + TICK,
    NOW - 30 * DAY,
    NOW - DAY,
    NOW - TICK,
    NOW,
    NOW + TICK,
    NOW + DAY,
]
MAILED = [NOW, NOW + TICK, NOW - DAY, NOW - 7 * DAY, NOW - 7 * DAY - TICK, NOW - 30 * DAY]
CAPS = [None, None, None, parse_cap("1/7d"), parse_cap("2/1d"), parse_cap("3/60d")]
PAUSES: list[tuple[Pause, ...]] = [
    *[()] * 9,
    (Pause("marketing", NOW - DAY, "restore"), Pause("stream:s", NOW - DAY, "person")),
    (Pause("stream:s", NOW - DAY, "complaint"),),
    (Pause("stream:s", NOW - DAY, "complaint", NOW), Pause("stream:t", NOW - DAY, "person")),
    (Pause("stream:s", NOW - DAY, "person", NOW + TICK),),
    (Pause("brand:shop", NOW - DAY, "complaint"),),
]
PRODUCTS = ["shoes", "hats"]
PURPOSES = ["offers", "news"]
BRANDS = ["default", "shop", "shop", "mill"]
SAID_TO = [None, None, None, "shop", "shop", "shop", "mill"]
CAME_BY = [None, None, None, "purchased: X", "web"]
SCOPES = ["all", "marketing", "brand:shop", "brand:mill", "purpose:offers", "purpose:news"]
CLASSES = [StreamClass.MARKETING] * 4 + [StreamClass.TRANSACTIONAL]
METHODS = ["unticked_box"] * 4 + ["silence", "other", None]
CHANNELS = [frozenset({"email"})] * 4 + [frozenset({"sms"})]
EVIDENCE = [Evidence("form")] * 4 + [Evidence()]
SOURCES = [Source.DIRECT] * 6 + [None, *Source]
TAGS = [frozenset[str]()] * 4 + [frozenset({"restricted"}), frozenset({" Restricted\t", "vip"})]
PROVENANCES = [
    None,
    Provenance(),
    Provenance("X"),
    Provenance("X", sender_disclosed=False),
    Provenance("X", sender_disclosed=True),
]


TRIAL = Trial(100)


def random_campaign(random: Random) -> Campaign:
    """Around the bounds: 50 strangers and 5 dead addresses in 100 people, and 4 hours."""
    dead = random.choice([0, 4, 5, 100])
    return Campaign(
        "campaign",
        people=100,
        strangers=random.choice([0, 49, 50, 100]),
        dead=dead,
        full_at=random.choice([None, NOW, NOW - 4 * HOUR, NOW - 4 * HOUR + TICK]),
        dead_at=random.choice([NOW, NOW - 4 * HOUR, NOW - 30 * DAY]) if dead >= 5 else None,
    )


def random_case(random: Random) -> tuple[str, Stream, RecipientFacts]:
    """Return an address, a stream and the facts."""
    entries = tuple(
        Suppression(
            random.choice(SCOPES),
            random.choice(list(Origin)),
            random.choice(MOMENTS),
            random.random() < 0.3,
            domain=random.choice([None, None, None, "@example.org"]),
            read_as=random.choice([None, None, None, "jeanne@example.net"]),
        )
        for _ in range(random.choice([0, 0, 0, 1, 2]))
    )
    readings = tuple(
        Reading("jeanne@example.net", _acts(random)) for _ in range(random.choice([0, 0, 0, 1]))
    )
    contact = _contact(random) if random.random() < 0.9 else None
    mailings = tuple(
        Mailing(
            random.choice(["s", "t", *(f"permission:{brand}" for brand in BRANDS)]),
            random.choice(MAILED),
            random.choice(PURPOSES),
            random.choice(BRANDS),
        )
        for _ in range(random.choice([0, 0, 0, 1, 2, 5]))
    )
    null_mx = random.choice([None, None, False, True])
    facts = RecipientFacts(
        entries,
        contact,
        mailings,
        snapshot_at=(snapshot_at := _maybe(random)),
        newest_snapshot_at=snapshot_at and random.choice([None, None, None, NOW + DAY]),
        null_mx=null_mx,
        readings=readings,
        pauses=random.choice(PAUSES),
    )
    return random.choice(ADDRESSES), _stream(random), facts


def _stream(random: Random) -> Stream:
    kind = random.choice(CLASSES)
    return Stream(
        "s",
        kind,
        random.choice(PURPOSES),
        random.choice(list(Nature)),
        products=_some(random),
        topics=_some(random),
        paused=random.random() < 0.2,
        permission=kind is StreamClass.MARKETING and random.random() < 0.6,
        confirmation=kind is StreamClass.TRANSACTIONAL and random.random() < 0.4,
        frequency_cap=random.choice(CAPS),
        marketing_cap=random.choice(CAPS),
        max_snapshot_age=random.choice([None, None, None, 86_400.0]),
        brand=random.choice(BRANDS),
        many_brands=random.random() < 0.4,
        all_brands=frozenset({"shop"} if random.random() < 0.1 else ()),
    )


def _contact(random: Random) -> Contact:
    return Contact(
        "jeanne@example.org",
        random.choice(list(Audience)),
        random.choice(SOURCES),
        _maybe(random),
        _maybe(random),
        random.choice([True, True, True, False, None]),
        _maybe(random),
        _some(random),
        random.choice(TAGS),
        random.choice(PROVENANCES),
        tuple(
            Purchase(
                random.choice(PRODUCTS),
                random.choice(MOMENTS),
                brand=random.choice(SAID_TO),
                came_by=random.choice(CAME_BY),
            )
            for _ in range(random.choice([0, 0, 1, 2]))
        ),
        _acts(random),
        profiling_objected_at=random.choice([None, None, None, NOW - DAY]),
        preferences=_wishes(random),
        brand=random.choice(SAID_TO),
        others=tuple(_collection(random) for _ in range(random.choice([0, 0, 0, 1, 2]))),
    )


def _wishes(random: Random) -> tuple[Preference, ...]:
    """At most one wish for each purpose and brand, as the store keeps them."""
    wishes = [
        Preference(
            random.choice(PURPOSES),
            random.choice(list(Frequency)),
            random.choice([*MAILED, *MOMENTS]),
            random.choice(BRANDS),
        )
        for _ in range(random.choice([0, 0, 0, 1, 2]))
    ]
    return tuple({(one.purpose, one.brand): one for one in wishes}.values())


def _collection(random: Random) -> Collection:
    return Collection(
        random.choice(SAID_TO),
        random.choice(SOURCES),
        _maybe(random),
        _maybe(random),
        optout_offered=random.choice([True, True, True, False, None]),
        last_activity_at=_maybe(random),
        provenance=random.choice(PROVENANCES),
        audience=random.choice(list(Audience)),
        occupations=_some(random),
    )


def _acts(random: Random) -> tuple[ConsentAct, ...]:
    """Acts of consent, of which several may be simultaneous."""
    return tuple(
        ConsentAct(
            random.choice(PURPOSES),
            random.choice(MOMENTS),
            random.random() < 0.3,
            random.choice(METHODS),
            random.random() < 0.2,
            random.choice(CHANNELS),
            random.choice(EVIDENCE),
            brand=random.choice(SAID_TO),
            came_by=random.choice(CAME_BY),
        )
        for _ in range(random.choice([0, 0, 1, 1, 2, 3]))
    )


def _some(random: Random) -> frozenset[str]:
    return frozenset(random.sample(PRODUCTS, random.randrange(3)))


def _maybe(random: Random) -> datetime | None:
    return random.choice([None, *MOMENTS])


# Hypothesis draws a seed and shrinks the suppressions it adds; a seed always gives the
# same case.
cases = st.integers(0, 2**32).map(lambda seed: random_case(Random(seed)))
streams = st.integers(0, 2**32).map(lambda seed: _stream(Random(seed)))
suppressions = st.builds(
    Suppression,
    scope=st.sampled_from(SCOPES),
    origin=st.sampled_from(Origin),
    since=st.sampled_from(MOMENTS),
    widened=st.booleans(),
)
