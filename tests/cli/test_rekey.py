"""`smtpproxy suppress rekey` while the relay runs."""

from datetime import UTC, datetime
from pathlib import Path

from smtpproxy.policy.model import Contact
from smtpproxy.store.sql.store import Store
from tests.cli.conftest import Bench
from tests.kit.messages import marketing

KNOWN, LOST = "known@people.example", "lost@people.example"


async def _fill(store: Store) -> None:
    await store.put_contacts([Contact(KNOWN, collected_at=datetime.now(UTC))])


def test_a_key_is_replaced_in_steps(bench: Bench, tmp_path: Path) -> None:
    bench.store(_fill)
    for address in (KNOWN, LOST):
        bench.run("suppress", "add", address, code=0)
    before = bench.json("suppress", "rekey", "--status", code=0)["keys"]
    assert [key["version"] for key in before] == [1]
    assert before[0]["since"] is None

    out, _ = bench.run("suppress", "rekey", code=0)
    assert "1 row moved to key 2" in out
    assert "remain under an old key" in out
    assert "--from FILE" in out
    assert bench.run("suppress", "rekey", "--status")[0] in out

    out, _ = bench.run("suppress", "rekey", "--finish", code=1)
    assert "remain under an old key" in out
    keys = bench.json("suppress", "rekey", "--status")["keys"]
    assert [key["version"] for key in keys] == [1, 2]

    bench.run("suppress", "show", LOST, code=0)  # its address has just become known
    after = bench.json("suppress", "rekey", "--status")["keys"]
    assert after[0]["suppressions"] == keys[0]["suppressions"] - 1

    people = tmp_path / "people"
    everybody = [f"{name}@people.example" for name in ("gone", "complained")]
    people.write_text("\n".join([LOST, "no address", *everybody, ""]))
    _, err = bench.run("suppress", "rekey", "--from", str(people), code=1)
    assert "line 2" in err
    for address in (KNOWN, LOST):
        assert bench.json("suppress", "show", address, code=0)["suppressions"]
    # The relay has been running all the time, without a reload.
    assert bench.relay.send(marketing(), LOST)[0] == 550


def test_status_takes_no_other_options(bench: Bench) -> None:
    _, err = bench.run("suppress", "rekey", "--status", "--finish", code=2)
    assert "--status takes no other options" in err
