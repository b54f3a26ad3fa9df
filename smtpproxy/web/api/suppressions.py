"""API operations that add, list, show and lift suppressions, as `smtpproxy suppress` does."""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from smtpproxy.access import Access
from smtpproxy.mail.mailboxes import entered_name, recorded
from smtpproxy.policy.model import Origin
from smtpproxy.store.exchange.plausible import FREE_TEXT, by_now
from smtpproxy.store.exchange.suppression_record import (
    LIFT_MOTIVES,
    OWN_MOTIVES,
    Defaults,
    is_motive,
    read_scope,
)
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.records import Place, SuppressionEntry
from smtpproxy.web.api.operation import (
    Call,
    Operations,
    Scope,
    Time,
    When,
    about,
    operation,
    read_place,
    refusing,
    written_place,
)
from smtpproxy.web.api.problems import Refused
from smtpproxy.web.api.propagation import AddressSuppression, bearing_suppression

MOST_ENTRIES = 1_000
MOST_LISTED = 1_000

Note = Annotated[str, Meta(min_length=1, max_length=1_000)]
Name = Annotated[
    str,
    Meta(
        max_length=1_000,
        description="An address, @example.com (everybody there), *.example.com (also at its"
        " subdomains), or a key text from an export.",
    ),
]


class NewSuppression(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom not to mail, and by whose order."""

    address: Name
    scope: Annotated[Scope | None, about("Default: all; for an erasure, marketing.")] = None
    origin: Origin = Origin.MANUAL
    since: Annotated[When | None, about("Default: now.")] = None
    note: Annotated[Note | None, about("The motive, from a closed list.")] = None


class NewSuppressions(Struct, frozen=True, forbid_unknown_fields=True):
    """Suppressions to add, all or none."""

    suppressions: Annotated[
        list[NewSuppression], Meta(extra_json_schema={"maxItems": MOST_ENTRIES})
    ]
    keep_notes: Annotated[
        bool, about("Keep free-text notes for a year. They must not contain personal data.")
    ] = False


class AddedSuppression(Struct, frozen=True):
    """The result for one suppression."""

    result: Annotated[
        Literal["added", "moved", "unchanged"],
        about("`moved`: it existed, and now counts from a later time."),
    ]
    scope: Annotated[Scope, about("marketing, if the purpose or brand is not known.")]


class AddedSuppressions(Struct, frozen=True):
    """The results, in the order of the request."""

    results: tuple[AddedSuppression, ...]


class ListQuery(Struct, frozen=True):
    """Where a page begins."""

    after: Annotated[str, about("The `next` of the previous page.", max_length=1_000)] = ""
    limit: Annotated[int, about("How many at most.", ge=1, le=MOST_LISTED)] = 100


class ListedSuppression(Struct, frozen=True):
    """A suppression. Its address is not stored."""

    key: Annotated[str, about("The key text of exports; accepted in place of the address.")]
    scope: Scope
    origin: Origin
    since: Time
    note: str | UnsetType = UNSET


class SuppressionList(Struct, frozen=True):
    """A page, without suppressions that concern none of the token's brands."""

    suppressions: tuple[ListedSuppression, ...]
    next: Annotated[str | None, about("Send as `after` for the next page; null: no more.")]


class AddressQuestion(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose suppressions to show."""

    address: Name


class FormerSuppression(Struct, frozen=True):
    """A suppression that was lifted."""

    scope: Scope
    origin: Origin
    since: Time
    lifted_at: Time
    reason: Annotated[str | UnsetType, about("Only for a token for all brands.")] = UNSET


class KnownSuppressions(Struct, frozen=True):
    """What suppresses an address now, and what did before."""

    suppressions: tuple[AddressSuppression, ...]
    lifted: tuple[FormerSuppression, ...]


class Lift(Struct, frozen=True, forbid_unknown_fields=True):
    """Which suppressions to lift, and on whose authority."""

    address: Name
    reason: Annotated[Note, about("From a closed list; stays on record.")]
    origin: Annotated[Origin | None, about("Only this origin. Give one, or `any_origin`.")] = None
    any_origin: bool = False
    scope: Annotated[Scope | None, about("Only this scope.")] = None
    keep_notes: Annotated[
        bool, about("Keep a free-text reason for a year. It must not contain personal data.")
    ] = False


class Lifted(Struct, frozen=True):
    """What was lifted, and what still suppresses the address."""

    lifted: tuple[AddressSuppression, ...]
    left: tuple[AddressSuppression, ...]


class Suppressions(Operations):
    """The operations on suppressions."""

    @operation(
        "suppress",
        "POST /v1/suppressions",
        like='{"suppressions": [{"address": "…"}]}',
        answer="The results, in the order of the request.",
        problems=("reason_wrong", "purpose_unknown", "not_of_your_brand"),
        writes=True,
        keyed=True,
    )
    async def suppress(self, call: Call, asked: NewSuppressions) -> AddedSuppressions:
        """Suppress addresses or whole domains from now on.

        They are on disk when the answer comes, and apply to the next RCPT. Adding one again changes
        nothing, or moves it to the later time. If one is wrong, none is added. A token for some
        brands may only add orders that concern no other brand.
        """
        if len(asked.suppressions) > MOST_ENTRIES:
            raise Refused("too_large", f"at most {MOST_ENTRIES} suppressions in a request")
        now = self.now()
        entries = [
            self._entry(place, one, now, call.access, keep=asked.keep_notes)
            for place, one in enumerate(asked.suppressions)
        ]
        with refusing("body_wrong"):  # a key text of another key
            before = await self.writer().suppress(entries)
        return AddedSuppressions(
            tuple(
                AddedSuppression(_result(since, entry.since), entry.scope)
                for since, entry in zip(before, entries, strict=True)
            )
        )

    @operation(
        "suppressions",
        "GET /v1/suppressions",
        answer="A page, perhaps empty.",
    )
    async def list_suppressions(self, call: Call, asked: ListQuery) -> SuppressionList:
        """List all suppressions, page by page.

        In the order of their keys. Suppressions added meanwhile may be missing; the feed of changes
        has them.
        """
        after = read_place("parameter_wrong", asked.after, Place) if asked.after else None
        scopes = await self._scopes(call.access)
        page = await self.store.suppression_page(after, asked.limit, scopes)
        notes = call.access.everything
        return SuppressionList(
            tuple(
                ListedSuppression(
                    key,
                    one.scope,
                    one.origin,
                    written_time(one.since),
                    one.note if notes and one.note else UNSET,
                )
                for key, one in page.entries
            ),
            page.next and written_place(page.next),
        )

    @operation(
        "suppressions",
        "POST /v1/suppressions/show",
        like='{"address": "…"}',
        answer="What suppresses it now, and what did before; perhaps nothing.",
    )
    async def show_suppressions(self, call: Call, asked: AddressQuestion) -> KnownSuppressions:
        """Show what suppresses an address, and what was lifted.

        The address is in the body, so that no proxy logs it.
        """
        address, sees = _name(asked.address), call.access.sees_scope
        found = await self.store.suppressions(address)
        lifted = await self.store.lifted_suppressions(address)
        return KnownSuppressions(
            tuple(bearing_suppression(one) for one in found if sees(one.scope)),
            tuple(
                FormerSuppression(
                    one.scope,
                    one.origin,
                    written_time(one.since),
                    written_time(one.lifted_at),
                    one.reason if call.access.everything else UNSET,
                )
                for one in lifted
                if sees(one.scope)
            ),
        )

    @operation(
        "lift",
        "POST /v1/suppressions/lift",
        like='{"address": "…", "origin": "…", "reason": "…"}',
        answer="What was lifted, perhaps nothing, and what is left.",
        problems=("scope_wrong", "reason_wrong", "not_of_your_brand"),
        writes=True,
    )
    async def lift_suppressions(self, call: Call, asked: Lift) -> Lifted:
        """Lift suppressions of exactly this address.

        The caller is responsible: complaints, bounces, objections and manual entries are lifted by
        nothing else. A token for some brands has to name a scope that concerns no other.
        """
        address = _name(asked.address)
        if asked.scope is not None:
            with refusing("scope_wrong"):
                scope = read_scope(asked.scope)
            call.access.check_scope(scope)
        else:
            call.access.check_everything("every scope")
        if (asked.origin is None) is not asked.any_origin:
            raise Refused("body_wrong", "give one `origin`, or lift all with `any_origin`")
        _check_motive("reason", asked.reason, LIFT_MOTIVES[:4], keep=asked.keep_notes)
        store = self.writer()
        lifted = await store.remove_suppression(
            address,
            at=self.now(),
            reason=asked.reason,
            scope=asked.scope,
            origin=asked.origin,
            by=call.access.by,
        )
        left = await store.suppressions(address)
        return Lifted(
            tuple(map(bearing_suppression, lifted)),
            tuple(bearing_suppression(one) for one in left if call.access.sees_scope(one.scope)),
        )

    async def _scopes(self, access: Access) -> Collection[str] | None:
        """Return the scopes that a token sees, None for all, so that `next` reveals no other."""
        if access.everything:
            return None
        named = await self.store.named_scopes()
        return {"all", "marketing", *filter(access.sees_scope, named)}

    def _entry(
        self, place: int, asked: NewSuppression, now: datetime, access: Access, *, keep: bool
    ) -> SuppressionEntry:
        """Raises Refused."""
        usual = "marketing" if asked.origin is Origin.ERASURE else "all"
        if asked.note is not None:
            _check_motive("note", asked.note, OWN_MOTIVES[:4], keep=keep)
        with refusing("body_wrong", f"suppressions[{place}]"):
            entry = Defaults(now).entry(
                asked.address,
                asked.scope or usual,
                asked.origin,
                asked.since or "",
                asked.note or "",
            )
        entry = replace(entry, since=by_now(entry.since, now))
        kind, colon, name = entry.scope.partition(":")
        known = self.settings.purposes if kind == "purpose" else self.settings.brand_names
        if colon and name not in known and access.everything:
            return SuppressionEntry(
                entry.address, "marketing", entry.origin, entry.since, entry.note, access.by
            )
        access.check_scope(entry.scope)
        return replace(entry, by=access.by)


def _result(before: datetime | None, since: datetime) -> Literal["added", "moved", "unchanged"]:
    if before is None:
        return "added"
    return "moved" if before < since else "unchanged"


def _name(address: str) -> str:
    with refusing("body_wrong", "address"):
        return recorded(address, entered_name)


def _check_motive(field: str, text: str, like: tuple[str, ...], *, keep: bool) -> None:
    if not (keep or is_motive(text)):
        raise Refused(
            "reason_wrong",
            f"{field}: free text, and {FREE_TEXT}; give a motive such as {', '.join(like)},"
            " or keep_notes",
        )
