"""Checking an import of suppressions against the configuration and the clock."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime

from msgspec.structs import replace

from smtpproxy.settings import Settings
from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected
from smtpproxy.store.exchange.plausible import FREE_TEXT, by_now, counted_purposes, named
from smtpproxy.store.exchange.suppression_record import is_motive
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.terminal import counted


class ScopeCheck:
    """Widens suppressions for an unknown purpose or brand to all marketing.

    Leaves out notes in free text, unless `keep_notes`.
    """

    def __init__(
        self,
        settings: Settings,
        now: datetime,
        as_of: datetime,
        *,
        keep_notes: bool = False,
        own: Callable[[str], None] | None = None,
    ) -> None:
        """`as_of`: the time of the file. `own` raises ValueError if a scope is other brands'."""
        self._own = own
        self._known = {"purpose": settings.purposes, "brand": settings.brand_names}
        self._now, self._as_of = now, as_of
        self._postdated = 0
        self._keep_notes = keep_notes
        self._free = 0  # notes in free text
        self._widened = {kind: Counter[str]() for kind in self._known}

    def checked(self, contents: Contents[SuppressionEntry]) -> Contents[SuppressionEntry]:
        return replace(contents, items=map(self._checked, contents.items))

    def notices(self) -> Iterator[str]:
        """Yield notices for the user."""
        if self._postdated:
            yield (
                f"{counted(self._postdated, 'suppression')} dated in the future or before 1990: "
                "it counts from the time of the file"
            )
        if purposes := self._widened["purpose"]:
            yield (
                f"{counted_purposes(purposes, 'suppression')} that no stream has "
                f"({named(purposes)}): each counts for all marketing"
            )
        if brands := self._widened["brand"]:
            yield (
                f"{counted(brands.total(), 'suppression')} for a brand that is not configured "
                f"({named(brands)}): each counts for all marketing"
            )
        if self._free and self._keep_notes:
            yield f"{counted(self._free, 'note')} in free text kept: {FREE_TEXT}"
        elif self._free:
            yield (
                f"{counted(self._free, 'note')} in free text left out, since {FREE_TEXT}; "
                "--keep-notes keeps such notes"
            )

    def _checked(
        self, item: Read[SuppressionEntry] | Rejected | Passed
    ) -> Read[SuppressionEntry] | Rejected | Passed:
        if isinstance(item, Rejected) and item.refusal is not None:
            others = self._others_concerned(item.refusal)
            refusal = None if others else self._known_scope(item.refusal)
            return replace(item, refusal=refusal)
        if not isinstance(item, Read):
            return item
        if others := self._others_concerned(item.value):
            return Rejected(item.number, others, (item.content,))
        if item.value.note is not None and not is_motive(item.value.note):
            self._free += 1
            if not self._keep_notes:
                entry = replace(item.value, note=None)
                item = replace(item, value=entry)
        return replace(item, value=self._known_scope(item.value))

    def _others_concerned(self, entry: SuppressionEntry) -> str | None:
        """Return the fault if the token does not cover the entry's brand, or None."""
        try:
            if self._own is not None:
                self._own(entry.scope)
        except ValueError as error:
            return str(error)
        return None

    def _known_scope(self, entry: SuppressionEntry) -> SuppressionEntry:
        since = by_now(entry.since, self._now, self._as_of)
        if since != entry.since:
            self._postdated += 1
            entry = replace(entry, since=since)
        kind, colon, name = entry.scope.partition(":")
        if not colon or name in self._known[kind]:
            return entry
        self._widened[kind][name] += 1
        return replace(entry, scope="marketing")
