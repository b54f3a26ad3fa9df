"""A rule is skipped on streams where it can never decide."""

from random import Random

from msgspec.structs import replace

from smtpproxy.mail.unsubscribe import FaultKind, UriFault
from smtpproxy.policy.model import (
    Alignment,
    Basis,
    ConfirmLink,
    ContentFeatures,
    ExistingUnsubscribe,
    MessageFeatures,
    Nature,
    Pixel,
    PixelSign,
    SignatureFinding,
    SignatureState,
    Stream,
    TrackingPixels,
    UndeclaredBulk,
)
from smtpproxy.policy.rules import DeliveryCase, MessageCase, RecipientCase, on_every_stream, tables
from tests.policy.cases import BOOK, NOW
from tests.policy.strategies import random_case

DOMAINS = ("example.com", "shop.example", "other.example")
PIXEL = Pixel("t.example", PixelSign.TINY)


def _stream(random: Random, stream: Stream) -> Stream:
    some = lambda: frozenset(random.sample(DOMAINS, random.randint(0, 1)))  # noqa: E731
    texts = lambda: random.choice([(), ("Shop Ltd",)])  # noqa: E731
    flag = lambda: random.random() < 0.5  # noqa: E731
    return replace(
        stream,
        nature=random.choice(list(Nature)),
        from_domains=some(),
        foreign_domains=some(),
        one_click_required=flag(),
        first_contact_notice=flag(),
        max_recipients=random.choice([None, 1]),
        check_dkim=flag(),
        unsubscribe_scope=random.choice([None, "marketing"]),
        existing_unsubscribe=random.choice(list(ExistingUnsubscribe)),
        alignment=random.choice(list(Alignment)),
        body_optout=flag(),
        imprint=texts(),
        source_statement=texts(),
        honest_subject=flag(),
        undeclared_bulk=random.choice(list(UndeclaredBulk)),
        bulk_recipients=random.choice([None, 10]),
        tracking_pixels=random.choice(list(TrackingPixels)),
    )


def _content(random: Random) -> ContentFeatures | None:
    return random.choice(
        [
            None,
            ContentFeatures(),
            ContentFeatures(
                senders=tuple(random.sample(DOMAINS, 1)),
                fake_prefix=random.choice([None, "Re"]),
                shows_unsubscribe=random.random() < 0.5,
                shows_imprint=random.random() < 0.5,
                bulk_markers=random.choice([(), ("list-id",)]),
                alike=random.choice([0, 20]),
                confirm_link=random.choice(list(ConfirmLink)),
                pixels=random.choice([(), (PIXEL,)]),
                pixels_fixed=random.random() < 0.5,
            ),
        ]
    )


def _features(random: Random) -> MessageFeatures:
    state = random.choice(list(SignatureState))
    return MessageFeatures(
        malformed=random.choice([None, None, "a NUL in line 2"]),
        from_domains=tuple(random.sample(DOMAINS, random.randint(0, 2))),
        recipients=random.randint(0, 2),
        unsubscribe_fields=random.randint(0, 2),
        unsubscribe_https=random.choice([(), ("https://shop.example/u",)]),
        unsubscribe_mailto=random.choice([(), ("mailto:a@shop.example",)]),
        unsubscribe_fault=random.choice([None, UriFault(FaultKind.HOST, "localhost")]),
        one_click=random.random() < 0.5,
        source_statement=random.choice([None, "bought"]),
        signed_by_relay=random.random() < 0.5,
        signatures=random.choice([None, (), (SignatureFinding("example.com", "s", state),)]),
        content=_content(random),
    )


def test_a_skipped_rule_would_not_have_decided() -> None:
    random = Random(20261129)
    off: dict[str, int] = {}
    decided = set()
    of_recipients = (
        *tables.recipient_rules(tuple(tables.BASES)),
        *tables.DOMAIN_RULES,
        *tables.WISHES,
        *tables.DEFERRALS,
    )
    for _ in range(2_500):
        address, stream, facts = random_case(random)
        stream, features = _stream(random, stream), _features(random)
        recipient = RecipientCase(address, stream, facts, BOOK, NOW)
        delivery = DeliveryCase(recipient, random.choice(list(Basis)), features)
        message = MessageCase(stream, features)
        judged = [
            *[(rule, rule.judge(recipient)) for rule in of_recipients],
            *[(rule, rule.judge(delivery)) for rule in tables.DELIVERY_RULES],
            *[(rule, rule.judge(message)) for rule in tables.message_rules(stream)],
        ]
        for rule, verdict in judged:
            assert verdict is None or verdict.rule == rule.name
            if rule.applies(stream):
                decided |= {rule.name} if verdict is not None else set()
                continue
            off[rule.name] = off.get(rule.name, 0) + 1
            assert verdict is None, (rule.name, stream)
    assert set(off) <= decided  # and each was also seen to decide
    rules = (*of_recipients, *tables.DELIVERY_RULES, *tables.MESSAGE_RULES)
    assert {rule.name for rule in rules if rule.applies is not on_every_stream} | {"bulk"} == set(
        off
    )


def test_only_pauses_defer_where_nothing_is_limited() -> None:
    """The rules of pauses are skipped while nothing is paused."""
    random = Random(20261130)
    for _ in range(1_000):
        address, stream, facts = random_case(random)
        case = RecipientCase(address, replace(stream, paused=False), facts, BOOK, NOW)
        if not facts.pauses:
            assert [rule.judge(case) for rule in tables.PAUSES] == [None, None]


def test_equal_streams_share_their_rules_and_changed_ones_do_not() -> None:
    strict = Stream("offers", honest_subject=True)
    assert strict.checks_content
    assert not replace(strict, honest_subject=False).checks_content
    assert hash(strict) == hash(Stream("offers", honest_subject=True))
