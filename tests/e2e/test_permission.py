"""Class `permission`: the single message that asks whether to go on, and the answer to it."""

import csv
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.e2e.test_consent_by_mail import PUBLIC, YES, ask, config
from tests.kit.messages import marketing
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.upstream import At, FakeUpstream, Reply

NOW = datetime.now(UTC)
LATELY = (NOW - timedelta(days=7)).replace(year=NOW.year - 3)
COPIES = {**STREAMS[0], "name": "copies", "class": "permission", "unsubscribe": "add"}
RENEWAL = {**STREAMS[0], "name": "renewal", "class": "permission"}


def person(name: str) -> str:
    return f"{name}@people.example"


def consented(name: str, at: datetime) -> str:
    moment = at.isoformat()
    consent = {"purpose": "offers", "method": "unticked_box", "given_at": moment,
               "evidence": {"wording": "form v3"}}  # fmt: skip
    return json.dumps({"address": person(name), "audience": "consumer", "source": "direct",
                       "collected_at": moment, "consents": [consent]})  # fmt: skip


def asking(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    made = filled(
        mta.address,
        config()
        | {
            "stream": [*STREAMS, RENEWAL, COPIES],
            "server": {"workers": 2},
            "listener": [
                listener("apps", "offers", "receipts", default="offers"),
                listener("renewal", "renewal", default="renewal"),
                listener("both", "offers", "renewal", default="offers"),
                listener("copies", "copies", default="copies"),
            ],
        },
    )
    names = ("ada", "bea", "cat", "dan", "eva", "fay", "gus", "hal", "ida", "jon")
    made.fill([consented(name, LATELY) for name in names])
    made.fill([consented("recent", NOW - timedelta(days=30))])
    return made


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return asking(mta, filled)


@pytest.fixture(autouse=True)
def fresh(mta: FakeUpstream) -> Iterator[None]:
    mta.begin()
    yield
    mta.behaviours.clear()


def links(relay: RelayProcess, *names: str) -> list[str]:
    _, stdout, _ = relay.command(
        *("consent", "link", "-", "--stream", "renewal"),
        stdin="".join(f"{person(name)}\n" for name in names).encode(),
    )
    return [row["link"] for row in csv.DictReader(io.StringIO(stdout))]


def question(link: str, **more: Any) -> bytes:
    return marketing(body=f"Shall we go on?\r\n\r\nYes: {link}\r\n", **more)


def ask_on(relay: RelayProcess, message: bytes, *names: str) -> tuple[int, str]:
    return relay.send(message, *(person(name) for name in names), listener="renewal")


def test_a_yes_lets_mail_continue(relay: RelayProcess, mta: FakeUpstream) -> None:
    assert relay.send(marketing(), person("ada"))[0] == 550, "her period must be over"
    (link,) = links(relay, "ada")
    assert "ada" not in link
    assert ask_on(relay, question(link), "ada")[0] == 250
    assert link.encode() in mta.messages[0].data, "unchanged"
    assert relay.send(marketing(), person("ada"))[0] == 550, "silence is not consent"
    uri = link.replace(PUBLIC, relay.url)
    code, page = ask(uri)
    assert (code, "Yes, Example SA may go on sending me offers" in page) == (200, True)
    assert relay.send(marketing(), person("ada"))[0] == 550, "looking is not consent"
    assert ask(uri, YES)[0] == 200
    assert relay.send(marketing(), person("ada"))[0] == 250
    shown = json.loads(relay.must("contact", "show", person("ada"), "--json"))
    assert shown["consents"][-1]["evidence"]["wording"].startswith("Yes, Example SA may go on")
    assert "already" in ask(uri, YES)[1]
    code, text = ask_on(relay, question(link), "ada")
    assert (code, "permission_not_due" in text) == (550, True), "nothing is left to ask"


def test_it_is_sent_once_even_after_a_kill_and_again_if_not_accepted(
    mta: FakeUpstream, filled: Callable[..., RelayProcess]
) -> None:
    relay = asking(mta, filled)
    message = question(links(relay, "bea")[0])
    mta.behaviours.append(At("end", Reply("451 4.3.2 later")))
    assert ask_on(relay, message, "bea")[0] == 451
    mta.behaviours.clear()
    assert ask_on(relay, message, "bea")[0] == 250, "undelivered mail must not count"
    relay.kill()
    relay.start()
    code, text = ask_on(relay, message, "bea")
    assert (code, "permission_repeated" in text) == (550, True)
    assert len(mta.messages) == 1


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda own, other: "https://confirm.shop.example/", "no link for its reader"),
        (lambda own, other: f"{PUBLIC}/c/AYsxMhYd3nRr0TqfCkG0nmXyqvjWm2LkW1hZ1A", "not made here"),
        (lambda own, other: own[:-2] + ("AA" if own[-2:] != "AA" else "BB"), "not made here"),
        (lambda own, other: other, "for somebody else"),
        (lambda own, other: "x" * 980 + f" {own}", "no link for its reader"),  # MTAs break it
        (lambda own, other: f"{own} {other}", "for somebody else"),
    ],
)
def test_a_link_of_somebody_else_is_refused(
    relay: RelayProcess, mta: FakeUpstream, spoil: Callable[[str, str], str], why: str
) -> None:
    own, other = links(relay, "cat", "dan")
    message = question(spoil(own, other))
    code, text = ask_on(relay, message, "cat")
    assert code == 550
    assert re.match(r"5\.7\.0 refused: confirm_link_missing", text)
    assert not mta.messages
    path = relay.root / "question.eml"
    path.write_bytes(message)
    told = relay.command(
        "explain", str(path), "--mail-from", "news@shop.example", "--rcpt", person("cat"),
        "--stream", "renewal",
    )[1]  # fmt: skip
    assert why in " ".join(told.split())


def test_a_double_opt_in_link_does_not_count(relay: RelayProcess, mta: FakeUpstream) -> None:
    relay.must(
        *("consent", "start", person("cat"), "--purpose", "offers", "--wording", "offers by mail")
    )
    (link,) = re.findall(rf"{re.escape(PUBLIC)}/c/\S+", mta.messages[0].data.decode())
    assert "confirm_link_missing" in ask_on(relay, question(link), "cat")[1]


def test_each_person_needs_their_own_message(relay: RelayProcess, mta: FakeUpstream) -> None:
    own, _ = links(relay, "cat", "dan")
    code, text = ask_on(relay, question(own), "cat", "dan")
    assert (code, "confirm_link_missing" in text) == (550, True)
    assert not mta.messages
    assert ask_on(relay, question(own), "cat")[0] == 250, "and nobody may be counted"


def test_who_may_not_be_asked(relay: RelayProcess, mta: FakeUpstream) -> None:
    for name, reason in (("recent", "permission_not_due"), ("nobody", "no_record")):
        code, text = ask_on(relay, question(links(relay, name)[0]), name)
        assert (code, reason in text) == (550, True), text
    relay.must("suppress", "add", person("eva"), "--scope", "purpose:offers")
    assert "suppressed_manual" in ask_on(relay, question(links(relay, "eva")[0]), "eva")[1]


def test_a_list_says_who_may_be_asked(relay: RelayProcess) -> None:
    people = relay.root / "people.txt"
    people.write_text("".join(f"{person(name)}\n" for name in ("fay", "recent", "nobody")))
    code, stdout, stderr = relay.command(
        "scrub", str(people), "--stream", "renewal", "--json", "--allowed", str(people) + ".ok",
        "--refused", str(people) + ".no",
    )  # fmt: skip
    assert code in (0, 1), stderr
    assert "permission_not_due" in stdout


def test_the_link_command_reports_errors(relay: RelayProcess) -> None:
    code, _, told = relay.command("consent", "link", "-", "--stream", "offers", stdin=b"")
    assert (code, "known: renewal" in told) == (2, True)
    code, stdout, told = relay.command(
        "consent", "link", "-", "--stream", "renewal", stdin=b"@people.example\nada\n"
    )
    assert (code, stdout) == (1, "address,link\n")
    assert "2 lines without an address" in told


def test_the_header_may_choose_the_stream(relay: RelayProcess, mta: FakeUpstream) -> None:
    message = question(links(relay, "fay")[0], stream="renewal")
    assert relay.send(message, person("fay"), listener="both")[0] == 250
    code, text = relay.send(message, person("fay"), listener="both")
    assert (code, "consent_expired" in text) == (550, True), "each stream must refuse"
    code, text = relay.send(question(links(relay, "gus")[0]), person("gus"), listener="both")
    assert (code, "consent_expired" in text) == (550, True), "by default it counts as an offer"


def test_with_added_unsubscribe_fields(relay: RelayProcess, mta: FakeUpstream) -> None:
    (link,) = links(relay, "hal")
    bare = question(link, unsubscribe=None, one_click=None)
    mta.behaviours.append(At("end", Reply("451 4.3.2 later")))
    assert relay.send(bare, person("hal"), listener="copies")[0] == 451
    mta.behaviours.clear()
    assert relay.send(bare, person("hal"), listener="copies")[0] == 250
    assert b"List-Unsubscribe: <https://confirm.shop.example/u/" in mta.messages[0].data
    for name in ("copies", "renewal"):
        code, text = relay.send(question(link), person("hal"), listener=name)
        assert (code, "permission_repeated" in text) == (550, True), "counted over all such streams"


def test_of_two_at_once_only_one_is_sent(relay: RelayProcess, mta: FakeUpstream) -> None:
    message = question(links(relay, "ida")[0])

    def until_told(_: int) -> tuple[int, str]:
        """The final reply: on a busy machine a client may have to retry."""
        for _ in range(100):
            code, text = ask_on(relay, message, "ida")
            if code != 451:
                return code, text
            time.sleep(0.1)
        return code, text

    with ThreadPoolExecutor(6) as at_once:
        answers = list(at_once.map(until_told, range(6)))
    assert len(mta.messages) == 1, answers
    assert sorted(code for code, _ in answers) == [250, 550, 550, 550, 550, 550], answers


def test_decisions_can_be_replayed(relay: RelayProcess) -> None:
    (link,) = links(relay, "jon")
    answers = [ask_on(relay, question(link), "jon"), ask_on(relay, question(link), "jon")]
    answers += [relay.send(marketing(), person(name)) for name in ("jon", "recent")]
    told = json.loads(relay.must("audit", "replay", "--rulebook", "fr", "--json"))
    assert told["decisions"] >= len(answers)
    assert told["changes"] == []
