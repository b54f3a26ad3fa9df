"""The relay's own mail to people: written here, and submitted to the relay like any other.

It arrives at the listener that `[confirmation]` makes, so it is judged, signed, recorded and
relayed like all mail: docs/adr/0025-confirmation.md says why.
"""

import asyncio
import smtplib
from collections.abc import Callable, Iterable
from datetime import datetime

from msgspec import Struct

from smtpproxy.locale import PAGE_LANGS, REFERENCE, Lang, Phrase, Time, Value, say
from smtpproxy.mail.confirmation_token import PATH, Confirmation, seal_confirmation
from smtpproxy.policy.model import PERSONAL_STREAM, Stream
from smtpproxy.policy.periods import end
from smtpproxy.settings import BrandSettings, ConfirmationSettings, Settings
from smtpproxy.store.link_keys import link_ring
from smtpproxy.terminal import few

_TIMEOUT = 60.0  # seconds for each answer of the relay


class OwnMail(Struct, frozen=True):
    """A mail to one person."""

    recipient: str
    sender: str
    stream: str
    message: bytes


class Reply(Struct, frozen=True):
    """The relay's reply to the recipient, or to the message."""

    code: int
    text: str


class RelayUnavailable(Exception):
    """The relay neither accepted nor refused the mail; the text says why.

    If the connection ended early, it is not `certain` that the mail was not accepted.
    """

    exit_code = 1

    def __init__(self, text: str, *, certain: bool) -> None:
        super().__init__(text)
        self.certain = certain


Submit = Callable[[OwnMail], Reply]
"""Submits a mail to the relay, blocking. Raises RelayUnavailable."""


class Writer:
    """Writes mail with a link that lets its reader confirm something."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError without `[confirmation]`."""
        if settings.confirmation is None or settings.web is None or not settings.web.public_url:
            raise ValueError(
                "confirmation: not configured; add [confirmation] with a sender, and web.public_url"
            )
        self._settings = settings
        self._public_url = settings.web.public_url
        self.confirmation: ConfirmationSettings = settings.confirmation

    def links(self, *confirmations: Confirmation) -> list[str]:
        """Return their links. Raises StoreMisconfigured."""
        ring = link_ring(self._settings.server.state_dir)
        return [self._public_url + PATH + seal_confirmation(ring, each) for each in confirmations]

    def permission_links(
        self, stream: str, addresses: Iterable[str], lang: str | None, now: datetime
    ) -> list[str]:
        """Return the links that messages on a stream of class `permission` have to carry.

        Addresses are canonical; the relay opens the link of each message again. Raises ValueError
        for another stream, StoreMisconfigured.
        """
        found = self._settings.streams.get(stream)
        window = self._settings.rulebooks[found.rulebook].permission_window if found else None
        if found is None or not found.permission or window is None:
            known = [s.name for s in self._settings.streams.values() if s.permission]
            raise ValueError(
                f'{stream!r} is not a stream of class "permission"; known: {few(known, stream)}'
                if known
                else 'no stream has the class "permission"'
            )
        until, lang = end(now, window), language_for(self._settings, found.brand, lang)
        purpose = found.purpose or ""
        return self.links(
            *(
                Confirmation("permission", address, found.brand, purpose, now, until, lang)
                for address in addresses
            )
        )

    def mail(self, confirmation: Confirmation, now: datetime) -> OwnMail:
        """Return the mail that asks the owner of an address to confirm, in `confirmation.lang`.

        Its texts are `mail.KIND.subject` and `mail.KIND.text`. Raises StoreMisconfigured.
        """
        # Most of `email` is loaded by the first mail: without [confirmation] there is none.
        from email.headerregistry import Address
        from email.message import EmailMessage
        from email.policy import SMTP, SMTPUTF8
        from email.utils import format_datetime, make_msgid

        settings = self._settings
        brand = brand_title(settings, confirmation.brand)
        words: dict[str, Value] = {
            "brand": brand,
            "purpose": purpose_label(settings, confirmation.purpose, confirmation.lang),
            "link": self.links(confirmation)[0],
            "until": Time(confirmation.until)
            if confirmation.kind == "personal"
            else confirmation.until,
        }
        ascii = confirmation.recipient.isascii()
        mail = EmailMessage(policy=SMTP if ascii else SMTPUTF8)
        known = settings.brands.get(confirmation.brand)
        sender = (known.help if known else None) or self.confirmation.sender
        mail["From"] = Address(brand, addr_spec=sender)
        mail["To"] = Address(addr_spec=confirmation.recipient) if ascii else confirmation.recipient
        mail["Subject"] = say(Phrase(f"mail.{confirmation.kind}.subject", words), confirmation.lang)
        mail["Date"] = format_datetime(now)
        mail["Message-ID"] = make_msgid(domain=settings.server.hostname)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic replies
        text = say(Phrase(f"mail.{confirmation.kind}.text", words), confirmation.lang)
        mail.set_content(text + _who(known, confirmation.lang))
        mail["Content-Language"] = confirmation.lang
        stream = PERSONAL_STREAM
        if confirmation.kind != "personal":
            stream = confirmation_stream(settings, confirmation.brand)
        return OwnMail(confirmation.recipient, sender, stream.name, mail.as_bytes())


def _who(brand: BrandSettings | None, lang: Lang) -> str:
    """Return the line that says who answers for a brand's mail, if that is known."""
    if brand is None or brand.legal_name is None:
        return ""
    words: dict[str, Value] = {"controller": brand.legal_name, "address": brand.address}
    return say(Phrase("page.who" if brand.address else "page.who_only", words), lang) + "\n"


def brand_title(settings: Settings, brand: str) -> str:
    """Return the name by which people know the brand."""
    found = settings.brands.get(brand)
    return (found.title if found else None) or settings.server.hostname


def purpose_label(settings: Settings, purpose: str, lang: Lang) -> str:
    """Return a purpose's name for people: the label of a stream with that purpose."""
    for stream in settings.declared_streams:
        if stream.purpose == purpose and stream.label:
            label = stream.label
            return label.get(lang) or label.get(REFERENCE) or next(iter(label.values()))
    return purpose


def language_for(settings: Settings, brand: str, *asked: str | None) -> Lang:
    """Return the first language asked for that the brand has, otherwise the brand's first.

    `fr-be` means French.
    """
    found = settings.brands.get(brand)
    spoken = (found.languages if found else ()) or PAGE_LANGS
    first = found.languages[0] if found and found.languages else settings.server.language
    wanted = (lang.partition("-")[0].lower() for lang in asked if lang)
    return next((lang for lang in wanted if lang in spoken), first)


def confirmation_stream(settings: Settings, brand: str) -> Stream:
    """Return the stream of the relay's own mail for a brand."""
    return next(s for s in settings.streams.values() if s.confirmation and s.brand == brand)


def submitter(settings: Settings) -> Submit:
    """Return a function that submits mail to the relay of this configuration."""
    path, hostname = settings.own_socket, settings.server.hostname
    header = settings.server.stream_header

    def submit(mail: OwnMail) -> Reply:
        content = f"{header}: {mail.stream}\r\n".encode() + mail.message
        client = None
        try:
            client = _Client(str(path), local_hostname=hostname, timeout=_TIMEOUT)
            options = [] if content.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
            client.sendmail(mail.sender, [mail.recipient], content, options)
        except smtplib.SMTPRecipientsRefused as refused:
            return _reply(*refused.recipients[mail.recipient])
        except smtplib.SMTPResponseException as refused:
            return _reply(refused.smtp_code, refused.smtp_error)
        except (OSError, smtplib.SMTPException) as error:
            text = (
                f"{path}: the relay does not accept its own mail ({error}); is smtpproxy serve"
                " running with this configuration?"
            )
            raise RelayUnavailable(text, certain=client is None) from error
        finally:
            if client is not None:
                client.close()  # without QUIT: the answer is complete
        return Reply(250, "accepted")

    return submit


async def send(submit: Submit, mail: OwnMail) -> Reply:
    """Submit on a thread. Raises RelayUnavailable, even if the relay only says to try later."""
    reply = await asyncio.to_thread(submit, mail)
    if 400 <= reply.code < 500 or reply.code < 200:
        text = f"the relay asks to try again later: {reply.code} {reply.text}"
        raise RelayUnavailable(text, certain=True)
    return reply


def _reply(code: int, text: bytes | str) -> Reply:
    return Reply(code, text.decode("ascii", "replace") if isinstance(text, bytes) else text)


class _Client(smtplib.LMTP):
    """SMTP over a socket in the file system, to which only the library's LMTP can connect."""

    ehlo_msg = "ehlo"
