"""Configurations with thousands of tables are checked in linear time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sys import getprofile, setprofile
from types import FrameType
from typing import Any

import pytest

from smtpproxy.config import ConfigError, parse
from smtpproxy.config.warnings import example_values
from smtpproxy.core import services
from smtpproxy.core.services import StreamTable
from smtpproxy.web.look import looks
from tests.kit.toml import to_toml


def file(**more: list[dict[str, Any]]) -> str:
    return to_toml(
        {
            "server": {"hostname": "relay.example"},
            "upstream": {"address": "127.0.0.1:10025"},
            "listener": [{"name": "apps", "address": "127.0.0.1:2525", "streams": ["receipts"]}],
            "stream": [{"name": "receipts", "class": "transactional"}],
            **more,
        }
    )


def rules(number: int, stream: str = "receipts") -> list[dict[str, Any]]:
    return [{"address": f"app{n}@shop.example", "streams": [stream]} for n in range(number)]


class Calls:
    made = 0


@contextmanager
def calls() -> Iterator[Calls]:
    """Count the calls of functions, including built-in ones."""
    counted = Calls()

    def count(_: FrameType, event: str, __: object) -> None:
        counted.made += event in ("call", "c_call")

    before = getprofile()
    setprofile(count)
    try:
        yield counted
    finally:
        setprofile(before)


def faults_of(rules_given: list[dict[str, Any]]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(file(sender=rules_given), "large.toml")
    return caught.value.faults


def test_a_fault_in_every_rule_is_reported_in_linear_time() -> None:
    with calls() as few:
        faults_of(rules(250, "receits"))
    with calls() as many:
        found = faults_of(rules(1_000, "receits"))
    assert found[-1] == (
        'large.toml: sender "app999@shop.example".streams[0]:'
        ' no stream "receits" is defined; did you mean "receipts"?'
    )
    assert len(found) == 1_000
    assert many.made < 5 * few.made


def test_an_example_value_in_every_rule_is_reported_in_linear_time(tmp_path: Path) -> None:
    def look(number: int) -> int:
        path = tmp_path / f"{number}.toml"
        path.write_text(file(sender=rules(number)))
        with calls() as counted:
            found = example_values(path)
        assert found[-1].startswith(f'sender "app{number - 1}@shop.example".address: ')
        return counted.made

    assert look(1_000) < 5 * look(250)


def test_listeners_credentials_and_rules_are_combined_only_for_mail() -> None:
    listeners = [
        {"name": f"l{n}", "address": f"127.0.0.1:{3000 + n}", "streams": ["receipts"]}
        for n in range(50)
    ]
    credentials: list[dict[str, Any]] = [{"user": f"u{n}"} for n in range(200)]
    credentials[7]["from_domains"] = ["shop.example"]
    settings = parse(file(listener=listeners, credential=credentials, sender=rules(100)), "x")
    with calls() as counted:
        table = StreamTable(settings)
    assert counted.made < 2_000, "out of a million combinations"
    one = table.choice("l0", "app1@shop.example", settings.credentials[1])
    assert [stream.name for stream in one.permitted] == ["receipts"]
    assert table.choice("l49", "app2@shop.example", settings.credentials[2]) is one
    narrowed = table.choice("l0", "app1@shop.example", settings.credentials[7])
    assert [stream.from_domains for stream in narrowed.permitted] == [frozenset({"shop.example"})]


def test_the_cache_of_combinations_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "_MOST_FOUND", 10)
    settings = parse(file(sender=rules(100)), "x")
    table = StreamTable(settings)
    found = {id(table.choice("apps", f"app{n}@shop.example")) for n in range(100)}
    assert len(found) == 1
    assert len(table._found) <= 10


def test_only_the_likeliest_of_hundreds_of_names_are_suggested() -> None:
    names = [f"stream-{n}" for n in range(500)]
    listener = {"name": "apps", "address": "127.0.0.1:2525", "streams": names}
    stream = [{"name": name, "class": "transactional"} for name in names]
    with pytest.raises(ConfigError) as caught:
        parse(file(listener=[{**listener, "default_stream": "steam-77"}], stream=stream), "x")
    assert 'is not among streams: one of "stream-77", ' in caught.value.faults[0]
    assert caught.value.faults[0].endswith(" and 480 more")


def test_more_listeners_than_a_worker_can_get_are_a_fault() -> None:
    def listeners(number: int) -> list[dict[str, Any]]:
        return [{"name": f"l{n}", "address": f"unix:/run/l{n}"} for n in range(number)]

    parse(file(listener=listeners(240)), "x")
    with pytest.raises(ConfigError) as caught:
        parse(file(listener=listeners(300)), "x")
    assert caught.value.faults == (
        'x: listener "l240": there are 300 listeners: a relay has at most 240',
    )


def test_the_pages_of_many_brands_are_made_once_each() -> None:
    def made(number: int) -> int:
        names = [f"b{n}" for n in range(number)]
        brands = [{"name": n, "legal_name": n, "address": "1 rue X"} for n in names]
        streams = [
            {"name": f"s-{n}", "class": "marketing", "brand": n, "purpose": "offers"} for n in names
        ]
        listener = {"name": "apps", "address": "127.0.0.1:2525", "streams": ["s-b0"]}
        settings = parse(file(brand=brands, stream=streams, listener=[listener]), "x")
        with calls() as counted:
            found = looks(settings)
        assert list(found["b0"].elsewhere["b1"]["offers"]) == ["s-b1"]
        return counted.made

    assert made(160) < 6 * made(40)
