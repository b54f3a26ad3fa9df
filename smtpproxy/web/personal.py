"""The page of one person: what is stored about them, put right, objected to, erased.

Messages are forwarded, so an unsubscribe link does not lead here: a link that is mailed to the
address does, for a day (kind `personal` of the confirmations).
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog
from starlette.responses import HTMLResponse, Response

from smtpproxy.erasure import erase_record, forget_reports
from smtpproxy.locale import PAGE_LANGS, Lang, texts
from smtpproxy.locale.pages import environment
from smtpproxy.mail.confirmation_token import Confirmation
from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Frequency,
    Origin,
    Preference,
)
from smtpproxy.policy.rules.recipient import TRACKING
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.erase import StillWritten
from smtpproxy.store.counters import ConfirmationLimit
from smtpproxy.store.operations import Correction
from smtpproxy.store.protocols import ContactUpdate, Store, StoreUnavailable, SuppressionEntry
from smtpproxy.web.known import Known, Stored
from smtpproxy.web.look import Look
from smtpproxy.web.own_mail import RelayUnavailable, Submit, Writer, send
from smtpproxy.web.wishes import standing

VALID_FOR = timedelta(days=1)
_MOST_WORDS = 50  # occupations
_LONGEST_WORD = 200  # characters
_OFTEN = tuple(str(each) for each in Frequency)
_AUDIENCES = (Audience.CONSUMER, Audience.PROFESSIONAL)

log = structlog.get_logger(__name__)


def page(stored: Stored, look: Look, lang: Lang, notice: str = "") -> str:
    """Return the page; `notice` is what was just done."""
    known = Known(stored, look, lang)
    return (
        environment(lang)
        .get_template("personal.html")
        .render(
            look=look,
            notice=notice,
            contact=stored.contact,
            lines=known.lines(),
            languages=[(each, texts(each).language.name) for each in PAGE_LANGS],
            audiences=_AUDIENCES,
            audience=next((way.audience for way in known.collections()), None),
            occupations=sorted(_occupations(known)),
            tracked=bool(known.tracking()),
            wishes=[
                (each, look.label(each, lang), often) for each, often in known.wishes().items()
            ],
        )
    )


def _occupations(known: Known) -> frozenset[str]:
    return frozenset().union(*(way.occupations for way in known.collections()))


class PersonalPages:
    """Mails links to these pages, and carries out what is asked for on them.

    Raises ValueError where there is no `[confirmation]`.
    """

    def __init__(
        self,
        settings: Settings,
        writer: Callable[[], Store],
        submit: Submit,
        limit: ConfirmationLimit,
        looks: Mapping[str, Look],
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._writer = writer
        self._submit = submit
        self._limit = limit
        self._looks = looks
        self._now = now
        self._mails = Writer(settings)
        self._erasing = asyncio.Lock()
        self._work: set[asyncio.Task[None]] = set()

    async def send(self, address: str, brand: str, lang: Lang) -> None:
        """Mail a link to an address, unless it may not be mailed, or was too often.

        Which of them is not told. Raises StoreUnavailable.
        """
        now, bounds = self._now(), self._mails.confirmation
        if not await self._limit.take(
            address, now, per_address=bounds.max_per_address, per_day=bounds.max_per_day
        ):
            log.info("personal_link", sent=False, why="too_often")
            return
        contact = await self._writer().contact(address)
        tag = contact.language if contact else None
        look = self._looks[brand]
        spoken = look.language_of(tag) if tag else lang
        told = Confirmation("personal", address, brand, "", now, now + VALID_FOR, spoken)
        try:
            reply = await send(self._submit, self._mails.mail(told, now))
        except RelayUnavailable as error:
            if error.certain:  # nothing was sent, so it is not one of the day's
                await self._limit.give_back(address, now)
            raise StoreUnavailable(str(error)) from error
        log.info("personal_link", sent=reply.code < 300, code=reply.code, brand=brand)

    # the kind `personal` of the confirmations

    def words(self, told: Confirmation, lang: Lang) -> Mapping[str, str]:
        return {"brand": self._looks[told.brand].title}

    async def confirm(
        self, told: Confirmation, client: str, lang: Lang, form: Mapping[str, str]
    ) -> Response:
        """Do what a form asks for, and show what is stored then. Raises StoreUnavailable."""
        notice = ""
        match form.get("do"):
            case "correct":
                notice = await self._correct(told, form)
            case "prefer":
                notice = await self._prefer(told, form)
            case "untrack":
                notice = await self._untrack(told, lang)
            case "object":
                mark = Contact(told.recipient, profiling_objected_at=self._now())
                await self._writer().put_contacts([ContactUpdate(mark, given=frozenset())])
                notice = "objected"
            case "erase":
                notice = await self._erase(told) if form.get("sure") == "yes" else "unsure"
        if notice:
            log.info("personal_page", done=notice, brand=told.brand)
        return await self._page(told, lang, notice)

    async def _stored(self, told: Confirmation) -> Stored:
        store = self._writer()
        return Stored(
            told.recipient,
            await store.contact(told.recipient),
            await store.suppressions(told.recipient),
            await store.rectifications(told.recipient),
        )

    async def _page(self, told: Confirmation, lang: Lang, notice: str) -> Response:
        stored, look = await self._stored(told), self._looks[told.brand]
        return HTMLResponse(page(stored, look, lang, notice), headers=dict(look.headers))

    async def _correct(self, told: Confirmation, form: Mapping[str, str]) -> str:
        stored = await self._stored(told)
        if stored.contact is None or "occupations" not in form:
            return "nothing"
        known = Known(stored, self._looks[told.brand], "en")
        there = _occupations(known)
        said = {word.strip() for word in form["occupations"].split(",")} - {""}
        if len(said) > _MOST_WORDS or any(not _is_word(word) for word in said):
            return "nothing"
        language, audience = form.get("language"), form.get("audience", "")
        correction = Correction(
            language=language if language in PAGE_LANGS else None,
            audience=Audience(audience) if audience in _AUDIENCES else None,
            add_occupations=frozenset(said - there),
            remove_occupations=frozenset(there - said),
            brands=known.brands,
        )
        done = await self._writer().rectify(
            told.recipient, correction, at=self._now(), reason=_by_the_person(told)
        )
        return "corrected" if done is not None and done.changes else "nothing"

    async def _prefer(self, told: Confirmation, form: Mapping[str, str]) -> str:
        """Note how often mail is wanted. What was stopped is not resumed: that takes consent."""
        address, store, now = told.recipient, self._writer(), self._now()
        contact = await store.contact(address)
        wished = {
            purpose: form.get(f"often:{purpose.lower()}", "")
            for purpose in self._looks[told.brand].labels
        }
        none = [
            SuppressionEntry(
                address, f"purpose:{purpose}", Origin.UNSUBSCRIBE, now, _by_the_person(told)
            )
            for purpose, often in wished.items()
            if often == "none"
        ]
        if none:
            await store.add_suppressions(none)
        before = {} if contact is None else standing(contact, told.brand)
        wishes = tuple(
            Preference(purpose, Frequency(often), now, told.brand)
            for purpose, often in wished.items()
            if often in _OFTEN and often != before.get(purpose, Frequency.ALL)
        )
        if wishes and contact is not None:
            told_now = ContactUpdate(Contact(address, preferences=wishes), given=frozenset())
            await store.put_contacts([told_now])
        return "preferred" if none or (wishes and contact is not None) else "nothing"

    async def _untrack(self, told: Confirmation, lang: Lang) -> str:
        """Withdraw the consent to tracking from each brand of the controller that has it."""
        known = Known(await self._stored(told), self._looks[told.brand], lang)
        brands = known.tracking()
        for brand in brands:
            act = ConsentAct(TRACKING, self._now(), withdrawal=True, brand=brand)
            await self._writer().record_act(told.recipient, act)
        return "preferred" if brands else "nothing"

    async def _erase(self, told: Confirmation) -> str:
        """Erase what decides about mail now, and the person from the record behind it."""
        await self._writer().erase_contact(told.recipient, at=self._now())
        task = asyncio.create_task(self._erase_record(told.recipient))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return "erased"

    async def _erase_record(self, address: str) -> None:
        async with self._erasing:
            try:
                await forget_reports(self._settings, address)
                rows, behind = await erase_record(self._settings, address, self._now())
            # `contact erase` goes on with it
            except (StillWritten, StoreUnavailable, OSError) as error:
                log.error("erasure_unfinished", error=str(error))
            else:
                log.info("erased_from_record", rows=rows, relays_to_follow=list(behind))


def _by_the_person(told: Confirmation) -> str:
    return f"by the person, on the page whose link was mailed on {told.at:%Y-%m-%d}"


def _is_word(text: str) -> bool:
    return len(text) <= _LONGEST_WORD and text.isprintable()
