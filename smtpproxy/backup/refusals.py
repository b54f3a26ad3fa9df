"""What contacts refused after a backup: as acts and marks of theirs, or as suppressions."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    ConsentAct,
    Contact,
    Frequency,
    Origin,
    Preference,
)
from smtpproxy.store.change_journal import Change
from smtpproxy.store.merge import newest_preferences
from smtpproxy.store.protocols import ContactUpdate


def withdrawals(refused: Iterable[Change]) -> Sequence[ConsentAct]:
    """Return the withdrawals among the changes of one contact, each once."""
    acts = [
        ConsentAct(one.purpose, one.since, withdrawal=True, brand=one.brand)
        for one in refused
        if one.action == "withdrawn" and one.since is not None
    ]
    return tuple(dict.fromkeys(acts))


def update(known: Contact, refused: Sequence[Change]) -> ContactUpdate | None:
    """Return what else the changes say of a contact; None: nothing. All of it means less mail,
    but for a wish that the person took back since."""
    tags = frozenset(one.tag for one in refused if one.action == "restricted")
    objected = [one.since for one in refused if one.action == "profiling_objected" and one.since]
    wishes = tuple(_wishes(refused))
    if not (tags or objected or wishes):
        return None
    contact = Contact(
        known.address,
        tags=known.tags | tags,
        profiling_objected_at=min(objected, default=None),
        preferences=wishes,
    )
    given = frozenset({"tags"} if tags else ())
    return ContactUpdate(contact, given, restricted_tags=tags)


def orders(refused: Sequence[Change]) -> Iterator[tuple[str, Origin, datetime]]:
    """Yield scope, origin and time of what stands for all that, where there is no contact."""
    for one in refused:
        if one.since is None:
            continue
        if one.action == "withdrawn":
            yield f"purpose:{one.purpose}", Origin.UNSUBSCRIBE, one.since
        elif one.action == "restricted":
            yield "marketing", Origin.MANUAL, one.since
        elif one.action == "profiling_objected":
            yield "marketing", Origin.OBJECTION, one.since
    for wish in newest_preferences(_wishes(refused)):
        if wish.frequency is not Frequency.ALL:
            yield f"purpose:{wish.purpose}", Origin.UNSUBSCRIBE, wish.at


def _wishes(refused: Iterable[Change]) -> Iterator[Preference]:
    for one in refused:
        if one.action == "wished" and one.since is not None and one.frequency is not None:
            yield Preference(one.purpose, one.frequency, one.since, one.brand or BUILT_IN_BRAND)
