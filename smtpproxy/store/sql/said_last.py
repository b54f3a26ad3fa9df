"""Finding agreements on record that are dated later than now (store/said_last.py)."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from smtpproxy.mail.address import widened
from smtpproxy.policy.model import Origin
from smtpproxy.store.keys import is_key_text, suppressed_name
from smtpproxy.store.protocols import SuppressionEntry
from smtpproxy.store.sql.rows import from_micros, to_micros
from smtpproxy.store.sql.session import Session

_YIELDING = frozenset({Origin.UNSUBSCRIBE, Origin.COMPLAINT, Origin.OBJECTION, Origin.ERASURE})
_AHEAD = """
SELECT address, CAST(max(at) AS BIGINT) FROM contact
JOIN consent_act ON consent_act.contact = contact.id
WHERE address IN (SELECT value FROM json_each(?1)) AND at > ?2 AND withdrawal = 0
GROUP BY address
"""


async def agreed_ahead(
    session: Session, entries: Sequence[SuppressionEntry], now: datetime
) -> Mapping[int, datetime]:
    """Return until when agreements of the person are dated, for entries that these would outweigh.

    Keys are the places of entries. Raises `AddressError`.
    """
    names: dict[str, list[int]] = {}
    for place, one in enumerate(entries):
        if one.origin in _YIELDING and not is_key_text(one.address):
            name = suppressed_name(one.address)
            for each in {name, widened(name)}:
                names.setdefault(each, []).append(place)
    if not names:
        return {}
    asked = msgspec.json.encode(list(names)).decode()
    found: dict[int, datetime] = {}
    for name, micros in await session.fetch_all(_AHEAD, asked, to_micros(now)):
        at = from_micros(micros)
        for place in names[name]:
            if entries[place].since < at:
                found[place] = max(at, found.get(place, at))
    return found
