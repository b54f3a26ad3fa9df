"""Values left over from an example file are pointed out with their place."""

from pathlib import Path

import pytest

from smtpproxy.config.warnings import example_values
from tests.config.test_docs import EXAMPLE

SMALLEST = """
[server]
hostname = "{}"
[[listener]]
name = "example.com"
address = "127.0.0.1:2525"
[upstream]
address = "{}:25"
"""


def test_each_example_value_is_reported_with_its_place() -> None:
    found = example_values(EXAMPLE)
    for beginning in (
        'server.hostname: "relay.example.com"',
        'doctor.sending_addresses: "192.0.2.25"',
        'stream "offers".from_domains: "shop.example.com"',
        'stream "newsletter".from_domains: "news.example.com"',
        'sender "@news.example.com".address: "news.example.com"',
    ):
        assert any(line.startswith(beginning) for line in found), (beginning, found)


@pytest.mark.parametrize(
    ("hostname", "upstream", "found"),
    [
        ("relay.bank.fr", "10.0.0.1", []),
        ("example.com.bank.fr", "10.192.0.2", []),
        ("myexample.com", "mx.example.company.fr", []),
        ("RELAY.EXAMPLE.ORG", "[2001:db8::25]", ["RELAY.EXAMPLE.ORG", "2001:db8::25"]),
        ("mx.example", "198.51.100.7", ["mx.example", "198.51.100.7"]),
    ],
)
def test_only_reserved_names_are_examples(
    tmp_path: Path, hostname: str, upstream: str, found: list[str]
) -> None:
    path = tmp_path / "smtpproxy.toml"
    path.write_text(SMALLEST.format(hostname, upstream).replace('"example.com"', '"apps"'))
    assert [line.split('"')[1] for line in example_values(path)] == found
