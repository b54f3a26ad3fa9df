"""The pages for people in a browser: nobody is kept out (WCAG 2.2 AA), nothing sticks out."""

from pathlib import Path

import pytest

from smtpproxy.locale import PAGE_LANGS
from tests.kit import axe
from tests.kit.chromium import Chromium
from tests.kit.page_pictures import SIZES, pages, shop

pytestmark = pytest.mark.needs("chromium", "axe")


def test_nobody_is_kept_out_and_nothing_sticks_out(tmp_path: Path) -> None:
    look = shop(tmp_path)
    with Chromium(tmp_path / "profile") as browser:
        for lang in PAGE_LANGS:
            for state, page in pages(look, lang).items():
                browser.show(page)
                for width, dark in ((1280, False), (SIZES["phone"], True), (320, False)):
                    browser.resize(width, dark=dark)
                    shown = browser.run("document.documentElement.scrollWidth")
                    assert shown <= width, f"{state}-{lang} is {shown} wide on {width}"
                    if lang == "en" and width != 320:  # what axe looks at is no matter of language
                        rules = [[*axe.COLOURS, "target-size"]] if dark else []
                        assert axe.faults(browser, *rules) == [], f"{state} on {width}"
        asked = {url.partition(":")[0] for url in browser.requested()}
        assert asked == {"data"}, "nothing is loaded but the logo"
