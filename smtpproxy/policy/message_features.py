"""What is found out about a message for the rules: frozen, and kept in the audit journal without
what has its default."""

from msgspec import Struct

from smtpproxy.mail.unsubscribe import UriFault
from smtpproxy.policy.campaign import Campaign
from smtpproxy.policy.rulebook import ConfirmLink, PixelSign, SignatureState


class SignatureFinding(Struct, frozen=True, omit_defaults=True):
    """What was found of one DKIM signature; `detail` is for people."""

    domain: str  # its d=; empty where it cannot be read
    selector: str
    state: SignatureState
    detail: str = ""


class Pixel(Struct, frozen=True):
    """A picture that tells of an opening. Its whole address is personal, and not kept."""

    host: str
    sign: PixelSign


class ContentFeatures(Struct, frozen=True, omit_defaults=True):
    """What was found out of a message only because its stream asks for it."""

    senders: tuple[str, ...] = ()  # domains of the envelope sender and of signatures
    fake_prefix: str | None = None  # of an answer or a forward, on what is neither
    shows_unsubscribe: bool = False
    shows_imprint: bool = False
    text_cut: bool = False  # not all of the text was read
    organisations: tuple[tuple[str, str], ...] = ()  # of domains by the DNS; "": no answer
    bulk_markers: tuple[str, ...] = ()  # lower-case names of header fields
    bulk_text: tuple[str, ...] = ()  # what its text says that newsletters say
    alike: int = 0  # people who were recently sent this text, including this message's
    campaign: Campaign | None = None  # where new ones have a trial
    declared_stream: str | None = None  # the transactional stream of what is judged as marketing
    confirm_link: ConfirmLink | None = None  # None: no rule asked
    pixels: tuple[Pixel, ...] = ()  # that tell of an opening; each host once
    pixels_fixed: bool = False  # they cannot be taken out: a signature would break, or the text


class MessageFeatures(Struct, frozen=True, omit_defaults=True):
    """What the message rules look at, read from the raw header block."""

    malformed: str | None = None  # what cannot be read, for the trace
    from_domains: tuple[str, ...] = ()  # lower-case A-labels, one for each From address
    recipients: int = 0  # that it is for; counted where the stream has a limit
    stream_header: tuple[str, ...] = ()  # every value found
    unsubscribe_fields: int = 0
    unsubscribe_https: tuple[str, ...] = ()
    unsubscribe_mailto: tuple[str, ...] = ()
    unsubscribe_encoded: bool = False  # encoded words had to be decoded
    unsubscribe_fault: UriFault | None = None  # of a URI that leads nobody out
    one_click: bool = False  # exactly one List-Unsubscribe-Post, and it is exact
    source_statement: str | None = None  # what it says of where the addresses come from
    dkim_fields: int = 0  # signatures that it came with
    signed_by_relay: bool = False  # the relay signs it; found out where that matters
    signatures: tuple[SignatureFinding, ...] | None = None  # None: they were not checked
    content: ContentFeatures | None = None  # None: no rule asked, or there was nothing to tell
