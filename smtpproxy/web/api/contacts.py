"""API operations that show, write and erase contacts, as `smtpproxy contact` does."""

import hashlib
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from smtpproxy import erasure
from smtpproxy.policy.model import Contact
from smtpproxy.store.exchange.contact_ndjson import written_contact
from smtpproxy.store.exchange.contact_record import ContactRecord, read_contact
from smtpproxy.store.exchange.plausible import ContactCheck
from smtpproxy.store.records import BatchResult, ContactUpdate
from smtpproxy.web.api.operation import (
    Call,
    Mailbox,
    Operations,
    Versioned,
    about,
    header_once,
    operation,
    recorded_address,
    refusing,
)
from smtpproxy.web.api.problems import Refused


class ContactQuestion(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose contact to show."""

    address: Mailbox


class KnownContact(Struct, frozen=True):
    """What is known about one address."""

    contact: Annotated[
        msgspec.Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/ContactRecord"})
    ]
    version: Annotated[str, about("The version of what is shown here: the ETag.")]


class WrittenContact(Struct, frozen=True):
    """How a contact was written."""

    result: Annotated[
        Literal["added", "changed", "unchanged", "older", "erased"],
        about(
            "`older`: the stored contact is newer. `erased`: the person was erased, and"
            " only refusals are stored."
        ),
    ]
    version: Annotated[
        str | UnsetType, about("The version of what the token sees now: the ETag.")
    ] = UNSET


class Erasing(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to erase, and what they no longer receive."""

    address: Mailbox
    scope: Annotated[Literal["marketing", "all"], about("`all`: receipts and passwords too.")] = (
        "marketing"
    )
    keep_record: Annotated[
        bool, about("Leave the audit log as it is, to defend legal claims (RGPD 17(3)(e)).")
    ] = False


class Erased(Struct, frozen=True):
    """What was erased. Other addresses of the person have to be erased one by one."""

    erased: Annotated[bool, about("false: there was no contact.")]
    reports: Annotated[int, about("Reports removed from the feedback mailbox.")]
    audit_rows: Annotated[int, about("Rows pseudonymised in the audit log.")]
    others: Annotated[int, about("Variants and former addresses, which were not erased.")]
    left: Annotated[
        str | UnsetType,
        about("What could not be erased yet, and why: repeat until this is missing."),
    ] = UNSET
    relays_behind: Annotated[
        tuple[str, ...] | UnsetType,
        about("Other relays, which erase it from their disks when they next run."),
    ] = UNSET


class Contacts(Operations):
    """The operations on contacts."""

    @operation(
        "contacts",
        "POST /v1/contacts/get",
        like='{"address": "…"}',
        answer="The contact.",
        answers=KnownContact,
        problems=("not_found",),
        versioned=True,
    )
    async def get_contact(self, call: Call, asked: ContactQuestion) -> Versioned:
        """Show what is known about one address.

        As `smtpproxy contact export` writes it. The address is in the body, so that no proxy logs
        it. A token for some brands sees what concerns these, and nobody who dealt only with other
        brands.
        """
        contact = await self.store.contact(recorded_address(asked.address))
        shown = None if contact is None else call.access.seen(contact)
        if shown is None:
            raise Refused("not_found", "there is no contact with that address")
        version = version_of(shown)
        return Versioned(KnownContact(msgspec.Raw(written_contact(shown)), version), version)

    @operation(
        "upsert",
        "POST /v1/contacts",
        answer="It is stored.",
        answers=WrittenContact,
        problems=("not_of_your_brand", "changed_meanwhile"),
        writes=True,
        keyed=True,
        versioned=True,
        conditional=True,
        body=ContactRecord,
    )
    async def upsert_contact(self, call: Call) -> Struct:
        """Insert or update a contact.

        Like one line of an import: an absent field changes nothing; purchases, consents and
        preferences add up. Erased people are left out. A token for some brands may write what
        concerns these, but nothing that applies to all brands (tags, language).
        """
        update, check = self._update(call)
        expected = _expected(call)
        orders = [replace(one, by=call.access.by) for one in check.orders([update])]
        writer = self.writer()
        before: Contact | None = None

        def unchanged_since(known: Contact | None) -> bool:
            nonlocal before
            before = known and call.access.seen(known)
            return expected(before)

        if orders:  # first: if the rest fails, people get too little mail, not too much
            if not unchanged_since(await writer.contact(update.contact.address)):
                raise _changed()
            await writer.add_suppressions(orders)
        done = await writer.put_contact(
            update.contact.address,
            lambda known: update if unchanged_since(known) else None,
            imported=True,
        )
        if done is None:
            raise _changed()
        contact = await writer.contact(update.contact.address)
        shown = None if contact is None else call.access.seen(contact)
        if shown is None:
            return WrittenContact("erased")
        version, result = version_of(shown), _result(done)
        if not call.access.everything:  # the answer must not show what other brands know
            result = "added" if before is None else "changed"
            result = "unchanged" if before == shown else result
        return Versioned(WrittenContact(result, version), version)

    @operation(
        "erase",
        "POST /v1/contacts/erase",
        like='{"address": "…"}',
        answer="The person is erased.",
        problems=("not_of_your_brand",),
        writes=True,
    )
    async def erase_contact(self, call: Call, asked: Erasing) -> Erased:
        """Erase a person (RGPD 17).

        Removes the contact with its history, and the person from the feedback mailbox and, unless
        it is kept, the audit log; an `erasure` suppression stays, which holds no address. The time
        it takes depends on the size of the audit log. Needs a token for all brands.
        """
        call.access.check_everything("an erasure")
        address = recorded_address(asked.address)
        store = self.writer()
        others = await erasure.others_of(store, address)
        done = await erasure.erase(
            self.settings,
            store,
            address,
            at=self.now(),
            scope=asked.scope,
            keep_record=asked.keep_record,
        )
        left, behind = done.left or UNSET, done.behind or UNSET
        return Erased(done.erased, done.reports, done.rows, len(others), left, behind)

    def _update(self, call: Call) -> tuple[ContactUpdate, ContactCheck]:
        """Read and check a contact. Raises Refused, OthersConcerned."""
        now, access = self.now(), call.access
        brand = next(iter(access.brands)) if len(access.brands) == 1 else None
        own = None if access.everything else access.check_contact
        check = ContactCheck(access.settings, now, brand, own)
        with refusing("body_wrong"):
            update = _recorded_by(check.update(read_contact(call.body, now)), access.by)
        return update, check


def _recorded_by(update: ContactUpdate, by: str) -> ContactUpdate:
    """Return the update with `by` in the evidence of its acts."""
    acts = tuple(
        replace(act, evidence=replace(act.evidence, recorded_by=by)) for act in update.contact.acts
    )
    contact = replace(update.contact, acts=acts)
    return replace(update, contact=contact)


def version_of(contact: Contact) -> str:
    """Return a digest that identifies the state of a contact."""
    return hashlib.sha256(written_contact(contact)).hexdigest()[:32]


def _expected(call: Call) -> Callable[[Contact | None], bool]:
    """Return the condition of If-Match and If-None-Match. Raises Refused."""
    match = header_once(call.request, "if-match")
    none_match = header_once(call.request, "if-none-match")
    if none_match not in (None, "*"):
        raise Refused("changed_meanwhile", "If-None-Match: only * is supported here")

    def expected(known: Contact | None) -> bool:
        if none_match is not None and known is not None:
            return False
        if match is None:
            return True
        # A proxy that compresses answers makes W/"…" or "…-gzip" of an ETag.
        return known is not None and (match.strip() == "*" or version_of(known) in match)

    return expected


def _changed() -> Refused:
    text = "the contact was changed or removed; get it again, then decide"
    return Refused("changed_meanwhile", text)


def _result(done: BatchResult) -> Literal["added", "changed", "unchanged", "older", "erased"]:
    if done.erased:
        return "erased"
    if done.added:
        return "added"
    if done.older:
        return "older"
    return "changed" if done.changed else "unchanged"
