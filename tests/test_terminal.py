"""Counts as people write them."""

from smtpproxy.terminal import counted


def test_one_is_no_plural() -> None:
    assert counted(1, "contact") == "1 contact"
    assert counted(0, "contact") == "0 contacts"
    assert counted(1_200, "row remains", "rows remain") == "1,200 rows remain"
