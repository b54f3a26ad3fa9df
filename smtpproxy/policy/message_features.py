"""What is found out about a message for the rules: frozen records that the audit journal keeps,
omitting values that equal their defaults."""

from msgspec import Struct

from smtpproxy.mail.unsubscribe import UriFault
from smtpproxy.policy.campaign import Campaign
from smtpproxy.policy.rulebook import ConfirmLink, PixelSign, SignatureState


class SignatureFinding(Struct, frozen=True, omit_defaults=True):
    """The result for one DKIM signature; `detail` is for people."""

    domain: str  # its d=; empty if unreadable
    selector: str
    state: SignatureState
    detail: str = ""


class Pixel(Struct, frozen=True):
    """A picture that reports an opening. Its whole address is personal and not kept."""

    host: str
    sign: PixelSign


class ContentFeatures(Struct, frozen=True, omit_defaults=True):
    """What was found out about a message only because its stream requires it."""

    senders: tuple[str, ...] = ()  # domains of the envelope sender and of signatures
    fake_prefix: str | None = None  # of a reply or forward, on what is neither
    shows_unsubscribe: bool = False
    shows_imprint: bool = False
    text_cut: bool = False  # not all of the text was read
    organisations: tuple[tuple[str, str], ...] = ()  # by domain; "": no answer
    bulk_markers: tuple[str, ...] = ()  # lower-case names of header fields
    bulk_text: tuple[str, ...] = ()  # signs of a newsletter in its text
    alike: int = 0  # people who were recently sent this text, including this message's
    campaign: Campaign | None = None  # if new ones have a trial
    declared_stream: str | None = None  # transactional, but judged as marketing
    confirm_link: ConfirmLink | None = None  # None: no rule asked
    pixels: tuple[Pixel, ...] = ()  # that report an opening; each host once
    pixels_fixed: bool = False  # cannot be removed without breaking a signature or the text


class MessageFeatures(Struct, frozen=True, omit_defaults=True):
    """What the message rules look at, read from the raw header block."""

    malformed: str | None = None  # what cannot be read, for the trace
    from_domains: tuple[str, ...] = ()  # lower-case A-labels, one for each From address
    recipients: int = 0  # counted if the stream has a limit
    stream_header: tuple[str, ...] = ()  # every value found
    unsubscribe_fields: int = 0
    unsubscribe_https: tuple[str, ...] = ()
    unsubscribe_mailto: tuple[str, ...] = ()
    unsubscribe_encoded: bool = False  # encoded words had to be decoded
    unsubscribe_fault: UriFault | None = None  # of a URI that cannot work
    one_click: bool = False  # exactly one List-Unsubscribe-Post, and it is exact
    source_statement: str | None = None  # where it says the addresses come from
    dkim_fields: int = 0  # signatures that it came with
    signed_by_relay: bool = False  # the relay signs it; looked up only if it matters
    signatures: tuple[SignatureFinding, ...] | None = None  # None: they were not checked
    content: ContentFeatures | None = None  # None: no rule asked, or nothing was found
