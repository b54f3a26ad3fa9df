"""What a scope holds for once its name is gone from the configuration."""

import pytest
from msgspec.structs import replace

from smtpproxy.policy.scopes import Scopes
from tests.policy.cases import OFFERS

SHOP = replace(OFFERS, brand="shop", purpose="offers")
SCOPES = Scopes.of({"offers": SHOP}, ["mill"])


@pytest.mark.parametrize(
    ("scope", "known"),
    [
        ("all", True),
        ("marketing", True),
        ("brand:shop", True),
        ("brand:mill", True),
        ("brand:boutique", False),
        ("purpose:offers", True),
        ("purpose:news", False),
    ],
)
def test_which_scopes_exist(scope: str, known: bool) -> None:
    assert SCOPES.knows(scope) is known


def test_an_old_link_of_a_name_that_is_gone_stops_what_links_stop_now() -> None:
    adds = replace(SHOP, unsubscribe_scope="brand:shop")
    assert SCOPES.of_link("brand:mill", None) == "brand:mill"
    assert SCOPES.of_link("brand:boutique", adds) == "brand:shop"
    assert SCOPES.of_link("purpose:news", SHOP) == "purpose:offers"
    assert SCOPES.of_link("purpose:news", replace(SHOP, purpose=None)) == "marketing"
    assert SCOPES.of_link("purpose:news", None) == "marketing"
