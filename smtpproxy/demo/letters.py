"""The messages of the demo: one for each basis, and the commonest ways to be refused."""

from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

SHOP = "Shop <news@shop.example>"
CHARITY = "Wells for All <hello@wells.example>"
HTTPS = "<https://unsubscribe.shop.example/u/4aP1>"
MAILTO = "<mailto:stop@shop.example>"


@dataclass(frozen=True, slots=True)
class Letter:
    """One message to one person. `expected` is the basis or the reason that is due."""

    to: str
    stream: str
    expected: str
    sender: str = SHOP
    subject: str = "New shoes are in"
    unsubscribe: str | None = f"{HTTPS}, {MAILTO}"
    one_click: bool = True

    @property
    def reverse_path(self) -> str:
        return self.sender.partition("<")[2].rstrip(">")

    def message(self, message_id: str, now: datetime) -> bytes:
        """The bytes that an app would send, CRLF line ends."""
        lines = [
            f"From: {self.sender}",
            f"To: {self.to}",
            f"Subject: {self.subject}",
            f"Date: {format_datetime(now)}",
            f"Message-ID: {message_id}",
            f"X-Mail-Stream: {self.stream}",
        ]
        if self.unsubscribe is not None:
            lines.append(f"List-Unsubscribe: {self.unsubscribe}")
        if self.one_click:
            lines.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
        return "\r\n".join([*lines, "", f"{self.subject}.", ""]).encode()


LETTERS = (
    Letter("jeanne@people.example", "offers", "consent"),
    Letter("karim@people.example", "offers", "existing_customer"),
    Letter("ines@people.example", "appeals", "charity", CHARITY, "A new well in Tahoua"),
    Letter("marc@ledger.example", "trade", "professional", subject="Tax changes of the year"),
    Letter("contact@bakery.example", "offers", "generic_address"),
    Letter(
        "paul@people.example",
        "receipts",
        "transactional",
        subject="Your receipt",
        unsubscribe=None,
        one_click=False,
    ),
    Letter("paul@people.example", "offers", "suppressed_unsubscribe"),
    Letter("lea@people.example", "offers", "suppressed_complaint"),
    Letter("nora@people.example", "offers", "consent_withdrawn"),
    Letter("yann@people.example", "offers", "consent_preticked"),
    Letter("odile@people.example", "offers", "consent_expired"),
    Letter("hugo@people.example", "offers", "customer_stale"),
    Letter("anna@people.example", "offers", "source_forbidden"),
    Letter("who@people.example", "offers", "no_record"),
    Letter("jeanne@people.example", "offers", "unsubscribe_missing", unsubscribe=None),
    Letter("jeanne@people.example", "offers", "one_click_missing", unsubscribe=MAILTO),
    Letter("jeanne@people.example", "offers", "sender_not_permitted", "Shop <news@else.example>"),
)
