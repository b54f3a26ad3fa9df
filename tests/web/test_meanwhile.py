"""Writes by others between a page's read and its own write take precedence."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy import recorded_consent
from smtpproxy.policy.model import ConsentAct, Contact, Evidence, Frequency, Origin, Preference
from smtpproxy.recorded_consent import NotConfirmable
from smtpproxy.store.records import SuppressionEntry
from tests.kit.store import before_next_write
from tests.web import test_confirmation as confirming
from tests.web import test_personal as personal
from tests.web import test_wishes as wishing
from tests.web.test_confirmation import LEA, YES
from tests.web.test_wishes import FOLLOWED, JEANNE, SUBSCRIBER, T0, TRACKED

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[confirming.Site]:
    found = confirming.Site(confirming.configured(tmp_path))
    yield found
    await found.client.aclose()
    found.limit.close()
    await found.store.close()


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[wishing.Site]:
    found = wishing.Site(tmp_path, TRACKED)
    await found.store.put_contacts([replace(SUBSCRIBER, acts=(*SUBSCRIBER.acts, FOLLOWED))])
    yield found
    await found.client.aclose()
    await found.store.close()


class TestConfirming:
    async def test_an_erased_person_stays_erased(self, site: confirming.Site) -> None:
        path = await site.asked(source="direct")
        site.now += MINUTE
        before_next_write(site.store, lambda: site.store.erase_contact(LEA, at=site.now))
        assert (await site.client.post(path, data=YES)).status_code == 410
        assert await site.store.contact(LEA) is None

    async def test_a_withdrawal_meanwhile_remains(self, site: confirming.Site) -> None:
        path = await site.asked()
        site.now += MINUTE
        withdrawal = ConsentAct("offers", site.now, withdrawal=True)
        before_next_write(site.store, lambda: site.store.record_act(LEA, withdrawal))
        assert (await site.client.post(path, data=YES)).status_code == 410
        assert [act.withdrawal for act in await site.acts()] == [False, True]

    async def test_a_second_click_adds_no_act(self, site: confirming.Site) -> None:
        path = await site.asked()
        before_next_write(site.store, lambda: site.client.post(path, data=YES))
        assert "already" in (await site.client.post(path, data=YES)).text
        assert [act.pending for act in await site.acts()] == [True, False]

    async def test_a_suppression_outweighs_the_confirmation(self, site: confirming.Site) -> None:
        path = await site.asked()

        async def later() -> None:
            site.now += MINUTE
            order = SuppressionEntry(LEA, "marketing", Origin.UNSUBSCRIBE, site.now)
            await site.store.add_suppressions([order])

        before_next_write(site.store, later)
        assert (await site.client.post(path, data=YES)).status_code == 200
        *_, act = await site.acts()
        (order,) = await site.store.suppressions(LEA)
        assert act.at < order.since

    async def test_a_confirmation_by_command_or_api(self, site: confirming.Site) -> None:
        await site.asked()
        yes = ConsentAct("offers", site.now + MINUTE, method="double_opt_in",
                         evidence=Evidence("w"))  # fmt: skip
        before_next_write(site.store, lambda: site.store.erase_contact(LEA, at=site.now))
        with pytest.raises(NotConfirmable):
            await recorded_consent.record(site.settings, site.store, LEA, yes, confirm=True)
        assert await site.store.contact(LEA) is None


class TestTheLinkInAMessage:
    @pytest.mark.parametrize(
        "form", [{"do": "prefer", "often:offers": "weekly"}, {"do": "untrack"}]
    )
    async def test_an_erased_person_stays_erased(
        self, page: wishing.Site, form: dict[str, str]
    ) -> None:
        before_next_write(page.store, lambda: page.store.erase_contact(JEANNE, at=T0))
        assert (await page.client.post(page.link(), data=form)).status_code == 200
        assert await page.store.contact(JEANNE) is None

    async def test_a_stricter_limit_stays(self, page: wishing.Site) -> None:
        monthly = Preference("offers", Frequency.MONTHLY, T0, "shop")
        wish = Contact(JEANNE, preferences=(monthly,))
        before_next_write(page.store, lambda: page.store.put_contacts([wish]))
        await wishing.prefer(page, offers="weekly")
        assert await page.wishes() == {"shop/offers": "monthly"}

    async def test_undo_keeps_a_newer_limit(self, page: wishing.Site) -> None:
        saved = await wishing.prefer(page, offers="weekly")
        monthly = Preference("offers", Frequency.MONTHLY, T0 + MINUTE, "shop")
        wish = Contact(JEANNE, preferences=(monthly,))
        before_next_write(page.store, lambda: page.store.put_contacts([wish]))
        await page.undo(page.link(), saved, 2 * MINUTE)
        assert await page.wishes() == {"shop/offers": "monthly"}


@pytest.mark.parametrize("form", [{"do": "prefer", "often:offers": "weekly"}, {"do": "untrack"}])
async def test_on_the_personal_page_an_erased_person_stays_erased(
    tmp_path: Path, form: dict[str, str]
) -> None:
    person = personal.Site(tmp_path)
    tracked = ConsentAct("tracking", T0, method="unticked_box", evidence=Evidence("w"))
    await person.store.put_contacts([replace(personal.WHOLE, acts=(tracked,))])
    link = await person.link()
    before_next_write(person.store, lambda: person.store.erase_contact(JEANNE, at=T0))
    await person.post(link, **form)
    assert await person.store.contact(JEANNE) is None
    await person.client.aclose()
    person.limit.close()
    await person.store.close()
