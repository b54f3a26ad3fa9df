"""What no record of the past can say."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta

from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.protocols import ContactUpdate

_SKEW = timedelta(minutes=5)  # between two clocks

Item = Read[ContactUpdate] | Rejected | Passed


def without_the_future(contents: Contents[ContactUpdate], now: datetime) -> Contents[ContactUpdate]:
    """Put contacts aside whose agreement is yet to come.

    Once its time came, it would outweigh every withdrawal that was made until then. A
    withdrawal or a suppression of the future errs on the strict side and is taken.
    """
    return dataclasses.replace(contents, items=_checked(contents.items, now + _SKEW))


def _checked(items: Iterator[Item], latest: datetime) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Read):
            for act in item.value.contact.acts:
                if act.at > latest and not act.withdrawal:
                    reason = (
                        f"consents: given_at {written_time(act.at)} is in the future: nobody has "
                        "agreed to anything then"
                    )
                    yield Rejected(item.number, reason, (item.content,))
                    break
            else:
                yield item
        else:
            yield item
