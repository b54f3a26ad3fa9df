"""`smtpproxy token` and `smtpproxy suppress key`."""

from hashlib import sha256
from pathlib import Path

import pytest

from smtpproxy.config import ConfigError, parse
from smtpproxy.web.api import Gate
from tests.cli.stored import Stored


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def test_a_new_token_works_with_its_table(stored: Stored) -> None:
    output = stored.run("token", "dwh", "--may", "changes").stdout
    token = next(line for line in output.splitlines() if line.startswith("smtpproxy_"))
    table = output[output.index("[[token]]") :]
    assert token not in table
    settings = parse(stored.config_path.read_text() + "\n" + table, "x.toml")
    (known,) = settings.tokens
    assert (known.name, known.may) == ("dwh", frozenset({"changes"}))
    assert Gate(settings.tokens, lambda: 0.0).who(f"Bearer {token}") == known


def test_tokens_are_unique_and_complete_in_json(stored: Stored) -> None:
    first, second = stored.json("token", "a"), stored.json("token", "a")
    assert first["token"] != second["token"]
    assert len(first["token"]) > 40
    assert first["sha256"] == sha256(first["token"].encode()).hexdigest()
    assert first["may"] == ["changes", "check"]


@pytest.mark.parametrize("name", ['a"b', "", "Crm", "x" * 64])
def test_an_invalid_name_is_refused(stored: Stored, name: str) -> None:
    assert "is not a name" in stored.run("token", name, code=2).stderr


def test_a_token_needs_existing_brands(stored: Stored) -> None:
    assert (
        "there is no brand 'shop'" in stored.run("token", "dwh", "--brand", "shop", code=2).stderr
    )
    brand = '\n[[brand]]\nname = "shop"\nlegal_name = "X"\naddress = "Rue 1"\n'
    stored.config_path.write_text(stored.config_path.read_text() + brand)
    output = stored.run("token", "dwh", "--brand", "shop").stdout
    table = output[output.index("[[token]]") :]
    config = stored.config_path.read_text() + "\n" + table
    assert parse(config, "x.toml").tokens[0].brands == frozenset({"shop"})
    with pytest.raises(ConfigError, match=r'brands\[0\]: no brand "shap"'):
        parse(config.replace('["shop"]', '["shap"]'), "x.toml")


def test_a_name_in_use_is_reported(stored: Stored) -> None:
    table = stored.run("token", "dwh").stdout
    stored.config_path.write_text(
        stored.config_path.read_text() + "\n" + table[table.index("[[token]]") :]
    )
    assert "'dwh' already" in stored.run("token", "dwh").stderr


def exported_key(stored: Stored, address: str) -> str:
    stored.run("suppress", "add", address)
    lines = stored.run("suppress", "export").stdout.splitlines()
    return lines[-1].partition(",")[0]


def test_the_key_of_an_address_is_the_one_in_an_export(stored: Stored) -> None:
    key = exported_key(stored, "anna@people.example")
    assert stored.run("suppress", "key", "Anna@People.example").stdout == f"{key}\n"
    assert "anna" not in stored.run("suppress", "key", "anna@people.example").stdout


def test_each_line_of_a_file_becomes_key_and_address(stored: Stored) -> None:
    key = exported_key(stored, "anna@people.example")
    path = stored.file(
        "list.txt", "\ufeffanna@people.example\r\n\nno address\nBob@people.example\n"
    )
    result = stored.run("suppress", "key", path, code=1)
    first, second = result.stdout.splitlines()
    assert first == f"{key},anna@people.example"
    assert second.endswith(",Bob@people.example")
    assert result.stderr.startswith("line 3: ")


def test_anything_else_is_wrong_usage(stored: Stored) -> None:
    exported_key(stored, "anna@people.example")
    for wrong in ("list.txt", "a" * 300, f"a\x01{'a' * 300}@x.example"):
        result = stored.run("suppress", "key", wrong, code=2)
        assert "neither a file nor an address" in result.stderr
