"""Reports without our token need a DKIM signature that may speak for the person."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dkim
import pytest

from smtpproxy.feedback import read_report
from smtpproxy.feedback.proof import vouched
from smtpproxy.feedback.records import Action, Clues, Sent, TokenReader
from smtpproxy.mailbox.authentication import Authentication
from smtpproxy.relay.dkimpy import Dkimpy
from smtpproxy.resolver import Answer
from tests.feedback.samples import bounce, complaint, failed, plain
from tests.kit.dkim import KeyFile, signed

JEANNE = "jeanne@people.example"
ARF = "Feedback-Type: abuse\nOriginal-Rcpt-To: jeanne@people.example"


def crlf(mail: bytes) -> bytes:
    return mail.replace(b"\n", b"\r\n")


async def verdict(
    content: bytes,
    *keys: KeyFile,
    dkimpy: Dkimpy | None = None,
    tokens: TokenReader | None = None,
) -> tuple[Action, str | None]:
    """The outcome of a report's single event."""
    records = {key.name: str(key.record).encode() for key in keys}

    async def texts(name: str) -> Answer:
        return Answer(texts=(records[name],)) if name in records else Answer(exists=False)

    with ThreadPoolExecutor(1) as threads:
        authentication = Authentication(texts, threads, time.time, dkimpy)
        report = await authentication.checked(content, read_report(content, tokens=tokens))
        await authentication.close()
    (event,) = report.events
    return event.action, event.scope


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    """The key of the mailbox's own provider."""
    return KeyFile(tmp_path_factory.mktemp("keys"), domain="people.example")


@pytest.fixture(scope="module")
def anybody(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys"), domain="elsewhere.example")


def by(mail: bytes, key: KeyFile) -> bytes:
    return signed(crlf(mail), key, ["From", "Subject"])


async def test_a_provider_speaks_for_its_own_mailboxes(people: KeyFile) -> None:
    report = by(complaint(ARF, sender="feedback@fbl.people.example"), people)
    assert await verdict(report, people) == (Action.SUPPRESS, "marketing")
    dead = by(bounce(fields=failed("5.1.1"), sender="MAILER-DAEMON@people.example"), people)
    assert await verdict(dead, people) == (Action.SUPPRESS, "all")


async def test_a_maildir_may_use_other_line_ends(people: KeyFile) -> None:
    report = by(complaint(ARF, sender="feedback@people.example"), people)
    assert (await verdict(report.replace(b"\r\n", b"\n"), people))[0] is Action.SUPPRESS


async def test_a_known_service_speaks_for_others(tmp_path: Path) -> None:
    service = KeyFile(tmp_path, domain="senderscore.net")
    report = by(complaint(ARF, sender="feedbackloop@x.senderscore.net"), service)
    assert (await verdict(report, service))[0] is Action.SUPPRESS


@pytest.mark.parametrize(
    ("writer", "expected"),
    [
        ("feedback@arf.mail.yahoo.com", Action.SUPPRESS),
        ("staff@hotmail.com", Action.SUPPRESS),
        ("complaints@x.amazonses.com", Action.SUPPRESS),
        ("staffan@outlook.com", Action.COUNT),
        ("feedback7@yahoo.com", Action.COUNT),
        ("feedback@yahoo.com", Action.COUNT),
        ("arfa@people.example", Action.COUNT),
    ],
)
def test_nobody_speaks_for_others_by_choosing_a_name(writer: str, expected: Action) -> None:
    report = read_report(complaint(ARF, sender=writer))
    (event,) = vouched(report, writer, [writer.rpartition("@")[2]]).events
    assert event.action is expected


async def test_an_unsigned_report_only_counts(people: KeyFile) -> None:
    report = crlf(complaint(ARF, sender="feedback@people.example"))
    assert await verdict(report, people) == (Action.COUNT, None)
    nobodys = report.replace(b"From: ", b"X-From: ", 1)
    assert await verdict(nobodys, people) == (Action.COUNT, None)


def test_only_a_report_that_would_suppress_needs_a_signature() -> None:
    both = failed("5.1.1") + "\n" + failed("5.2.2", "mailbox full", recipient="b@x.example")
    dead, full = vouched(read_report(bounce(fields=both)), None, ()).events
    assert "no valid signature of a domain that speaks for jeanne@people.example" in dead.why
    assert full.why == "mailbox full"


class Token:
    """Finds a token of ours everywhere."""

    def __call__(self, clues: Clues) -> Sent:
        return Sent(JEANNE, "offers", "shop")


async def test_a_token_needs_no_signature() -> None:
    report = crlf(complaint(ARF, sender="feedback@people.example"))
    assert await verdict(report, tokens=Token()) == (Action.SUPPRESS, "brand:shop")


async def test_no_key_is_looked_up_for_a_report_that_suppresses_nobody(people: KeyFile) -> None:
    full = by(bounce(fields=failed("5.2.2"), sender="MAILER-DAEMON@people.example"), people)
    with ThreadPoolExecutor(1) as threads:
        authentication = Authentication(pytest.fail, threads, time.time)
        report = read_report(full)
        assert await authentication.checked(full, report) == report
        await authentication.close()


async def test_a_changed_report_only_counts(people: KeyFile) -> None:
    report = by(complaint(ARF, sender="feedback@people.example"), people)
    assert await verdict(report.replace(b"jeanne@", b"victim@"), people) == (Action.COUNT, None)


class Recorded(Dkimpy):
    """A stand-in for dkimpy with a fixed answer that records its questions."""

    def __init__(self, answer: bool) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[tuple[int, str]] = []
        self.closed = False

    async def is_valid(self, message: bytes, index: int, domain: str, record: bytes) -> bool:
        self.asked.append((index, domain))
        return self.answer

    async def close(self) -> None:
        self.closed = True


async def test_a_report_dkimpy_does_not_confirm_only_counts(people: KeyFile) -> None:
    report = by(complaint(ARF, sender="feedback@people.example"), people)
    assert await verdict(report, people, dkimpy=(no := Recorded(False))) == (Action.COUNT, None)
    assert no.asked == [(0, "people.example")]
    assert no.closed
    assert (await verdict(report, people, dkimpy=Recorded(True)))[0] is Action.SUPPRESS


async def test_dkimpy_is_not_asked_if_nobody_would_be_suppressed(
    people: KeyFile, anybody: KeyFile
) -> None:
    for report in (
        crlf(complaint(ARF, sender="feedback@people.example")),
        by(complaint(ARF, sender="feedback@elsewhere.example"), anybody),
        by(complaint(ARF, sender="mallory@people.example"), people),
        by(complaint(ARF, sender="feedback@people.example"), people) + b"changed",
    ):
        await verdict(report, people, anybody, dkimpy=(spared := Recorded(True)))
        assert spared.asked == []


async def test_dkimpy_is_asked_about_the_writers_own_signature(
    people: KeyFile, anybody: KeyFile
) -> None:
    once = by(complaint(ARF, sender="feedback@people.example"), people)
    twice = signed(once, anybody, ["From", "Subject"])
    assert (await verdict(twice, people, anybody))[0] is Action.SUPPRESS


async def test_a_provider_does_not_speak_for_people_elsewhere(anybody: KeyFile) -> None:
    report = by(complaint(ARF, sender="feedback@elsewhere.example"), anybody)
    assert await verdict(report, anybody) == (Action.COUNT, None)


async def test_a_customer_of_the_provider_does_not_speak_for_others(people: KeyFile) -> None:
    report = by(complaint(ARF, sender="mallory@people.example"), people)
    assert await verdict(report, people) == (Action.COUNT, None)


async def test_whoever_unsubscribes_speaks_for_themselves(people: KeyFile) -> None:
    mail = by(plain("", subject="unsubscribe", sender=JEANNE, more=""), people)
    assert await verdict(mail, people) == (Action.SUPPRESS, "marketing")
    forged = crlf(plain("", subject="unsubscribe", sender=JEANNE, more=""))
    assert await verdict(forged, people) == (Action.COUNT, None)


async def test_a_signature_over_part_of_the_body_proves_nothing(people: KeyFile) -> None:
    mail = crlf(complaint(ARF, sender="feedback@people.example"))
    names = (people.selector.encode(), people.domain.encode(), people.pem)
    limited = dkim.sign(mail, *names, include_headers=[b"From"], length=True) + mail
    for dkimpy in (None, Recorded(True)):
        assert await verdict(limited, people, dkimpy=dkimpy) == (Action.COUNT, None)


@pytest.mark.parametrize(
    "before",
    [
        f"From: {JEANNE}\r\nSubject: unsubscribe\r\nX-Odd: a\r\r",  # two bare CRs: an empty line
        f"From: {JEANNE}\r\nSubject: unsubscribe\r\nX-Odd: a\r \r\r",
        f"From: {JEANNE}\r\nSubject: unsubscribe\r\nX-Long: {'a' * 65_536}\r\n",
        f"From: {JEANNE}\r\nSubject: unsubscribe\r\n\r\n",
        f"From: {JEANNE}\nSubject: unsubscribe\n\r",
        "no field\r\n",
    ],
    ids=["bare-cr", "folded", "long", "empty-line", "mixed", "no-field"],
)
async def test_a_signature_proves_nothing_about_a_from_put_above_it(
    people: KeyFile, before: str
) -> None:
    mail = by(plain("", subject="unsubscribe", sender="mallory@people.example", more=""), people)
    for dkimpy in (None, Recorded(True)):
        assert await verdict(before.encode() + mail, people, dkimpy=dkimpy) == (Action.COUNT, None)
