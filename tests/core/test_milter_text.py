"""A milter keeps the text of a message only if its stream examines it."""

import pytest

from smtpproxy.core.advice import MilterTransaction
from smtpproxy.core.services import StreamChoice
from smtpproxy.events import Client
from tests.core.driving import Setting
from tests.core.present import Present, streams
from tests.core.world import World

WEAK = "List-Unsubscribe: <https://x.example/>\r\n"


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ("X-Mail-Stream: receipts\r\n" + WEAK, True),
        ("X-Mail-Stream: receipts\r\n", False),
        ("X-Mail-Stream: offers\r\n" + WEAK, False),
        (WEAK, False),  # on the default, offers
        ("X-Mail-Stream: another\r\n" + WEAK, False),
    ],
)
def test_text_is_kept_only_where_its_stream_needs_it(fields: str, reads: bool) -> None:
    setting = Setting("milter")
    given = streams(setting)
    choice = StreamChoice.of(list(given.values()), given["offers"])
    driver = Present(World(), setting)
    driver.loop.close()
    client = Client("apps", "192.0.2.9", "client.example")
    message = MilterTransaction(
        driver.services, client, "a@shop.example", choice, refuses_at_rcpt=True, can_delete=True
    )
    header = f"From: Shop <hello@shop.example>\r\nSubject: Hello\r\n{fields}\r\n"
    assert message.reads_body(header.encode()) == reads
