"""Addresses as people write them, how MTAs may read them, and whole domains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.address import (
    MAX_READINGS,
    AddressError,
    AmbiguousAddress,
    canonical,
    domains_over,
    names_domain,
    readings,
    whole_domain,
)
from smtpproxy.mail.mailboxes import entered, entered_name, recorded

READ = [
    ("user@example.com", []),
    ("hello!@example.com", []),
    ("100%@example.com", []),
    ("!@example.com", []),
    ('"a b"@example.com', []),
    ("user%x.test@localhost", ["user@x.test"]),
    ("x.test!user@localhost", ["user@x.test"]),
    ('"user@x.test"@localhost', ["user@x.test"]),
    ('"User@X.test"@[192.0.2.1]', ["user@x.test"]),
    ("a%b%c@d", ["a%b@c", "a@b"]),
    ("c!b!a@d", ["b!a@c", "a@b"]),
    ("b!a%c@d", ["b!a@c", "a%c@b", "a@b", "a@c"]),
    ("a%b%@c", ["a@b"]),
    ("!b!a@c", ["a@b"]),
    ("user%bücher.test@x", ["user@xn--bcher-kva.test"]),
    ("user@x.test.uucp", ["user@x.test"]),
    ("a%b.uucp@c", ["a@b.uucp", "a@b"]),
    ('"user@x.test.."@y', ["user@x.test"]),  # for Sendmail
    ("..x.test..!user@y", ["user@x.test"]),
    ("user%vict\u200dim.test@x", None),  # some MTAs drop characters that are not allowed
    ("fa\u1e9e.test!user@x", None),
    ("user%&a.x.test@y", None),  # below *.x.test, for Sendmail
    ("a_!b?.x.test!user@y", None),
    ("user%&a@y", []),
    ("user%stra\u00dfe.test@x", None),  # the canonical form has ss
    ("\u03b2\u03cc\u03bb\u03bf\u03c2.test!user@x", None),
    ("stra\u00dfe%x.test@localhost", ["strasse@x.test"]),
    ("user%[192.0.2.1@x", None),
    ('"user @x.test"@y', None),
    ('"(x)user"@y', None),  # Sendmail delivers these to user@y
    ('"<user>"@y', None),
    (r'"user\(x\)+z"@y', None),
    ('"x.test!(note)user"@y', None),
    ("%".join("abcdefghijklmnopqr") + "@x", None),
    ("!%" * 5_000 + "@x", None),
]


@pytest.mark.parametrize(("address", "expected"), READ, ids=[str(n) for n in range(len(READ))])
def test_other_addresses_an_mta_may_read(address: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(AddressError):
            canonical(address)
    else:
        assert sorted(readings(canonical(address))) == sorted(expected)


def test_addresses_recorded_before_they_were_refused_have_a_form() -> None:
    assert recorded('"(X)anna"@Example.com') == '"(x)anna"@example.com'
    assert recorded(' "a B%c.test"@example.com,', entered) == '"a b%c.test"@example.com'
    assert recorded("A%\u2665\u200d.test@example.com") == "a%\u2665\u200d.test@example.com"
    assert recorded("@example.com", entered_name) == "@example.com"
    for never in ("anna", "%".join("abcdefghijklmnopqr") + "@x", '"(a%b%' + "c%" * 20 + 'd"@x'):
        with pytest.raises(AddressError):
            recorded(never)


def test_too_many_readings_are_refused() -> None:
    most = "%".join(["u", *(f"d{n}" for n in range(MAX_READINGS))])
    assert len(readings(canonical(f"{most}@x"))) == MAX_READINGS
    with pytest.raises(AmbiguousAddress, match="more than 16 other addresses"):
        canonical(f"{most}%more@x")


@given(st.text('ab.%!@"', max_size=24))
def test_readings_are_addresses_and_closed_under_reading(local: str) -> None:
    for address in (f"{local}@x", f'"{local}"@x'):
        try:
            settled = canonical(address)
        except AddressError:
            continue
        found = readings(settled)
        assert len(found) <= MAX_READINGS
        for one in found:
            assert canonical(one) == one
            assert set(readings(one)) <= set(found)


WRITTEN = [
    ("  user@x.test\t", "user@x.test"),
    ("\ufeffuser@x.test\u200b\u202c", "user@x.test"),
    ("\u00a0<user@x.test>\u00a0", "user@x.test"),
    ("MAILTO:user@x.test", "user@x.test"),
    ("<mailto:us%65r@x.test?subject=a,b>;", "user@x.test"),
    ("“user@x.test”", "user@x.test"),
    ("'user@x.test',", "user@x.test"),
    ("user@x.test.", "user@x.test"),
    ('"a b"@x.test', '"a b"@x.test'),
    ("o'neil@x.test", "o'neil@x.test"),
    ("jos\u0065\u0301@x.test", "josé@x.test"),
    ("user@bücher。test", "user@xn--bcher-kva.test"),
    ("user@ｘ.test", "user@x.test"),
    ("o\ufb03ce@x.test", "office@x.test"),  # the way mail to it is matched
    ("ทำ@x.test", "ทำ@x.test"),
    ("և@x.test", "եւ@x.test"),
    ("한글@x.test", "한글@x.test"),
]


@pytest.mark.parametrize(("text", "expected"), WRITTEN)
def test_surrounding_text_is_removed(text: str, expected: str) -> None:
    assert entered(text) == entered_name(text) == expected


REFUSED = [
    ("", "there is no @"),
    ("\u200b", "there is no @"),
    ("us\u200ber@x.test", "U+200B ZERO WIDTH SPACE, which is invisible"),
    ("user@x\u00ad.test", "U+00AD SOFT HYPHEN"),
    ("user\u202a@x.test", "U+202A LEFT-TO-RIGHT EMBEDDING"),
    ("us\ufe0fer@x.test", "U+FE0F VARIATION SELECTOR-16"),
    ("us\u00a0er@x.test", "U+00A0 NO-BREAK SPACE"),
    ("us\x00er@x.test", "U+0000"),
    ("us er@x.test", "only in quotes"),
    ("ｕser@x.test", "U+FF55 FULLWIDTH LATIN SMALL LETTER U, which no mailbox has: write u"),
    ("ﾀﾛｳ@x.test", "U+FF80 HALFWIDTH KATAKANA LETTER TA"),
    ("user\ufe6bx.test", "U+FE6B SMALL COMMERCIAL AT"),
    ("Bob <bob@x.test>", "only in quotes"),
    ("a@x.test,b@x.test", "only in quotes"),
    ("b*@x.test", "other patterns are written out"),
    ("b@*.test", "other patterns are written out"),
    ("x" * 3_000 + "@x.test", "longer than 2000"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED)
def test_an_entry_that_could_never_match_is_reported(text: str, said: str) -> None:
    for read in (entered, entered_name):
        with pytest.raises(AddressError) as caught:
            read(text)
        assert said in str(caught.value)
        assert len(str(caught.value)) < 400


@given(st.text(max_size=40) | st.text('@*."<>,;ab\u200b\uff42', max_size=12))
def test_an_entry_is_canonical(text: str) -> None:
    try:
        name = entered_name(text)
    except AddressError:
        return
    assert entered_name(name) == name
    assert whole_domain(name) == name if names_domain(name) else canonical(name) == name


DOMAINS = [
    ("@X.test", "@x.test"),
    ("*@x.test", "@x.test"),
    ("*.x.test", "*.x.test"),
    ("@*.x.test", "*.x.test"),
    ("*@*.x.test", "*.x.test"),
    (" <@x.test.>,", "@x.test"),
    ("@bücher.test", "@xn--bcher-kva.test"),
    ("@[192.0.2.1]", "@[192.0.2.1]"),
    ("@localhost", "@localhost"),
]


@pytest.mark.parametrize(("text", "expected"), DOMAINS)
def test_an_entry_for_a_whole_domain(text: str, expected: str) -> None:
    assert entered_name(text) == expected
    with pytest.raises(AddressError, match="a single address is needed"):
        entered(text)


@pytest.mark.parametrize(
    "text",
    ["@", "*@", "*", "*.", "*.test", "*.[192.0.2.1]", "@.x.test", "**@x.test", "*@*", "@a@x.test",
     "*.*.x.test", "*.a@x.test", "@x.te\u200bst", "*x.test", "@x*.test"],
)  # fmt: skip
def test_any_other_pattern_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        entered_name(text)


def test_the_parent_domains_of_an_address() -> None:
    assert domains_over("a@x.y.test") == ("@x.y.test", "*.x.y.test", "*.y.test")
    assert domains_over("a@localhost") == ("@localhost",)
    assert domains_over("a@[192.0.2.1]") == ("@[192.0.2.1]",)
    assert domains_over("*.y.test") == ("*.y.test",)
