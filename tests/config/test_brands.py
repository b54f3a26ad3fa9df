"""The brands that streams and From domains belong to."""

import pytest

from smtpproxy.config import ConfigError, parse
from smtpproxy.config.warnings import warnings
from smtpproxy.policy.decide import judge_message
from smtpproxy.policy.model import Action, MessageFeatures, Reason, Stream
from smtpproxy.settings import Settings

START = """
[server]
hostname = "relay.example.com"
[[listener]]
name = "apps"
address = "127.0.0.1:2525"
[upstream]
address = "127.0.0.1:10025"
"""
NEWS = '[[stream]]\nname = "news"\nclass = "marketing"\npurpose = "news"\n'
CONTROLLER = """
[controller]
name = "Group SA"
address = "1 rue X, 75001 Paris"
contact = "privacy@group.example"
purposes = ["offers"]
recipients = ["nobody"]
authority = "CNIL"
"""


def _brand(name: str, *more: str) -> str:
    own = f'name = "{name}"\nlegal_name = "{name.title()} SA"\naddress = "2 rue X, Paris"\n'
    return f"[[brand]]\n{own}" + "".join(f"{each}\n" for each in more)


def _stream(settings: Settings, name: str) -> Stream:
    return settings.streams[name]


def test_without_brands_all_streams_belong_to_the_built_in_one() -> None:
    settings = parse(START + NEWS, "f")
    assert list(settings.brands) == ["default"]
    assert {stream.brand for stream in settings.streams.values()} == {"default"}
    assert not any(stream.many_brands for stream in settings.streams.values())
    assert settings.brands["default"].title == "relay.example.com"


def test_the_built_in_brand_is_the_controllers() -> None:
    brand = parse(START + CONTROLLER, "f").brands["default"]
    assert (brand.title, brand.address) == ("Group SA", "1 rue X, 75001 Paris")


def test_with_one_brand_all_streams_belong_to_it() -> None:
    settings = parse(START + CONTROLLER + '[[brand]]\nname = "shoes"\n' + NEWS, "f")
    assert {stream.brand for stream in settings.streams.values()} == {"shoes"}
    assert not any(stream.many_brands for stream in settings.streams.values())
    brand = settings.brands["shoes"]
    assert (brand.title, brand.legal_name, brand.address) == (
        *("Group SA", "Group SA", "1 rue X, 75001 Paris"),
    )


def test_with_several_brands_streams_name_theirs_and_undeclared_mail_has_none() -> None:
    both = _brand("shoes", 'title = "Shoes!"') + _brand("hats")
    settings = parse(START + both + NEWS + 'brand = "hats"\n', "f")
    assert {name: stream.brand for name, stream in settings.streams.items()} == {
        "default": "default",
        "news": "hats",
    }
    assert all(stream.many_brands for stream in settings.streams.values())
    assert [brand.title for brand in settings.brands.values()] == ["Shoes!", "Hats SA"]


def test_with_several_brands_a_stream_without_one_is_a_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(START + _brand("shoes") + _brand("hats") + NEWS, "f")
    assert caught.value.faults == (
        'f: stream "news".brand: missing; there are several brands, so say whose it'
        ' is: brand = "shoes" or brand = "hats"',
    )


def test_a_stream_has_the_from_domains_of_its_brand_or_fewer() -> None:
    brand = _brand("shoes", 'from_domains = ["shoes.example", "s.example"]')
    assert _stream(parse(START + brand + NEWS, "f"), "news").from_domains == {
        *("shoes.example", "s.example"),
    }
    fewer = parse(START + brand + NEWS + 'from_domains = ["S.example"]', "f")
    assert _stream(fewer, "news").from_domains == {"s.example"}


@pytest.mark.parametrize(
    ("domain", "action"),
    [("shoes.example", Action.REFUSE), ("else.example", Action.ALLOW)],
)
def test_a_stream_for_any_domain_excludes_those_of_other_brands(
    domain: str, action: Action
) -> None:
    both = _brand("shoes", 'from_domains = ["shoes.example"]') + _brand("hats")
    receipts = '[[stream]]\nname = "receipts"\nclass = "transactional"\nbrand = "hats"\n'
    stream = _stream(parse(START + both + receipts, "f"), "receipts")
    verdict = judge_message(stream, MessageFeatures(from_domains=(domain,)))
    assert verdict.action is action
    assert (verdict.reason is Reason.SENDER_NOT_PERMITTED) is (action is Action.REFUSE)


def test_labels_and_colours_are_read() -> None:
    brand = _brand("shoes", 'colour = "#FFF"', 'languages = ["fr"]', 'help = "Help@S.example"')
    settings = parse(START + brand + NEWS + 'label = {en = "News", fr = "Nouvelles"}', "f")
    assert settings.declared_streams[0].label == {"en": "News", "fr": "Nouvelles"}
    read = settings.brands["shoes"]
    assert (read.colour, read.languages, read.help) == ("#ffffff", ("fr",), "help@s.example")


def test_a_purpose_shared_by_two_brands_gives_a_warning() -> None:
    both = _brand("shoes") + _brand("hats")
    more = NEWS.replace('name = "news"', 'name = "more"')
    settings = parse(START + both + NEWS + 'brand = "hats"\n' + more + 'brand = "shoes"\n', "f")
    (told,) = [one for one in warnings(settings) if "is a purpose of brand" in one]
    assert 'stream "more".purpose: "news" is a purpose of brand "hats" too' in told
