"""The public pages in a browser: accessible (WCAG 2.2 AA) and within the window."""

from pathlib import Path

import pytest

from smtpproxy.locale import PAGE_LANGS
from tests.kit import axe
from tests.kit.chromium import Chromium
from tests.kit.page_pictures import SIZES, pages, shop

pytestmark = pytest.mark.needs("chromium", "axe")


def test_pages_are_accessible_and_fit_the_window(tmp_path: Path) -> None:
    look = shop(tmp_path)
    with Chromium(tmp_path / "profile") as browser:
        for lang in PAGE_LANGS:
            for state, page in pages(look, lang).items():
                browser.show(page)
                for width, dark in ((1280, False), (SIZES["phone"], True), (320, False)):
                    browser.resize(width, dark=dark)
                    shown = browser.run("document.documentElement.scrollWidth")
                    assert shown <= width, f"{state}-{lang} is {shown} wide on {width}"
                    if lang == "en" and width != 320:  # axe's checks do not depend on the language
                        rules = [[*axe.COLOURS, "target-size"]] if dark else []
                        assert axe.faults(browser, *rules) == [], f"{state} on {width}"
        asked = {url.partition(":")[0] for url in browser.requested()}
        assert asked == {"data"}, "only the logo may be loaded"
