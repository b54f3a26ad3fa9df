"""API operations that record consent and its withdrawal, as `smtpproxy consent` does."""

import ipaddress
from typing import Annotated

from msgspec import Meta, Struct

from smtpproxy import recorded_consent
from smtpproxy.access import Access
from smtpproxy.policy.model import EVERY_PURPOSE, ConsentAct, Evidence, Source
from smtpproxy.policy.rulebook import DOUBLE_OPT_IN
from smtpproxy.recorded_consent import NotConfirmable
from smtpproxy.store.exchange.contact_record import Hash, Word
from smtpproxy.store.exchange.plausible import SKEW, by_now
from smtpproxy.store.exchange.times import NO_EARLIER
from smtpproxy.terminal import few
from smtpproxy.web.api.operation import (
    Call,
    Mailbox,
    Operations,
    When,
    about,
    canonical_address,
    operation,
    read_moment,
    recorded_address,
    refusing,
)
from smtpproxy.web.api.problems import Refused

Line = Annotated[str, Meta(min_length=1, max_length=1_000, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]


class ConsentToRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person agreed to, how, and what proves it."""

    address: Mailbox
    purpose: Annotated[str, about("What they agreed to: the purpose of a configured stream.")]
    method: Annotated[
        Line | None,
        about(
            "How they agreed: unticked_box, double_opt_in, signed_form … Not needed"
            " with `pending` or `confirm`, the two acts of a double opt-in."
        ),
    ] = None
    pending: Annotated[
        bool, about("They were asked to confirm but have not yet: this allows no mail.")
    ] = False
    confirm: Annotated[bool, about("They confirmed what is on record as `pending`.")] = False
    brand: Annotated[str | None, about("The brand that they agreed with.")] = None
    given_at: Annotated[When | None, about("Default: now.")] = None
    wording: Annotated[
        Line | None, about("The text that they agreed to. Without it nothing is proven.")
    ] = None
    version: Annotated[Line | None, about("The version of the wording.")] = None
    form: Annotated[Line | None, about("Where consent was given: a page, a till.")] = None
    client: Annotated[Line | None, about("The IP address that they agreed from.")] = None
    document_hash: Annotated[Hash | None, about("SHA-256 of a proof, such as a scan, in hex.")] = (
        None
    )
    conditional: Annotated[
        bool | None, about("Whether consent was a condition of the service.")
    ] = None
    channels: Annotated[
        Annotated[list[Line], Meta(min_length=1, max_length=20)] | None,
        about("Channels to reach the person by. Default: email."),
    ] = None
    source: Annotated[
        Source | None, about("How the address was obtained, if that is not on record.")
    ] = None


class RecordedConsent(Struct, frozen=True):
    """Whether an act was recorded, and its effect."""

    recorded: Annotated[bool, about("false: the same act was already on record.")]
    warnings: Annotated[tuple[str, ...], about("Why the person may still not be mailed.")]


class Withdrawal(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person no longer agrees to."""

    address: Mailbox
    purpose: Annotated[Word, about("What they no longer agree to; `*`: every purpose.")]
    brand: Annotated[
        str | None, about("The brand that it is withdrawn from. Default: all brands.")
    ] = None
    withdrawn_at: Annotated[When | None, about("Default: now.")] = None


class Consents(Operations):
    """The operations on consent."""

    @operation(
        "record",
        "POST /v1/consents/record",
        like='{"address": "…", "purpose": "…", "method": "…", "wording": "…"}',
        answer="It is on record.",
        problems=("purpose_unknown", "not_of_your_brand", "not_confirmable"),
        writes=True,
        keyed=True,
    )
    async def record_consent(self, call: Call, asked: ConsentToRecord) -> RecordedConsent:
        """Record that a person agreed to one purpose.

        Acts form a history: none is replaced. Creates the contact if there is none. It must be the
        person's own act: after an erasure, this is what allows mailing them again.
        """
        address = canonical_address(asked.address)
        act = self._act(asked, call.access)
        try:
            done = await recorded_consent.record(
                self.settings,
                self.writer(),
                address,
                act,
                confirm=asked.confirm,
                source=asked.source,
            )
        except NotConfirmable as error:
            raise Refused("not_confirmable", str(error)) from error
        return RecordedConsent(done.new, tuple(self._warnings(address, act, done)))

    @operation(
        "withdraw",
        "POST /v1/consents/withdraw",
        like='{"address": "…", "purpose": "…"}',
        answer="It is on record.",
        problems=("purpose_unknown", "not_of_your_brand"),
        writes=True,
        keyed=True,
    )
    async def withdraw_consent(self, call: Call, asked: Withdrawal) -> RecordedConsent:
        """Record that a person withdraws consent to one purpose, or to every one.

        The withdrawal overrides every other basis too, even if no consent was on record. A purpose
        that no stream has counts as all marketing.
        """
        address, settings = recorded_address(asked.address), self.settings
        brand = call.access.brand(asked.brand)
        said_at = read_moment("withdrawn_at", asked.withdrawn_at, last_moment=True)
        at = by_now(said_at or self.now(), self.now())
        purposes = call.access.settings.purposes
        known = asked.purpose in {*purposes, EVERY_PURPOSE}
        if not known and not call.access.everything:
            text = f"no stream has the purpose {asked.purpose[:40]!r}"
            raise Refused(
                "purpose_unknown", f"{text}; known: {few(sorted(purposes), asked.purpose[:40])}"
            )
        with refusing("body_wrong", "brand"):
            if brand is not None:
                recorded_consent.check_brand(settings, brand)
        by = Evidence(recorded_by=call.access.by)
        act = ConsentAct(asked.purpose, at, withdrawal=True, brand=brand, evidence=by)
        scope = f"purpose:{asked.purpose}" if known else "marketing"
        new = await recorded_consent.withdraw(self.writer(), address, act, scope)
        warnings = () if known else ("no stream has the purpose: it counts as all marketing",)
        return RecordedConsent(new, warnings)

    def _act(self, asked: ConsentToRecord, access: Access) -> ConsentAct:
        brand = access.brand(asked.brand)
        settings, double = access.settings, asked.pending or asked.confirm
        if asked.pending and asked.confirm:
            raise Refused("body_wrong", "pending or confirm, not both: they are two acts")
        method = asked.method or (DOUBLE_OPT_IN if double else "")
        at = read_moment("given_at", asked.given_at) or self.now()
        if at > self.now() + SKEW:
            raise Refused("body_wrong", "given_at: consent cannot be post-dated")
        if at < NO_EARLIER:
            raise Refused("body_wrong", "given_at: a date before 1990 stands for none")
        with refusing("purpose_unknown"):
            recorded_consent.check_purpose(settings, asked.purpose)
        with refusing("body_wrong"):
            client = asked.client and str(ipaddress.ip_address(asked.client))
            recorded_consent.check_method(settings, method, double=double)
            brand = recorded_consent.brand_of(settings, brand)
        proof = asked.document_hash and asked.document_hash.lower()
        return ConsentAct(
            asked.purpose,
            at,
            method=method,
            conditional=asked.conditional,
            channels=frozenset(asked.channels or ["email"]),
            evidence=Evidence(asked.wording, client, asked.version, asked.form, proof, access.by),
            pending=asked.pending,
            brand=brand,
        )

    def _warnings(
        self, address: str, act: ConsentAct, done: recorded_consent.Recorded
    ) -> list[str]:
        """Say why the person may still not be mailed, without their address."""
        settings, known, now = self.settings, done.known, self.now()
        found = []
        if not recorded_consent.sources(known.contact, settings, act.brand):
            found.append("it is not known how the address was obtained: give `source`")
        if act.pending:
            return [*found, "it allows no mail until the person confirms"]
        for name, streams in recorded_consent.unproven(settings, act, known.contact):
            where = f" on {', '.join(streams)}" if streams else ""
            found.append(
                f"without `{name}` the consent proves nothing, so it allows nothing{where}"
            )
        for stream, verdict in recorded_consent.refused_still(settings, address, act, known, now):
            found.append(f"they will still not be mailed on the stream {stream}: {verdict.reason}")
        return found
