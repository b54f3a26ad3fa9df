"""Everything recorded about a person, as document and as JSON, word for word.

After a change of the texts, run python -m tests.evidence.test_whole_document
"""

import re
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec.json import encode
from msgspec.structs import replace

from smtpproxy.evidence.gather import Evidence, Mailing, evidence_object
from smtpproxy.policy.model import (
    Action,
    Audience,
    Basis,
    Collection,
    Contact,
    Dealing,
    Frequency,
    Origin,
    Preference,
    Purchase,
    Reason,
    Source,
    Suppression,
)
from smtpproxy.policy.model import Evidence as ConsentEvidence
from smtpproxy.settings import BrandSettings
from smtpproxy.sinks.audit.chain import Head, Kind, Report, Witness
from smtpproxy.sinks.audit.reader import Record
from smtpproxy.store.feedback import ReadReport
from smtpproxy.store.journals import IndexRow
from smtpproxy.store.records import LiftedSuppression
from tests.evidence.test_document import ACT, AT, PROOFS, RECTIFIED, evidence, mailing, text_of

DAY = timedelta(days=1)

AGREED = replace(ACT, brand="b1", came_by="partner: X Ltd", channels=frozenset({"email", "sms"}))
ASKED = replace(AGREED, pending=True, conditional=True, method="double_opt_in", came_by=None)
REFUSED = replace(
    AGREED, withdrawal=True, method=None, evidence=ConsentEvidence(), came_by=None, at=AT + DAY
)
CONTACT = Contact(
    "a@b.example",
    Audience.PROFESSIONAL,
    collected_at=AT - DAY,
    last_activity_at=AT,
    tags=frozenset({"vip", "old"}),
    language="fr",
    occupations=frozenset({"law", "finance"}),
    never_informed=True,
    preferences=(
        Preference("offers", Frequency.MONTHLY, AT, "b1"),
        Preference("news", Frequency.WEEKLY, AT),
    ),
    first_contacted_at=AT,
    profiling_objected_at=AT,
    purchases=(Purchase("shoes", AT), Purchase("hats", AT, Dealing.INQUIRY, brand="b1")),
    others=(
        Collection(
            brand="b1", source=Source.DIRECT, collected_at=AT, informed_at=AT, optout_offered=False
        ),
    ),
    acts=(AGREED, ASKED, replace(REFUSED, brand=None), replace(REFUSED, brand="b2")),
)
ORDERS = (
    Suppression("all", Origin.UNSUBSCRIBE, AT, note="by letter"),
    Suppression("marketing", Origin.OBJECTION, AT, widened=True),
    Suppression("purpose:news", Origin.MANUAL, AT, domain="b.example"),
    Suppression("brand:b1", Origin.COMPLAINT, AT, read_as="x%b.example@mx.example"),
)
LIFTED = (
    LiftedSuppression("all", Origin.BOUNCE, AT, None, AT + DAY, "by mistake"),
    LiftedSuppression("all", Origin.BOUNCE, AT, None, AT + DAY, "by mistake", "shop", "crm"),
)
RECORD = Report(
    files=2,
    lines=9,
    compared=3,
    unproven=4,
    witness=Witness(7, AT, kept=True),
    proven={0: 9},
    heads={0: Head(9, "d" * 64)},
)
RECORD.add(Kind.CHANGED, "f-0.ndjson", 3, "row 3 does not match its hash", 3, "01ID")
ELSEWHERE = IndexRow(
    *("id", "g-1.ndjson", 5, 0, "01ID", AT, "offers", "b1", Action.REFUSE),
    *(Reason.NO_RECORD, False, None, "mx2.example"),
)


def everything() -> Evidence:
    proof, refused = PROOFS[Basis.CONSENT][0], mailing(None)
    former = replace(refused.recipient, canonical="old@b.example")
    entry = replace(refused.record.decided, recipients=(former,))
    found = evidence(
        mailing(proof),
        mailing(proof, 451),
        mailing(proof, None),
        Mailing(Record(entry, place=refused.record.place), former, None),
        chain=RECORD,
        contact=CONTACT,
        suppressions=ORDERS,
        brands=(BrandSettings("b1", "B One", "B One SA", "1 rue B, Paris"),),
        rectifications=[RECTIFIED],
        authors={("all", "unsubscribe"): "shop"},
    )
    reports = (ReadReport("01", AT, "dsn", ""), ReadReport("02", AT + DAY, "other", ""))
    found = replace(found, lifted=LIFTED, reports=reports)
    return replace(found, elsewhere=(ELSEWHERE,), elsewhere_since=AT)


def written() -> dict[str, str]:
    found = everything()
    texts = {
        "whole.txt": text_of(found),
        "whole.json": msgspec.json.format(encode(evidence_object(found), order="sorted")).decode(),
    }
    return {name: re.sub(r"\b01KJ\w{22}\b", "01KJ…", text) for name, text in texts.items()}


@pytest.mark.parametrize("name", ["whole.txt", "whole.json"])
def test_the_document_is_unchanged(name: str) -> None:
    assert written()[name] == Path(__file__).with_name(name).read_text()


if __name__ == "__main__":
    for name, text in written().items():
        Path(__file__).with_name(name).write_text(text)
