import string
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproxy.mail.address import (
    AddressError,
    _read_on,
    _unquoted,
    canonical,
    compose,
    readings,
    widened,
)

SAME = [
    ("Jeanne.Dupont@Example.ORG", "jeanne.dupont@example.org"),
    ("a!#$%&'*+/=?^_`{|}~-z@x", "a!#$%&'*+/=?^_`{|}~-z@x"),
    # unnecessary quotes are removed; necessary ones get their shortest form
    ('"john.doe"@x.y', "john.doe@x.y"),
    ('"John\\.Doe"@x.y', "john.doe@x.y"),
    ('"a b"@x', '"a b"@x'),
    ('"a\\ b"@x', '"a b"@x'),
    ('"a@b"@x', '"a@b"@x'),
    ('"a\\"b\\\\"@x', '"a\\"b\\\\"@x'),
    ('""@x', '""@x'),
    # dots anywhere: some providers issued such addresses
    ("a..b.@docomo.ne.jp", "a..b.@docomo.ne.jp"),
    ('"a..b."@docomo.ne.jp', "a..b.@docomo.ne.jp"),
    # NFC and casefolding
    ("STRASSE@x", "strasse@x"),
    ("straße@x", "strasse@x"),
    ("JOSE\u0301@x", "jos\u00e9@x"),
    ("Ἀθῆναι@x", unicodedata.normalize("NFC", "ἀθῆναι@x")),
    # combining marks in another order are the same text
    ("\u1fb4@x", "\u03ac\u03b9@x"),
    ("\u03b1\u0345\u0301@x", "\u03ac\u03b9@x"),
    # a character that NFC turns into a special one is then quoted
    ("a\u037eb@x", '"a;b"@x'),
    # the domain
    ("a@x.example.", "a@x.example"),
    ("a@MÜNCHEN.de", "a@xn--mnchen-3ya.de"),
    ("a@XN--MNCHEN-3YA.de", "a@xn--mnchen-3ya.de"),
    ("a@münchen。de", "a@xn--mnchen-3ya.de"),
    ("a@ｇmail.com", "a@gmail.com"),
    ("a@straße.de", "a@xn--strae-oqa.de"),
    ("a@host_1.example", "a@host_1.example"),
    ("a@localhost", "a@localhost"),
    ("a@[192.0.2.1]", "a@[192.0.2.1]"),
    ("a@[IPv6:2001:DB8::1]", "a@[ipv6:2001:db8:0:0:0:0:0:1]"),
    ("a@[ipv6:2001:db8:0:0::1]", "a@[ipv6:2001:db8:0:0:0:0:0:1]"),
    ("a@[IPv6:::ffff:192.0.2.1]", "a@[ipv6:0:0:0:0:0:ffff:c000:201]"),
    ("x" * 200 + "@" + "y" * 63 + ".org", "x" * 200 + "@" + "y" * 63 + ".org"),
]


@pytest.mark.parametrize(("address", "expected"), SAME)
def test_canonical_form(address: str, expected: str) -> None:
    assert canonical(address) == expected


NO_ADDRESSES = [
    ("", "no @"),
    ("postmaster", "no @"),
    ("@x", "local part is empty"),
    ("a@", "domain"),
    ("a@b@c", "only in quotes"),
    ("a@x.example, b@x.example", "there is a second @, which is allowed only in quotes: write one"),
    *((f"a{character}b@x", "only in quotes") for character in '(),:;<>[\\]"'),
    *((f'"a%b{character}"@x', "beside a space") for character in (*" ,:;[]", '\\"', "\\\\")),
    *((f'"a{character}b"@x', "leave a part of it out") for character in "()<>"),
    ("a b@x", "only in quotes"),
    (" a@x", "only in quotes"),
    ("<a@x>", "only in quotes"),
    ("a@x>", "domain"),
    ("a\r\n@x", "control"),
    ("a@x\n", "domain"),
    ("a@x y", "domain"),
    ("a\x00@x", "control"),
    ('"a\r\nb"@x', "quoted local part is broken"),
    ('"a@x', "quoted local part is broken"),
    ('"a\\"@x', "quoted local part is broken"),
    ('"a"b@x', "quoted local part is broken"),
    ('"a"."b"@x', "quoted local part is broken"),
    ('a"b@x', "only in quotes"),
    ("a\udcff@x", "UTF-8"),
    ("a@\udcff", "internationalised"),
    ("a@x..y", "domain"),
    ("a@.x", "domain"),
    ("a@x..", "domain"),
    ("a@-x", "domain"),
    ("a@x-.y", "domain"),
    ("a@" + "y" * 64, "domain"),
    ("a@" + "y." * 127 + "yy", "253"),
    ("a@☕.us", "xn--"),
    ("a@STRA\u1e9eE.de", "write the one that is meant"),
    ("a@é" + "\u0301" * 300 + ".fr", "253"),
    ("a@[]", "address literal"),
    ("a@[192.0.2.11", "address literal"),
    ("a@[192.0.2.256]", "address literal"),
    ("a@[2001:db8::1]", "address literal"),
    ("a@[IPv6:fe80::1%eth0]", "address literal"),
    ("a@[tag:x]", "address literal"),
]


@pytest.mark.parametrize(("address", "said"), NO_ADDRESSES)
def test_an_invalid_address_is_reported(address: str, said: str) -> None:
    with pytest.raises(AddressError, match=said):
        canonical(address)


WIDENED = [
    ("jeanne@example.org", "jeanne@example.org"),
    ("jeanne+news@example.org", "jeanne@example.org"),
    ("jeanne+a+b@example.org", "jeanne@example.org"),
    ("jea.nne@example.org", "jea.nne@example.org"),
    ("jea.nne+x@gmail.com", "jeanne@gmail.com"),
    ("jeanne@googlemail.com", "jeanne@gmail.com"),
    ("jea.nne@mail.gmail.com", "jea.nne@mail.gmail.com"),
    ('"a b+tag"@x', '"a b"@x'),
    ('"a+ b"@x', "a@x"),
    ('"a. b"@gmail.com', '"a b"@gmail.com'),
    # a tag or dots stay if nothing else would be left
    ("+news@x", "+news@x"),
    ("...@gmail.com", "...@gmail.com"),
    ("josé+x@x", "josé@x"),
]


@pytest.mark.parametrize(("address", "expected"), WIDENED)
def test_widened_key(address: str, expected: str) -> None:
    assert widened(address) == expected


def test_compose_takes_a_local_part_without_its_quotes() -> None:
    assert compose('a "b"', "X") == '"a \\"b\\""@x'
    with pytest.raises(AddressError, match="control"):
        compose("a\nb", "x")


texts = st.text(st.characters(codec="utf-8"), max_size=12)
locals_ = st.one_of(
    st.text(string.ascii_letters + "0123456789.+-_!#$%&'*/=?^`{|}~", min_size=1, max_size=12),
    texts,
    st.text('aA.+ "\\@<>;é\u0301ſßİ\u0345', max_size=12).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
)
domains = st.one_of(
    st.sampled_from(
        ["example.org", "GMAIL.com", "googlemail.com.", "münchen.de", "[192.0.2.1]", "[IPv6:::1]"]
    ),
    texts,
)
candidates = st.builds(lambda local, domain: f"{local}@{domain}", locals_, domains)


def _canonical(address: str) -> str | None:
    try:
        return canonical(address)
    except AddressError:
        return None


@given(st.one_of(st.text(), candidates))
def test_canonicalizing_raises_only_its_own_error_and_is_idempotent(address: str) -> None:
    once = _canonical(address)
    if once is not None:
        assert canonical(once) == once


@given(candidates)
def test_a_widened_key_is_a_valid_address_and_idempotent(address: str) -> None:
    once = _canonical(address)
    if once is not None:
        key = widened(once)
        assert canonical(key) == key
        assert widened(key) == key


@given(locals_, domains)
def test_spellings_of_one_address_have_one_canonical_and_one_widened_form(
    local: str, domain: str
) -> None:
    first = _canonical(f"{local}@{domain}")
    if first is None:
        return
    quoted = local if local.startswith('"') else f'"{local}"'
    spellings = [f"{quoted}@{domain}", f"{unicodedata.normalize('NFD', quoted)}@{domain}"]
    if not domain.endswith("]"):
        spellings.append(f"{local}@{domain.removesuffix('.')}.")
    for spelling in spellings:
        assert _canonical(spelling) == first
        assert widened(canonical(spelling)) == widened(first)


def test_canonicalizing_every_character_is_idempotent() -> None:
    """Casefolding can undo normalization; U+0345 is where the naive order fails."""
    unsettled = []
    for code in range(0x80, 0x30000):
        if 0xD800 <= code < 0xE000:
            continue
        once = canonical(f"a\u0345{chr(code)}\u0345@x")
        if canonical(once) != once:
            unsettled.append(code)
    assert unsettled == []


@given(st.text("ab.%!+'", min_size=1, max_size=12).map("{}@b.test".format))
@example("a!b@b.test")
@example("a%b@b.test")
@example('"a@b"@b.test')
@example("a@b.uucp")
def test_the_fast_path_finds_the_same_readings(address: str) -> None:
    try:
        name = canonical(address)
        found = readings(name)
    except AddressError:
        return
    local, _, domain = name.rpartition("@")
    assert found == _read_on(_unquoted(local), domain)
