"""Counts and lists as people write them."""

from smtpproxy.terminal import counted, few


def test_a_count_of_one_uses_the_singular() -> None:
    assert counted(1, "contact") == "1 contact"
    assert counted(0, "contact") == "0 contacts"
    assert counted(1_200, "row remains", "rows remain") == "1,200 rows remain"


def test_of_many_names_the_most_similar_are_shown() -> None:
    names = [f"offers-{n}" for n in range(1, 1_501)]
    assert few(names[:20]) == ", ".join(names[:20])
    assert few(names) == ", ".join(names[:20]) + " and 1,480 more"
    assert few(names, "ofers-1234").startswith("offers-1234, ")
