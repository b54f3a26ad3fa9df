"""The relay's own mail to people: written here, and handed to the relay like anybody's.

It comes in by the listener that `[confirmation]` makes, so it is judged, signed, recorded and
relayed as all mail is: docs/adr/0025-confirmation.md says why.
"""

import asyncio
import smtplib
import socket
from collections.abc import Callable, Iterable
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, make_msgid
from pathlib import Path

from msgspec import Struct

from smtpproxy.locale import PAGE_LANGS, REFERENCE, Lang, Phrase, Time, Value, say
from smtpproxy.mail.confirmation_token import PATH, Confirmation, seal_confirmation
from smtpproxy.policy.model import PERSONAL_STREAM, Stream
from smtpproxy.policy.periods import end
from smtpproxy.settings import ConfirmationSettings, Settings
from smtpproxy.store.link_keys import link_ring

_TIMEOUT = 60.0  # seconds for each answer of the relay


class OwnMail(Struct, frozen=True):
    """A mail to one person."""

    recipient: str
    sender: str
    stream: str
    message: bytes


class Reply(Struct, frozen=True):
    """What the relay answered: to the recipient, or to the whole."""

    code: int
    text: str


class RelayUnavailable(Exception):
    """The relay did not take the mail, and did not refuse it; the text says why.

    Where the connection ended early it is not certain that the mail was not taken.
    """

    exit_code = 1

    def __init__(self, text: str, *, certain: bool) -> None:
        super().__init__(text)
        self.certain = certain


Submit = Callable[[OwnMail], Reply]
"""Hands a mail to the relay; it blocks. Raises RelayUnavailable."""


class Writer:
    """Writes mail with a link by which the reader confirms something."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError unless there is a `[confirmation]`."""
        if settings.confirmation is None or settings.web is None or not settings.web.public_url:
            raise ValueError(
                "confirmation: not configured; add a [confirmation] with a sender, and"
                " web.public_url"
            )
        self._settings = settings
        self._public_url = settings.web.public_url
        self.confirmation: ConfirmationSettings = settings.confirmation

    def links(self, *told: Confirmation) -> list[str]:
        """Return their links. Raises StoreMisconfigured."""
        ring = link_ring(self._settings.server.state_dir)
        return [self._public_url + PATH + seal_confirmation(ring, each) for each in told]

    def permission_links(
        self, stream: str, addresses: Iterable[str], lang: str | None, now: datetime
    ) -> list[str]:
        """Return the links that messages of a stream of class `permission` have to carry.

        Addresses are canonical; the relay opens the link of each message again. Raises ValueError
        for another stream, StoreMisconfigured.
        """
        found = self._settings.streams.get(stream)
        window = self._settings.rulebooks[found.rulebook].permission_window if found else None
        if found is None or not found.permission or window is None:
            known = [s.name for s in self._settings.streams.values() if s.permission]
            raise ValueError(
                f'{stream!r} is not a stream of class "permission"; there are {", ".join(known)}'
                if known
                else 'there is not a stream of class "permission"'
            )
        until, lang = end(now, window), language_for(self._settings, found.brand, lang)
        purpose = found.purpose or ""
        return self.links(
            *(
                Confirmation("permission", address, found.brand, purpose, now, until, lang)
                for address in addresses
            )
        )

    def mail(self, told: Confirmation, now: datetime) -> OwnMail:
        """Return the mail that asks the owner of an address to confirm, in `told.lang`.

        Its texts are `mail.KIND.subject` and `mail.KIND.text`. Raises StoreMisconfigured.
        """
        settings = self._settings
        brand = brand_title(settings, told.brand)
        words: dict[str, Value] = {
            "brand": brand,
            "purpose": purpose_label(settings, told.purpose, told.lang),
            "link": self.links(told)[0],
            "until": Time(told.until) if told.kind == "personal" else told.until,
        }
        ascii = told.recipient.isascii()
        mail = EmailMessage(policy=SMTP if ascii else SMTPUTF8)
        known = settings.brands.get(told.brand)
        sender = (known.help if known else None) or self.confirmation.sender
        mail["From"] = Address(brand, addr_spec=sender)
        mail["To"] = Address(addr_spec=told.recipient) if ascii else told.recipient
        mail["Subject"] = say(Phrase(f"mail.{told.kind}.subject", words), told.lang)
        mail["Date"] = format_datetime(now)
        mail["Message-ID"] = make_msgid(domain=settings.server.hostname)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody is to answer by machine
        mail.set_content(say(Phrase(f"mail.{told.kind}.text", words), told.lang))
        mail["Content-Language"] = told.lang
        stream = PERSONAL_STREAM
        if told.kind != "personal":
            stream = confirmation_stream(settings, told.brand)
        return OwnMail(told.recipient, sender, stream.name, mail.as_bytes())


def brand_title(settings: Settings, brand: str) -> str:
    """Return what people call who is talking to them."""
    found = settings.brands.get(brand)
    return (found.title if found else None) or settings.server.hostname


def purpose_label(settings: Settings, purpose: str, lang: Lang) -> str:
    """Return what people are told that a purpose is: the label of a stream that is for it."""
    for stream in settings.declared_streams:
        if stream.purpose == purpose and stream.label:
            label = stream.label
            return label.get(lang) or label.get(REFERENCE) or next(iter(label.values()))
    return purpose


def language_for(settings: Settings, brand: str, *asked: str | None) -> Lang:
    """Return the first of the languages asked for that the brand has, or else the brand's first.

    `fr-be` asks for French.
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
    """Return what hands mail to the relay of this configuration."""
    path, hostname = settings.own_socket, settings.server.hostname
    header = settings.server.stream_header

    def submit(mail: OwnMail) -> Reply:
        content = f"{header}: {mail.stream}\r\n".encode() + mail.message
        client = None
        try:
            client = _Client(path, hostname)
            options = [] if content.isascii() else ["SMTPUTF8", "BODY=8BITMIME"]
            client.sendmail(mail.sender, [mail.recipient], content, options)
        except smtplib.SMTPRecipientsRefused as refused:
            return _reply(*refused.recipients[mail.recipient])
        except smtplib.SMTPResponseException as refused:
            return _reply(refused.smtp_code, refused.smtp_error)
        except (OSError, smtplib.SMTPException) as error:
            text = (
                f"{path}: the relay does not take its own mail ({error}); is smtpproxy serve"
                " running with this configuration?"
            )
            raise RelayUnavailable(text, certain=client is None) from error
        finally:
            if client is not None:
                client.close()  # whatever it would say to QUIT: the answer is there
        return Reply(250, "accepted")

    return submit


async def send(submit: Submit, mail: OwnMail) -> Reply:
    """Submit on a thread. Raises RelayUnavailable, also where the relay says to try later."""
    reply = await asyncio.to_thread(submit, mail)
    if 400 <= reply.code < 500 or reply.code < 200:
        text = f"the relay asks to try again later: {reply.code} {reply.text}"
        raise RelayUnavailable(text, certain=True)
    return reply


def _reply(code: int, text: bytes | str) -> Reply:
    return Reply(code, text.decode("ascii", "replace") if isinstance(text, bytes) else text)


class _Client(smtplib.SMTP):
    """SMTP over a socket in the file system."""

    def __init__(self, path: Path, hostname: str) -> None:
        self._path = path
        super().__init__("localhost", 25, local_hostname=hostname, timeout=_TIMEOUT)

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(str(self._path))
        except BaseException:
            sock.close()
            raise
        return sock
