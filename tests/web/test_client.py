"""smtpproxy.client has a method for each operation, and retries have a single effect."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smtpproxy import client
from smtpproxy.client import (
    ApiProblem,
    CheckRequest,
    Client,
    ConsentToRecord,
    ContactRecord,
    DecisionSearch,
    Lift,
    NewSuppression,
    Withdrawal,
)
from smtpproxy.policy.model import Origin
from smtpproxy.web.api.contacts import Erasing
from smtpproxy.web.api.streams import PauseRequest, ResumeRequest
from tests.kit.store import TrialStore
from tests.kit.traffic import settings
from tests.web.serving import api_over, serving
from tests.web.test_api_writes import ANNA, Writes, two_brands


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Writes]:
    async with serving(Writes, two_brands(tmp_path)) as served:
        yield served


async def test_each_operation_has_a_method() -> None:
    async with TrialStore() as store:
        operations = [each for each, _ in api_over(store, settings()).operations]
    names = {each.name for each in operations} | {"start_consent", "permission_links"}
    assert not [name for name in names if not hasattr(Client, name)]


async def test_the_client_covers_everyday_use(site: Writes) -> None:
    await asyncio.to_thread(_day, f"http://127.0.0.1:{site.port}")


def _day(url: str) -> None:
    with Client(url, "all") as api:
        assert api.get_contact(ANNA) is None
        made = api.upsert_contact(ContactRecord(ANNA, brand="shop", language="fr"), version="")
        known = api.get_contact(ANNA)
        assert known is not None
        assert (known.contact.language, known.version) == ("fr", made.version)
        with pytest.raises(ApiProblem) as refused:
            api.upsert_contact(ContactRecord(ANNA, language="de"), version="other")
        assert refused.value.problem.error == "changed_meanwhile"
        agreed = ConsentToRecord(
            ANNA, "offers", "unticked_box", brand="shop", wording="Yes", source="direct"  # type: ignore[arg-type]
        )  # fmt: skip
        assert api.record_consent(agreed).warnings == ()
        assert api.check("offers", [ANNA]).verdicts[0].verdict == "allow"
        assert api.withdraw_consent(Withdrawal(ANNA, "offers")).recorded
        assert api.check("offers", [ANNA]).verdicts[0].reason == "consent_withdrawn"
        added = api.suppress(NewSuppression(ANNA, "marketing", Origin.MANUAL))
        assert added.results[0].result == "added"
        assert api.check_suppressions(CheckRequest([ANNA])).results[0].suppressed
        assert len(list(api.list_suppressions())) == 1
        assert len(api.changes(0).changes) == 1
        lift = Lift(ANNA, "added by mistake", Origin.MANUAL)
        assert len(api.lift_suppressions(lift).lifted) == 1
        assert api.show_suppressions(ANNA).suppressions == ()
        assert api.pause_stream(PauseRequest("offers")).paused
        states = {one.stream: one.state for one in api.list_streams().streams}
        assert states["offers"] == "paused"
        assert api.resume_stream(ResumeRequest("offers")).resumed
        assert list(api.find_decisions(DecisionSearch(recipient=ANNA))) == []
        assert api.list_imports().imports == ()
        assert api.erase_contact(Erasing(ANNA)).erased


async def test_a_request_without_an_answer_is_retried_and_done_once() -> None:
    """The server hangs up on the first request; the second has the same key."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(next(line for line in head.split(b"\r\n") if b"Idempotency" in line))
        if len(heard) > 1:
            body = b'{"recorded":true,"warnings":[]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]

        def ask() -> bool:
            with Client(f"http://127.0.0.1:{port}", "x") as api:
                return api.withdraw_consent(Withdrawal(ANNA, "offers")).recorded

        assert await asyncio.to_thread(ask)
    assert len(heard) == 2
    assert heard[0] == heard[1]


class Scripted:
    """Gives one answer per connection and hangs up; None is no answer."""

    def __init__(self, *answers: tuple[int, str, bytes] | None) -> None:
        self.answers = list(answers)
        self.keys: list[str] = []
        self.waited: list[float] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.keys += [line for line in head.split("\r\n") if line.startswith("Idempotency-Key")]
        if (answer := self.answers.pop(0)) is not None:
            status, more, body = answer
            line = f"HTTP/1.1 {status} X\r\n{more}Content-Length: {len(body)}\r\n\r\n"
            writer.write(line.encode() + body)
        writer.close()

    async def ask(self, retries: int = 2) -> object:
        def withdraw(port: int) -> object:
            url = f"http://127.0.0.1:{port}"
            with Client(url, "x", retries=retries, sleep=self.waited.append) as api:
                try:
                    return api.withdraw_consent(Withdrawal(ANNA, "offers")).recorded
                except client.ApiError as error:
                    return error

        async with await asyncio.start_server(self, "127.0.0.1", 0) as server:
            return await asyncio.to_thread(withdraw, server.sockets[0].getsockname()[1])


DONE = (200, "", b'{"recorded":true,"warnings":[]}')
BUSY = (503, "Retry-After: 5\r\n", b"<html>")


async def test_retries_use_the_same_key() -> None:
    script = Scripted(BUSY, None, (502, "", b"<html>"), DONE)
    assert await script.ask(retries=3) is True
    assert script.waited == [5, 1, 1]
    assert len(script.keys) == 4
    assert len(set(script.keys)) == 1


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([BUSY] * 3, client.TryLater),
        ([(429, "Retry-After: 3600\r\n", b"")], client.TryLater),
        ([None] * 3, client.NoAnswer),
        ([(504, "", b"<html>")] * 3, client.NoAnswer),
        ([(401, "", b"{}")], client.NotPermitted),
        ([(404, "", b"")], client.NotFound),
        ([(412, "", b"")], client.ChangedMeanwhile),
        ([(500, "", b"oops")], ApiProblem),
    ],
)
async def test_each_failure_has_its_exception(
    answers: list[tuple[int, str, bytes] | None], kind: type[client.ApiError]
) -> None:
    script = Scripted(*answers)
    assert type(await script.ask()) is kind
    assert script.answers == [], "retried as often as makes sense"


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":"Not Found"}'])
async def test_a_404_by_a_proxy_does_not_mean_that_there_is_no_contact(
    body: bytes,
) -> None:
    def get(port: int) -> None:
        with (
            Client(f"http://127.0.0.1:{port}", "x") as api,
            pytest.raises(client.NotFound, match="a proxy in between"),
        ):
            api.get_contact(ANNA)

    async with await asyncio.start_server(Scripted((404, "", body)), "127.0.0.1", 0) as server:
        await asyncio.to_thread(get, server.sockets[0].getsockname()[1])


def test_a_malformed_url_is_reported() -> None:
    with pytest.raises(ValueError, match="not an http or https URL"):
        Client("consent.example.com", "x")
    assert set(client.__all__) >= {"Client", "ApiProblem"}
