"""The demo's letters, and the invented people they are sent to."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from msgspec import Struct

SHOP = "Shop <news@shop.example>"
CHARITY = "Wells for All <hello@wells.example>"
HTTPS = "<https://unsubscribe.shop.example/u/4aP1>"
MAILTO = "<mailto:stop@shop.example>"


class Letter(Struct, frozen=True):
    """One message to one person. `expected` is the expected basis or reason."""

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
        """Return the octets that an application would send, with CRLF line ends."""
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


def contacts(now: datetime) -> str:
    """NDJSON for `smtpproxy contact import`: one person for each basis and common refusal."""
    lately = _time(now - timedelta(days=60))
    long_ago = _time(now - timedelta(days=4 * 366))
    people = [
        _contact("jeanne@people.example", lately, consents=[_consent(lately)]),
        _contact("karim@people.example", lately, purchases=[_bought("shoes", lately)]),
        _contact("ines@people.example", lately, last_activity_at=lately),
        _contact(
            "marc@ledger.example", lately, audience="professional", occupations=["accounting"]
        ),
        _contact("paul@people.example", lately, consents=[_consent(lately)]),
        _contact("lea@people.example", lately, consents=[_consent(lately)]),
        _contact(
            "nora@people.example",
            lately,
            consents=[_consent(lately, withdrawn_at=_time(now - timedelta(days=2)))],
        ),
        _contact(
            "yann@people.example", lately, consents=[_consent(lately, method="preticked_box")]
        ),
        _contact("odile@people.example", long_ago, consents=[_consent(long_ago)]),
        _contact("hugo@people.example", lately, purchases=[_bought("shoes", long_ago)]),
        _contact("anna@people.example", lately, source="web"),
    ]
    return "".join(json.dumps(person) + "\n" for person in people)


def suppressions(now: datetime) -> str:
    """CSV for `smtpproxy suppress import`."""
    since = _time(now - timedelta(days=7))
    return (
        "address,scope,origin,since,note\n"
        f"paul@people.example,marketing,unsubscribe,{since},one-click\n"
        f"lea@people.example,all,complaint,{since},reported as spam\n"
    )


def _contact(address: str, collected_at: str, **more: Any) -> dict[str, Any]:
    return {
        "address": address,
        "audience": "consumer",
        "source": "direct",
        "collected_at": collected_at,
        "informed_at": collected_at,
        "optout_offered": True,
        **more,
    }


def _consent(given_at: str, **more: Any) -> dict[str, Any]:
    return {
        "purpose": "offers",
        "method": "unticked_box",
        "given_at": given_at,
        "withdrawn_at": None,
        "conditional": False,
        "channels": ["email"],
        "evidence": {"wording": "Send me offers (form v3)", "ip": "192.0.2.7"},
        **more,
    }


def _bought(product: str, at: str) -> dict[str, str]:
    return {"product": product, "at": at}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
