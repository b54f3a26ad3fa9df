"""The personal page: people see what is stored about them, correct it, object, or erase it.

Messages get forwarded, so an unsubscribe link does not lead here. A link mailed to the address
does, for a day (kind `personal` of the confirmations).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from starlette.responses import HTMLResponse, Response

from smtpproxy.erasure import forget_reports
from smtpproxy.locale import PAGE_LANGS, Lang, texts
from smtpproxy.locale.pages import environment
from smtpproxy.mail.confirmation_token import Confirmation
from smtpproxy.policy.contact import said_last
from smtpproxy.policy.model import Audience, ConsentAct, Contact, Frequency, Origin, Preference
from smtpproxy.policy.periods import Period
from smtpproxy.policy.rules.recipient import TRACKING
from smtpproxy.settings import Settings
from smtpproxy.store.operations import Correction
from smtpproxy.store.records import ContactUpdate, StoreUnavailable, SuppressionEntry
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.web_tables import ConfirmationLimit
from smtpproxy.web.known import Known, Stored
from smtpproxy.web.look import Look
from smtpproxy.web.own_mail import RelayUnavailable, Submit, Writer, send

VALID_FOR = timedelta(days=1)
_MOST_WORDS = 50  # occupations
_LONGEST_WORD = 200  # characters
_OFTEN = tuple(str(each) for each in Frequency)
_AUDIENCES = (Audience.CONSUMER, Audience.PROFESSIONAL)

log = structlog.get_logger(__name__)


def page(
    stored: Stored, look: Look, lang: Lang, now: datetime, record: Period, notice: str = ""
) -> str:
    """Return the page. `record` is how long decisions are kept; `notice` names what was just
    done."""
    known = Known(stored, look, lang)
    template = environment(lang).get_template("personal.html")
    wishes = known.wishes(now).items()
    return template.render(
        look=look,
        notice=notice,
        record=record,
        contact=stored.contact,
        lines=known.lines(),
        languages=[(each, texts(each).language.name) for each in PAGE_LANGS],
        audiences=_AUDIENCES,
        audience=next((way.audience for way in known.collections()), None),
        occupations=sorted(_occupations(known)),
        tracked=bool(known.tracking()),
        wishes=[(each, look.label(each, lang), often) for each, often in wishes],
    )


def _occupations(known: Known) -> frozenset[str]:
    return frozenset().union(*(way.occupations for way in known.collections()))


@dataclass(eq=False)
class PersonalPages:
    """Mails links to these pages, and carries out requests made on them.

    Raises ValueError without `[confirmation]`.
    """

    settings: Settings
    writer: Callable[[], Store]
    submit: Submit
    limit: ConfirmationLimit
    looks: Mapping[str, Look]
    now: Callable[[], datetime]

    def __post_init__(self) -> None:
        self._mails = Writer(self.settings)

    async def send(self, address: str, brand: str, lang: Lang) -> None:
        """Mail a link to an address, unless it may not be mailed, or was mailed too often.

        The caller does not learn which. Raises StoreUnavailable.
        """
        now, bounds = self.now(), self._mails.confirmation
        if not await self.limit.take(
            address, now, per_address=bounds.max_per_address, per_day=bounds.max_per_day
        ):
            log.info("personal_link", sent=False, why="too_often")
            return
        contact = await self.writer().contact(address)
        tag = contact.language if contact else None
        look = self.looks[brand]
        spoken = look.language_of(tag) if tag else lang
        confirmation = Confirmation("personal", address, brand, "", now, now + VALID_FOR, spoken)
        try:
            reply = await send(self.submit, self._mails.mail(confirmation, now))
        except RelayUnavailable as error:
            if error.certain:  # nothing was sent, so it does not count
                await self.limit.give_back(address, now)
            raise StoreUnavailable(str(error)) from error
        log.info("personal_link", sent=reply.code < 300, code=reply.code, brand=brand)

    # the kind `personal` of the confirmations

    def words(self, confirmation: Confirmation, lang: Lang) -> Mapping[str, str]:
        return {"brand": self.looks[confirmation.brand].title}

    async def confirm(
        self, confirmation: Confirmation, client: str, lang: Lang, form: Mapping[str, str]
    ) -> Response:
        """Do what a form asks for, then show what is stored. Raises StoreUnavailable."""
        notice = ""
        match form.get("do"):
            case "correct":
                notice = await self._correct(confirmation, form)
            case "prefer":
                notice = await self._prefer(confirmation, form)
            case "untrack":
                notice = await self._untrack(confirmation, lang)
            case "object":
                mark = Contact(confirmation.recipient, profiling_objected_at=self.now())
                await self.writer().put_contacts([ContactUpdate(mark, given=frozenset())])
                notice = "objected"
            case "erase":
                notice = await self._erase(confirmation) if form.get("sure") == "yes" else "unsure"
        if notice:
            log.info("personal_page", done=notice, brand=confirmation.brand)
        return await self._page(confirmation, lang, notice)

    async def _stored(self, confirmation: Confirmation) -> Stored:
        store = self.writer()
        return Stored(
            confirmation.recipient,
            await store.contact(confirmation.recipient),
            await store.suppressions(confirmation.recipient),
            await store.rectifications(confirmation.recipient),
        )

    async def _page(self, confirmation: Confirmation, lang: Lang, notice: str) -> Response:
        stored, look = await self._stored(confirmation), self.looks[confirmation.brand]
        text = page(stored, look, lang, self.now(), self.settings.retention.audit, notice)
        return HTMLResponse(text, headers=dict(look.headers))

    async def _correct(self, confirmation: Confirmation, form: Mapping[str, str]) -> str:
        stored = await self._stored(confirmation)
        if "occupations" not in form:
            return "nothing"
        known = Known(stored, self.looks[confirmation.brand], "en")
        stored_words = _occupations(known)
        words = {word.strip() for word in form["occupations"].split(",")} - {""}
        if len(words) > _MOST_WORDS or any(not _is_word(word) for word in words):
            return "nothing"
        language, audience = form.get("language"), form.get("audience", "")
        correction = Correction(
            language=language if language in PAGE_LANGS else None,
            audience=Audience(audience) if audience in _AUDIENCES else None,
            add_occupations=frozenset(words - stored_words),
            remove_occupations=frozenset(stored_words - words),
            brands=known.brands,
        )
        done = await self.writer().rectify(
            confirmation.recipient, correction, at=self.now(), reason=_by_the_person(confirmation)
        )
        return "corrected" if done is not None and done.changes else "nothing"

    async def _prefer(self, confirmation: Confirmation, form: Mapping[str, str]) -> str:
        """Record how often mail is wanted. Stopped mail is not resumed: that needs consent."""
        address, store, now = confirmation.recipient, self.writer(), self.now()
        stored, look = await self._stored(confirmation), self.looks[confirmation.brand]
        before = Known(stored, look, "en").wishes(now)
        wished = {purpose: form.get(f"often:{purpose}", "") for purpose in before}
        none = [
            SuppressionEntry(
                address, f"purpose:{purpose}", Origin.UNSUBSCRIBE, now, _by_the_person(confirmation)
            )
            for purpose, often in wished.items()
            if often == "none"
        ]
        if none:
            await store.add_suppressions(none)
        brand = confirmation.brand
        new = {
            purpose: Frequency(often)
            for purpose, often in wished.items()
            if often in _OFTEN and often != before[purpose]
        }

        def wishes(known: Contact | None) -> ContactUpdate | None:
            if known is None:
                return None
            told = tuple(
                Preference(each, often, said_last(known.preferences, each, brand, now), brand)
                for each, often in new.items()
            )
            return ContactUpdate(Contact(address, preferences=told), given=frozenset())

        done = await store.put_contact(address, wishes) if new else None
        return "preferred" if none or done is not None else "nothing"

    async def _untrack(self, confirmation: Confirmation, lang: Lang) -> str:
        """Withdraw consent to tracking from each brand of the controller that has it."""
        known = Known(await self._stored(confirmation), self.looks[confirmation.brand], lang)
        brands = known.tracking()
        for brand in brands:
            act = ConsentAct(TRACKING, self.now(), withdrawal=True, brand=brand)
            await self.writer().record_act(
                confirmation.recipient, act, only_if=lambda known: known is not None
            )
        return "preferred" if brands else "nothing"

    async def _erase(self, confirmation: Confirmation) -> str:
        """Erase the contact, not the audit log: the proof that mail was lawful is not the person's
        to destroy (RGPD 7(1), 17(3)(e))."""
        await self.writer().erase_contact(confirmation.recipient, at=self.now())
        try:
            await forget_reports(self.settings, confirmation.recipient)
        except (StoreUnavailable, OSError) as error:
            log.error("erasure_unfinished", error=str(error))
        return "erased"


def _by_the_person(confirmation: Confirmation) -> str:
    return f"by the person, on the page whose link was mailed on {confirmation.at:%Y-%m-%d}"


def _is_word(text: str) -> bool:
    return len(text) <= _LONGEST_WORD and text.isprintable()
