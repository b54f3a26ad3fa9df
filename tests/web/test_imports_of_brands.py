"""Imports by a token for some brands: the lines accepted and what the token learns."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest

from smtpproxy.client import ApiProblem, Client, ImportQuery
from smtpproxy.config import load
from smtpproxy.policy.model import Origin
from smtpproxy.process.import_jobs import command_of, outcome
from smtpproxy.settings.mail import Right
from smtpproxy.store.import_jobs import ImportJobs
from smtpproxy.web.api.imports import ImportShown
from tests.cli.stored import Stored
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml
from tests.web.serving import served_aside

HEADER = "address,source,consent_purpose,consent_given_at,consent_method,consent_wording"
SAID = "direct,news,2026-03-01T10:00:00Z,unticked_box,Yes"


def token(name: str, *brands: str) -> dict[str, Any]:
    digest = sha256(name.encode()).hexdigest()
    return {"name": name, "sha256": digest, "may": list(get_args(Right)), "brands": list(brands),
            "requests_per_minute": 100_000}  # fmt: skip


class Desk(Stored):
    """The API over a store, and the worker of its jobs, all in this process."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(folder)
        self.config = relay_config(folder, "127.0.0.1:25", config)
        self.write()
        self.url = ""

    def write(self) -> None:
        self.config_path.write_text(to_toml(self.config))

    def send(self, who: str, text: str, asked: ImportQuery, name: str = "people.csv") -> str:
        with Client(self.url, who) as api:
            return api.start_import(Path(self.file(name, text)), asked).id

    def work(self) -> None:
        """Do all waiting jobs."""
        jobs = ImportJobs(self.folder / "state")
        for id, by in jobs.undos():
            self.run("import", "undo", id, f"--job={id} {by}")
            jobs.undone(id)
        for job in jobs.waiting():
            folder = jobs.begin(job.id)
            done = self.run(*command_of(job, folder), code=None)
            (folder / "result").write_text(done.stdout)
            (folder / "errors").write_text(done.stderr)
            jobs.finish(job.id, outcome(folder, cancelled=False))

    def imported(
        self, who: str, text: str, asked: ImportQuery, name: str = "people.csv"
    ) -> ImportShown:
        id = self.send(who, text, asked, name)
        self.work()
        with Client(self.url, who) as api:
            return api.get_import(id)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    about = {"legal_name": "X", "address": "Rue 1"}
    marketing = {"class": "marketing", "purpose": "news"}
    config = {
        "brand": [{"name": name, **about} for name in ("shop", "mill", "barn")],
        "stream": [
            {"name": f"{name}-news", **marketing, "brand": name} for name in ("shop", "mill")
        ],
        "token": [
            token("all"), token("shop", "shop"), token("mill", "mill"),
            token("two", "shop", "mill"), token("barn", "barn"),
        ],
    }  # fmt: skip
    desk = Desk(tmp_path_factory.mktemp("desk"), config)
    with served_aside(load(desk.config_path)) as desk.url:
        yield desk


def result_of(shown: ImportShown) -> dict[str, Any]:
    assert isinstance(shown.result, dict), shown
    return shown.result


def rejected(desk: Desk, who: str, id: str) -> list[str]:
    with Client(desk.url, who) as api:
        return [one.reason for one in api.rejected_lines(id)]


def agreed_with(desk: Desk, address: str) -> set[str]:
    contact = desk.json("contact", "show", address)
    return {act.get("brand", contact["brand"]) for act in contact["consents"]}


def test_a_brand_imports_its_people_and_learns_nothing_about_others(desk: Desk) -> None:
    theirs = desk.imported("mill", f"{HEADER}\nbert@p.example,{SAID}\n", ImportQuery("contacts"))
    assert (theirs.state, theirs.taken) == ("complete", 1)
    text = f"{HEADER}\nbert@p.example,{SAID}\nnew@p.example,{SAID}\n"
    for dry_run in ("true", "false"):
        shown = desk.imported("shop", text, ImportQuery("contacts", dry_run=dry_run))  # type: ignore[arg-type]
        assert (shown.state, shown.lines, shown.rejected) == ("complete", 2, 0)
        told = json.dumps(result_of(shown))
        assert "mill" not in told
        assert not {"added", "changed", "new", "ignored", "samples"} & result_of(shown).keys()
        (stream,) = result_of(shown)["outlook"]["streams"]
        assert (stream["stream"], stream["allowed"]) == ("shop-news", 2)
        assert "added" not in repr(shown) or "added=UNSET" in repr(shown)
    assert shown.taken == 2
    assert agreed_with(desk, "bert@p.example") == {"mill", "shop"}
    with Client(desk.url, "shop") as shop, Client(desk.url, "mill") as mill:
        assert [one.id for one in mill.list_imports().imports] == [theirs.id]
        assert theirs.id not in [one.id for one in shop.list_imports().imports]
        for ask in (shop.get_import, shop.undo_import, shop.cancel_import):
            with pytest.raises(ApiProblem, match="not_found"):
                ask(theirs.id)
        with pytest.raises(ApiProblem, match="not_found"):
            list(shop.rejected_lines(theirs.id))
        assert shop.undo_import(shown.id).state == "undoing"
        desk.work()
        assert shop.get_import(shown.id).state == "undone"
    assert agreed_with(desk, "bert@p.example") == {"mill"}
    with Client(desk.url, "two") as two, Client(desk.url, "all") as all_:
        assert {one.id for one in two.list_imports().imports} >= {theirs.id, shown.id}
        assert all_.get_import(theirs.id).added == 1


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("a@p.example,direct,mill,,", "brand 'mill'"),
        ("a@p.example,direct,nowhere,,", "brand 'nowhere'"),
        ("a@p.example,direct,shop,fr,", "language"),
        ("a@p.example,direct,shop,,vip", "tags"),
    ],
)
def test_a_line_about_another_brand_is_rejected_by_name(desk: Desk, line: str, named: str) -> None:
    text = f"address,source,brand,language,tags\n{line}\nb@p.example,direct,shop,,\n"
    shown = desk.imported("two" if named == "tags" else "shop", text, ImportQuery("contacts"))
    assert (shown.state, shown.taken, shown.rejected) == ("complete", 1, 1)
    (reason,) = rejected(desk, "all", shown.id)
    assert named in reason
    assert "barn" not in reason


def test_constants_and_withdrawals_stay_within_the_tokens_brands(desk: Desk) -> None:
    text = f"{HEADER}\nc@p.example,{SAID}\n"
    with Client(desk.url, "shop") as api, pytest.raises(ApiProblem, match="parameter_wrong") as no:
        api.start_import(
            Path(desk.file("p.csv", text)), ImportQuery("contacts", set=("brand=mill",))
        )
    assert "'mill'" in str(no.value)
    assert "barn" not in str(no.value)
    line = '{"address": "c@p.example", "brand": "shop", "source": "direct", "consents":'
    taken_back = '[{"purpose": "news", "withdrawn_at": "2026-01-01T00:00:00Z", "brand": "mill"}]}'
    shown = desk.imported("shop", f"{line} {taken_back}\n", ImportQuery("contacts"), "p.ndjson")
    assert (shown.taken, shown.rejected) == (0, 1)
    assert "'mill'" in rejected(desk, "shop", shown.id)[0]
    with Client(desk.url, "shop") as api:
        for brand in ("mill", "nowhere"):
            with pytest.raises(ApiProblem, match="not_of_your_brand"):
                api.start_import(desk.folder / "p.ndjson", ImportQuery("contacts", brand=brand))
    two = desk.imported("two", text, ImportQuery("contacts"))
    assert (two.taken, two.rejected) == (0, 1), "the brand must be named"
    assert desk.imported("two", text, ImportQuery("contacts", brand="shop")).taken == 1


def test_suppressions_by_a_brand_affect_no_other(desk: Desk) -> None:
    scopes = ("brand:shop", "brand:mill", "marketing", "all", "purpose:news", "brand:gone")
    lines = "".join(f"d@p.example,{scope},unsubscribe\n" for scope in scopes)
    asked = ImportQuery("suppressions")
    shown = desk.imported("shop", f"address,scope,origin\n{lines}", asked)
    assert (shown.taken, shown.rejected) == (1, 5)
    told = desk.json("suppress", "show", "d@p.example")
    assert [one["scope"] for one in told["suppressions"]] == ["brand:shop"]
    (stream,) = result_of(shown)["outlook"]["streams"]
    assert stream["by_reason"] == {"suppressed_unsubscribe": 1}
    asked = ImportQuery("suppressions", scope="brand:shop", origin=Origin.OBJECTION)
    assert desk.imported("shop", "address\ne@p.example\n", asked).taken == 1


def test_an_undo_lifts_nothing_that_now_affects_others(desk: Desk) -> None:
    streams = desk.config["stream"]
    both = [
        {"name": f"{name}-extra", "class": "marketing", "purpose": "extra", "brand": name}
        for name in ("shop", "mill")
    ]
    try:
        desk.config["stream"] = [*streams, both[0]]
        desk.write()
        lines = "q@p.example,purpose:extra,unsubscribe\nq@p.example,brand:shop,unsubscribe\n"
        shown = desk.imported("shop", f"address,scope,origin\n{lines}", ImportQuery("suppressions"))
        assert shown.taken == 2
        desk.config["stream"] = [*streams, *both]
        desk.write()
        with Client(desk.url, "shop") as api:
            api.undo_import(shown.id)
        desk.work()
    finally:
        desk.config["stream"] = streams
        desk.write()
    told = desk.json("suppress", "show", "q@p.example")
    assert [one["scope"] for one in told["suppressions"]] == ["purpose:extra"]


def test_a_rejected_suppression_affects_no_other_brand(desk: Desk) -> None:
    scopes = ("brand:shop", "brand:mill", "marketing", "all", "purpose:news", "brand:gone")
    lines = "".join(f"j@p.example,{scope},unsubscribe,soon\n" for scope in scopes)
    objects = "".join(
        f'{{"address": "k@p.example", "scope": "{scope}", "origin": "manual", "since": "soon"}}\n'
        for scope in scopes
    )
    for name, text in (("p.csv", f"address,scope,origin,since\n{lines}"), ("p.ndjson", objects)):
        shown = desk.imported("shop", text, ImportQuery("suppressions"), name)
        assert (shown.rejected, result_of(shown)["refusals"]) == (6, 1)
    for address in ("j@p.example", "k@p.example"):
        told = desk.json("suppress", "show", address)
        assert [one["scope"] for one in told["suppressions"]] == ["brand:shop"]


def test_the_outlook_of_suppressions_hides_people_known_to_others(desk: Desk) -> None:
    desk.imported("mill", f"{HEADER}\nf@p.example,{SAID}\n", ImportQuery("contacts"))
    lines = "f@p.example,brand:shop,bounce,\ng@p.example,brand:shop,bounce,\n"
    text = f"address,scope,origin,since\n{lines}"
    for who, asked in (("shop", ImportQuery("suppressions")),
                       ("barn", ImportQuery("suppressions"))):  # fmt: skip
        shown = desk.imported(who, text.replace("shop", who), asked)
        streams = result_of(shown)["outlook"]["streams"]
        assert [one["by_reason"] for one in streams] in ([], [{"suppressed_bounce": 2}])


def test_nobody_learns_that_another_brand_sent_the_same_file(desk: Desk) -> None:
    text = f"{HEADER}\nh@p.example,{SAID}\n"
    theirs = desk.imported("mill", text, ImportQuery("contacts"))
    shown = desk.imported("shop", text, ImportQuery("contacts"))
    assert (shown.state, shown.taken) == ("complete", 1), shown
    with Client(desk.url, "shop") as api, pytest.raises(ApiProblem, match="replace: no import"):
        api.start_import(desk.folder / "people.csv", ImportQuery("contacts", replace=theirs.id))


def test_a_token_revoked_meanwhile_imports_nothing(desk: Desk) -> None:
    text, asked = f"{HEADER}\ni@p.example,{SAID}\n", ImportQuery("contacts")
    gone, unable, other = (desk.send(who, text, asked) for who in ("barn", "mill", "shop"))
    tokens = desk.config["token"]
    left = [one for one in tokens if one["name"] != "barn"]
    desk.config["token"] = [
        one | {"may": ["imports"]} if one["name"] == "mill" else one for one in left
    ]
    desk.write()
    desk.work()
    desk.config["token"] = tokens
    desk.write()
    with Client(desk.url, "all") as api:
        for id, who in ((gone, "barn"), (unable, "mill")):
            done = api.get_import(id)
            assert done.state == "failed"
            assert f"{who} may no longer import" in str(done.error)
        assert api.get_import(other).state == "complete"
