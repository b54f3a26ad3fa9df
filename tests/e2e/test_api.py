"""The API of a running relay: writes count at the very next RCPT, and docs/api.md works."""

import json
import os
import re
import smtplib
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest

from smtpproxy.client import ApiProblem, Client
from smtpproxy.settings.mail import Right
from tests.kit.messages import marketing
from tests.kit.relay import REPOSITORY, RelayProcess
from tests.kit.upstream import FakeUpstream

LEA = "lea@people.example"
TOKEN = "smtpproxy_of_the_tests"
CONSENT = {"address": LEA, "purpose": "newsletter", "method": "unticked_box",
           "wording": "Send me the newsletter.", "source": "direct"}  # fmt: skip


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    digest = sha256(TOKEN.encode()).hexdigest()
    stream = {"name": "newsletter", "class": "marketing", "purpose": "newsletter"}
    return filled(
        mta.address,
        {
            "web": {},
            "stream": [stream],
            "token": [{"name": "crm", "sha256": digest, "may": list(get_args(Right))}],
        },
    )


@pytest.fixture
def session(relay: RelayProcess) -> Iterator[smtplib.SMTP]:
    """One SMTP connection that stays open."""
    with smtplib.SMTP("127.0.0.1", relay.port()) as client:
        client.ehlo("app.example")
        yield client


def post(relay: RelayProcess, path: str, asked: object) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"{relay.url}{path}", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def rcpt(session: smtplib.SMTP, address: str) -> str:
    """Return the reason why an address is refused, or "" if it is not."""
    session.mail("news@shop.example")
    code, text = session.rcpt(address)
    session.rset()
    found = re.search(r"\(([a-z_]+)\)|reason=([a-z_]+)", text.decode())
    return "" if code == 250 else (found and (found[1] or found[2])) or text.decode()


def test_every_change_counts_at_the_next_rcpt(relay: RelayProcess, session: smtplib.SMTP) -> None:
    assert "no_record" in rcpt(session, LEA)
    assert post(relay, "/v1/consents/record", CONSENT)["warnings"] == []
    assert rcpt(session, LEA) == ""
    post(relay, "/v1/suppressions", {"suppressions": [{"address": LEA, "origin": "complaint"}]})
    assert "suppressed_complaint" in rcpt(session, LEA)
    lift = {"address": LEA, "origin": "complaint", "reason": "added by mistake"}
    post(relay, "/v1/suppressions/lift", lift)
    assert rcpt(session, LEA) == ""
    post(relay, "/v1/contacts", {"address": LEA, "tags": ["restricted"]})
    assert "contact_restricted" in rcpt(session, LEA)
    post(relay, "/v1/contacts", {"address": LEA, "tags": []})
    assert rcpt(session, LEA) == ""
    post(relay, "/v1/consents/withdraw", {"address": LEA, "purpose": "newsletter"})
    assert "consent_withdrawn" in rcpt(session, LEA)
    kept = post(relay, "/v1/contacts/erase", {"address": LEA, "keep_record": True})
    assert (kept["erased"], kept["audit_rows"]) == (True, 0)
    erased = post(relay, "/v1/contacts/erase", {"address": LEA})
    assert (erased["erased"], "left" in erased) == (False, False)
    assert erased["audit_rows"] > 0
    assert "suppressed_erasure" in rcpt(session, LEA)
    code, shown, _ = relay.command("contact", "show", LEA)
    assert (code, shown) == (1, "")
    assert LEA not in relay.output


def test_a_pause_counts_at_the_next_message(relay: RelayProcess) -> None:
    tim = "tim@people.example"
    post(relay, "/v1/consents/record", CONSENT | {"address": tim})
    assert relay.send(marketing(), tim)[0] == 250
    post(relay, "/v1/streams/pause", {"stream": "newsletter", "reason": "wrong prices"})
    code, text = relay.send(marketing(), tim)
    assert (code, "stream_paused" in str(text)) == (450, True)
    post(relay, "/v1/streams/resume", {"stream": "newsletter"})
    assert relay.send(marketing(), tim)[0] == 250


def test_check_agrees_with_the_relay_and_the_decision_is_found(
    relay: RelayProcess, session: smtplib.SMTP
) -> None:
    ida = "ida@people.example"
    asked = {"stream": "newsletter", "addresses": [ida]}
    (told,) = post(relay, "/v1/check", asked)["verdicts"]
    assert told["reason"] in rcpt(session, ida)
    (found,) = post(relay, "/v1/decisions/search", {"recipient": ida})["decisions"]
    assert found["recipients"][0]["reason"] == told["reason"]


def commands() -> list[str]:
    """The curl commands of docs/api.md, in their order."""
    text = (REPOSITORY / "docs" / "api.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in re.split(r"\n(?=\S)", block.strip())]
    return [line for line in lines if line.startswith("curl ")]


def test_the_documented_client_works(
    relay: RelayProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPOSITORY / "docs" / "api.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for code, said in ((first, "marketing"), (second, "")):
        exec(code.replace("http://127.0.0.1:8025", relay.url), {"token": TOKEN})
        assert said in (out := capsys.readouterr().out)
        assert "somebody else" not in out


def test_an_import_is_listed(relay: RelayProcess, tmp_path: Path) -> None:
    file = tmp_path / "left.csv"
    file.write_text("address,scope,origin\nzoe@people.example,all,unsubscribe\nnobody,all,manual\n")
    relay.command("suppress", "import", str(file))
    with Client(relay.url, TOKEN) as api:
        newest = api.list_imports().imports[0]
        assert (newest.kind, newest.state, newest.added, newest.rejected) == (
            *("suppressions", "complete"), 1, 1,
        )  # fmt: skip
        assert api.get_import(newest.id) == newest
        with pytest.raises(ApiProblem, match="not_found"):
            api.get_import("nothing")


def test_the_documented_commands_do_what_they_say(relay: RelayProcess) -> None:
    told = commands()
    assert len(told) >= 5
    for line in told:
        ran = subprocess.run(
            ["bash", "-c", line.replace("http://127.0.0.1:8025", relay.url)],
            env={**os.environ, "TOKEN": TOKEN}, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert "error" not in json.loads(ran.stdout), f"{line}\n{ran.stdout}"
