"""Invented contacts and suppressions, in the formats that the import commands read."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any


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
