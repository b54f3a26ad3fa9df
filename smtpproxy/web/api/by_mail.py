"""API operations that ask people to confirm consent, or whether to go on receiving mail."""

import ipaddress
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from smtpproxy.access import Access
from smtpproxy.mail.address import recipient
from smtpproxy.mail.mailboxes import entered
from smtpproxy.policy.model import Evidence, Source
from smtpproxy.settings import Settings
from smtpproxy.terminal import few
from smtpproxy.web.api.operation import (
    MOST_ADDRESSES,
    Call,
    about,
    canonical_names,
    operation,
    refusing,
)
from smtpproxy.web.api.problems import Refused
from smtpproxy.web.consent_by_mail import ConsentByMail, ConsentRequest, brand_of
from smtpproxy.web.own_mail import RelayUnavailable

Line = Annotated[str, Meta(min_length=1, max_length=1_000)]


class ConsentStart(Struct, frozen=True, forbid_unknown_fields=True):
    """What a person asked for, and what they were shown."""

    address: Annotated[str, about("The person's address, as they typed it.")]
    purpose: Annotated[str, about("The purpose of a configured stream.")]
    wording: Annotated[Line, about("The text beside the box or the button.")]
    brand: Annotated[str | None, about("The brand; required if there are several.")] = None
    version: Annotated[Line | None, about("The version of the wording.")] = None
    form: Annotated[Line | None, about("Where consent was given: a page, a till.")] = None
    client: Annotated[str | None, about("The person's IP address. A keyed hash of it is kept.")] = (
        None
    )
    language: Annotated[
        str | None,
        about(
            "The language of the mail: de, en, es, fr, it or nl. By default the"
            " contact's, or the brand's first."
        ),
    ] = None
    source: Annotated[
        Source | None,
        about(
            "How the address was obtained: `direct` means from the person. Recorded"
            " once consent is confirmed."
        ),
    ] = None


class ConsentStarted(Struct, frozen=True):
    """Whether the mail was sent."""

    state: Annotated[
        Literal["sent", "refused"],
        about("`refused`: this person may not be mailed, and nothing was recorded."),
    ]
    reason: Annotated[str, about("A reason in docs/reasons.md.")] | UnsetType = UNSET
    detail: Annotated[str, about("For people.")] | UnsetType = UNSET


def _read(asked: ConsentStart, access: Access, settings: Settings) -> ConsentRequest:
    with refusing("body_wrong"):
        address = recipient(entered(asked.address))
        brand = brand_of(settings, access.brand(asked.brand))
        client = asked.client and str(ipaddress.ip_address(asked.client))
    if asked.purpose not in (purposes := settings.purposes_of(brand)):
        known = few(sorted(purposes), asked.purpose[:80])
        text = f"no stream of brand {brand} has the purpose {asked.purpose!r}; known: {known}"
        raise Refused("purpose_unknown", text)
    return ConsentRequest(
        address,
        asked.purpose,
        brand,
        Evidence(asked.wording, client, asked.version, asked.form, recorded_by=access.by),
        asked.language,
        asked.source,
    )


class PermissionLinksRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """For whom, and on which stream."""

    stream: Annotated[str, about("A stream of class `permission`.")]
    addresses: Annotated[list[str], Meta(extra_json_schema={"maxItems": MOST_ADDRESSES})]
    language: Annotated[str | None, about("The language of the page behind the link.")] = None


class PermissionLink(Struct, frozen=True):
    """The link of one address."""

    address: Annotated[str, about("As it was given.")]
    link: str | UnsetType = UNSET
    error: Annotated[str, about("It is not a mail address.")] | UnsetType = UNSET


class PermissionLinks(Struct, frozen=True):
    """A link for each address, in the order of the request."""

    links: tuple[PermissionLink, ...]


class ByMail(Struct, frozen=True):
    """The operations that need [confirmation]."""

    by_mail: ConsentByMail

    @operation(
        "consent",
        "POST /v1/consents",
        like='{"address": "…", "purpose": "…", "wording": "…"}',
        answer="The relay has accepted the mail, or refuses it.",
        problems=("purpose_unknown", "not_of_your_brand", "too_many_mails", "relay_unavailable"),
        writes=True,
        keyed=True,
    )
    async def start_consent(self, call: Call, asked: ConsentStart) -> ConsentStarted:
        """Ask somebody to confirm a consent by mail.

        The request is recorded, and a mail with a link is sent to the address. It allows no other
        mail until the person presses the button on the page behind the link.
        """
        wanted = _read(asked, call.access, self.by_mail.settings)
        try:
            done = await self.by_mail.start(wanted)
        except RelayUnavailable as error:
            text = "the relay does not accept the mail now; try again in a few seconds"
            raise Refused("relay_unavailable", text, headers={"Retry-After": "5"}) from error
        if done.state == "too_often":
            text = (
                "too many confirmations were sent in 24 hours, to this address or to all; try later"
            )
            raise Refused("too_many_mails", text, headers={"Retry-After": "3600"})
        return ConsentStarted(done.state, done.reason or UNSET, done.detail or UNSET)

    @operation(
        "permission",
        "POST /v1/permission-links",
        like='{"stream": "…", "addresses": ["…"]}',
        answer="A link for each address, in the order of the request.",
        problems=("stream_wrong", "not_of_your_brand"),
    )
    async def permission_links(self, call: Call, asked: PermissionLinksRequest) -> PermissionLinks:
        """Make links for messages that ask people whether to go on.

        Each message has to carry its own recipient's link. Nothing of the request is kept. A link
        does not mean that the person may be asked: the relay decides that when the message comes.
        """
        names = canonical_names(asked.addresses)
        own = [one.name for one in call.access.settings.streams.values() if one.permission]
        if asked.stream not in own:
            known = ", ".join(own)
            text = f"{asked.stream[:80]!r} is not a stream of class permission; known: {known}"
            raise Refused("stream_wrong", text)
        wanted = [name for name in names.values() if name is not None]
        with refusing("stream_wrong"):
            now = self.by_mail.now()
            made = self.by_mail.mails.permission_links(asked.stream, wanted, asked.language, now)
        links = dict(zip(wanted, made, strict=True))
        return PermissionLinks(
            tuple(
                PermissionLink(address, error="not a mail address")
                if (name := names[address]) is None
                else PermissionLink(address, links[name])
                for address in asked.addresses
            )
        )
