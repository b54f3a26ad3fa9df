"""`smtpproxy check`: faults, warnings and summary."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.kit.processes import run
from tests.kit.relay import COMMAND, REPOSITORY

CONFIGS = Path(__file__).parents[1] / "config"


def check(path: Path | str, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Run `check` in this process, to save the start."""
    config = ("--config", str(path)) if path else ()
    done = CliRunner(env=env).invoke(main, ["check", *config, *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_every_fault_is_printed_after_the_file_name() -> None:
    path = CONFIGS / "bad" / "many.toml"
    done = run(*COMMAND, "check", "--config", str(path), cwd=REPOSITORY)
    expected = path.with_suffix(".expected").read_text().replace("many.toml", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (2, expected, "")


def test_faults_as_json() -> None:
    path = CONFIGS / "bad" / "duplicates.toml"
    code, out, _ = check(path, "--json")
    result = json.loads(out)
    assert code == 2
    assert result["valid"] is False
    assert [fault.partition(": ")[0] for fault in result["faults"]] == [str(path)] * 3


def test_a_good_file_is_summarised() -> None:
    code, out, err = check(CONFIGS / "good" / "contract.toml")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "listener apps smtp 127.0.0.1:2525" in lines
    assert "streams offers (by default), receipts" in lines
    assert "stream default marketing, purpose marketing, rulebook fr, enforce" in lines
    assert "stream receipts transactional, rulebook fr, enforce" in lines
    assert "upstream 127.0.0.1:10025" in lines
    assert "store sqlite:///var/lib/smtpproxy/smtpproxy.db" in lines
    assert "mode enforce, on_mixed refuse" in lines
    warned = [line for line in lines if line.startswith("warning")]
    (way_out,) = [line for line in warned if 'stream "offers".body_optout: not set' in line]
    assert 'rulebook "fr" requires each message to say how to unsubscribe' in way_out
    warned.remove(way_out)
    (controller,) = [line for line in warned if line.startswith("warning: controller: not set")]
    warned.remove(controller)
    assert all("is from the example: use your own" in line for line in warned)


def test_warnings_are_not_faults() -> None:
    code, out, _ = check(CONFIGS / "good" / "units.toml")
    assert code == 0
    warned = [line for line in out.splitlines() if line.startswith("warning: ")]
    for beginning in (
        'warning: listener "socket".streams: none',
        'warning: listener "four".address: 0.0.0.0:2525 can be reached from outside',
        'warning: listener "six".address: [::]:2525 can be reached from outside',
        'warning: policy.mode: "observe"',
        'warning: stream "letters".paused',
        'warning: stream "alerts": no listener may use it',
    ):
        assert any(line.startswith(beginning) for line in warned), beginning


def test_the_limits_of_a_policy_listener_are_warned_about() -> None:
    code, out, _ = check(CONFIGS / "good" / "policy.toml")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines() if line.startswith("warning: ")]
    where = 'warning: listener "mta".streams: a policy listener'
    for text in ("does not see the stream header", "does not count mail", "refuses at RCPT"):
        assert len([line for line in lines if line.startswith(f"{where} {text}")]) == 1, text
    assert not [line for line in lines if 'listener "receipts".streams' in line]


@pytest.mark.parametrize("protocol", ["milter", "policy"])
def test_a_missing_origin_is_warned_about(tmp_path: Path, protocol: str) -> None:
    path = tmp_path / "smtpproxy.toml"
    text = (CONFIGS / "good" / "smallest.toml").read_text()
    path.write_text(text.replace("[[listener]]", f'[[listener]]\nprotocol = "{protocol}"'))
    _, out, _ = check(path)
    assert 'warning: listener "apps".origin: not set, so an address without a domain' in out
    path.write_text(path.read_text().replace("[[listener]]", '[[listener]]\norigin = "shop.fr"'))
    _, out, _ = check(path)
    assert ".origin" not in out


def test_a_partners_key_must_exist(tmp_path: Path) -> None:
    path, key = tmp_path / "smtpproxy.toml", tmp_path / "firm.key"
    good = (CONFIGS / "good" / "contract.toml").read_text()
    path.write_text(f'{good}\n[[partner]]\nname = "firm"\nkey_file = "{key}"\n')
    code, out, _ = check(path)
    assert code == 2
    assert f'{path}: partner "firm".key_file: {key}: ' in out
    assert "smtpproxy partner key" in out
    key.touch(0o600)
    key.write_text("ab" * 32 + "\n")
    _, out, _ = check(path)
    assert 'partner "firm"' not in out
    assert f"partner firm key {key}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("named", "warned"),
    [
        ("", True),
        (
            '[controller]\nname = "Shop SA"\naddress = "1 rue X"\ncontact = "a@shop.example"\n'
            'purposes = ["offers"]\nrecipients = ["Hosting"]\nauthority = "CNIL"\n',
            False,
        ),
    ],
)
def test_asking_for_consent_without_a_controller_is_warned_about(
    tmp_path: Path, named: str, warned: bool
) -> None:
    path = tmp_path / "smtpproxy.toml"
    whole = (CONFIGS / "good" / "smallest.toml").read_text()
    whole += '[web]\naddress = "127.0.0.1:8025"\npublic_url = "https://c.shop.example"\n'
    path.write_text(f'{whole}[confirmation]\nsender = "hello@shop.example"\n{named}')
    code, out, _ = check(path, "--json")
    found = [one for one in json.loads(out)["warnings"] if one.startswith("confirmation: people")]
    assert (code, bool(found)) == (0, warned)


def test_a_relay_without_web_is_warned_about() -> None:
    code, out, _ = check(CONFIGS / "good" / "smallest.toml", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["valid"] is True
    assert result["faults"] == []
    assert any(warning.startswith("web: not set") for warning in result["warnings"])
    assert any(each.startswith("controller: not set, so") for each in result["warnings"])
    assert result["listeners"][0]["address"] == "127.0.0.1:2525"
    assert [stream["name"] for stream in result["streams"]] == ["default"]


@pytest.mark.parametrize("name", ["contract", "smallest"])
def test_the_environment_can_name_the_file(name: str) -> None:
    path = CONFIGS / "good" / f"{name}.toml"
    code, out, _ = check("", "--json", SMTPPROXY_CONFIG=str(path))
    assert (code, json.loads(out)["file"]) == (0, str(path))


def test_the_option_overrides_the_environment() -> None:
    good, bad = CONFIGS / "good" / "smallest.toml", CONFIGS / "bad" / "empty.toml"
    assert check(good, SMTPPROXY_CONFIG=str(bad))[0] == 0


def test_other_commands_report_the_same_faults() -> None:
    path = CONFIGS / "bad" / "workers.toml"
    done = run(*COMMAND, "serve", "--config", str(path), cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{path}: server.workers: -1 is too small: at least 0\n"


@pytest.mark.parametrize(
    "command",
    [
        "suppress show a@b.example",
        "audit verify",
        "reload",
        "feedback -",
        "stream enforce offers",
    ],
)
def test_a_command_says_what_to_do_until_the_file_is_corrected(command: str) -> None:
    path = CONFIGS / "bad" / "workers.toml"
    done = run(*COMMAND, *command.split(), "--config", str(path), cwd=REPOSITORY)
    assert (done.returncode, done.stdout) == (2, "")
    fault, advice = done.stderr.splitlines()
    assert fault == f"{path}: server.workers: -1 is too small: at least 0"
    assert "A running relay goes on with the settings it has read" in advice
    assert "--config FILE" in advice


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    done = run(*COMMAND, "serve", "--config", str(tmp_path / "none.toml"), cwd=REPOSITORY)
    assert done.returncode == 2
    assert "none.toml: cannot be read: No such file or directory" in done.stderr
    assert "SMTPPROXY_CONFIG" in done.stderr


def test_brands_that_look_the_same_are_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "smtpproxy.toml"
    text = (CONFIGS / "good" / "smallest.toml").read_text()
    for brand in ("shoes", "bags"):
        text += f'\n[[brand]]\nname = "{brand}"\nlegal_name = "Shop SA"\naddress = "Paris"\n'
        text += f'from_domains = ["{brand}.fr"]\n'
    path.write_text(text)
    said = 'brand "bags".title: the same name as that of brand "shoes"'
    assert said in check(path)[1]
    path.write_text(f'{text}title = "Bags"\n')
    assert said not in check(path)[1]


def test_a_help_url_without_web_pages_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "smtpproxy.toml"
    text = (CONFIGS / "good" / "smallest.toml").read_text()
    text += '\n[web]\naddress = "127.0.0.1:8025"\npublic_url = "https://stop.shop.fr"\n'
    said = 'policy.help_url: there is no page there; the pages about reasons are at "https://stop'
    for url, wrong in (("https://stop.shop.fr", True), ("https://stop.shop.fr/why", False),
                       ("https://help.shop.fr/mail", False),
                       ("https://stop.shop.free.fr", False)):  # fmt: skip
        path.write_text(f'{text}[policy]\nhelp_url = "{url}"\n')
        assert (said in check(path)[1]) is wrong
