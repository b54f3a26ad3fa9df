import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.mail.mailboxes import MailboxError, addresses

READ = [
    (b"jeanne@Example.org", ["jeanne@example.org"]),
    (b"<jeanne@example.org>", ["jeanne@example.org"]),
    (b"Jeanne Dupont <jeanne@example.org>", ["jeanne@example.org"]),
    (b"John Q. Public <john@example.org>", ["john@example.org"]),
    (b'"The, Shop: <x@evil.example>" <shop@example.org>', ["shop@example.org"]),
    (b'"a \\" quote" <shop@example.org>', ["shop@example.org"]),
    (b'"two" "strings" <shop@example.org>', ["shop@example.org"]),
    (b"=?utf-8?Q?Caf=C3=A9?= <cafe@example.org>", ["cafe@example.org"]),
    (b"=?utf-8?B?eEBldmlsLmV4YW1wbGU=?= <cafe@example.org>", ["cafe@example.org"]),
    (b"Caf\xe9 <cafe@example.org>", ["cafe@example.org"]),
    ("Café <café@münchen.de>".encode(), ["café@xn--mnchen-3ya.de"]),
    (b"jeanne@example.org (Jeanne (at work) \\) <x@evil.example>)", ["jeanne@example.org"]),
    (b"(c) jeanne (c) @ (c) example.org", ["jeanne@example.org"]),
    (b"jeanne . dupont @ example.org", ["jeanne.dupont@example.org"]),
    (b'"jeanne dupont"@example.org', ['"jeanne dupont"@example.org']),
    (b'"jeanne"."dupont"@example.org', ["jeanne.dupont@example.org"]),
    (b'"x@evil.example"@example.org', ['"x@evil.example"@example.org']),
    (b"a@[192.0.2.1]", ["a@[192.0.2.1]"]),
    (b"a@x, B <b@y> ,, c@z,", ["a@x", "b@y", "c@z"]),
    (b"Team: a@x, B <b@y>;", ["a@x", "b@y"]),
    (b"x" * 242 + b" <a@b.test>, " + b"x" * 242 + b" <a@b.test>", ["a@b.test"] * 2),
    (b"xxx " * 84 + b"<a@b.test>", ["a@b.test"]),  # the display name is ignored
    (b"=?utf-8?q?" + b"=D0=BC" * 10 + b"?= " * 7 + b"<a@b.test>", ["a@b.test"]),
    (b"Shop@Example.org <shop@example.org>", ["shop@example.org"]),  # the same address either way
    (b"Team: a@x;, c@z, Others: ;", ["a@x", "c@z"]),
    (b"a\t<a@x>\t", ["a@x"]),
    (b"Undisclosed: ;", []),
    (b"(only a comment)", []),
    (b"", []),
]


@pytest.mark.parametrize(("value", "expected"), READ)
def test_the_addresses_of_a_field(value: bytes, expected: list[str]) -> None:
    assert list(addresses(value)) == expected


UNREADABLE = [
    (b"Jeanne", "a name without an address"),
    (b"<>", "no address between"),
    (b"Jeanne <Dupont>", "a name without an address"),
    (b"Shop, Inc. <shop@example.org>", "a name without an address"),
    (b"Shop @ Home <shop@example.org>", "double quotes"),
    (b"shop@evil.example <shop@example.org>", "double quotes"),
    (b"x@example.org <shop@example.org>", "double quotes"),
    (b"a@x <a@x>, a@x <b@y>", "double quotes"),
    (b"a@x b@y <b@y>", "double quotes"),
    (b"x" * 244 + b" <a@b.test>", "has 255 octets is cut"),
    (b'a@x, "' + b"x, " * 80 + b'" <a@b.test>', "octets is cut"),
    ("é".encode() * 122 + b" <a@b.test>", "octets is cut"),
    (b"Team: a@x, " + b"x" * 244 + b" <a@b.test>;", "octets is cut"),
    (b"x " * 126 + b" <a@b.test>", "octets is cut"),
    (b"xxx " * 150 + b"<a@b.test>", "octets is cut"),
    (b"xxx " * 84 + b"y" * 255 + b" <a@b.test>", "octets is cut"),
    (b"Shop <" + b"a." * 22 + b"a@" + b"b." * 100 + b"test>", "octets is cut"),
    (b"(" + b"c" * 244 + b") a@b.test", "octets is cut"),
    (b"[Shop] <shop@example.org>", "double quotes"),
    (b"Shop: the best <shop@example.org>", "a group is opened"),
    (b"Shop; <shop@example.org>", "without a group"),
    (b": a@x;", "without a group name"),
    (b"a@x: b@x;", "a name contains @"),
    (b"A: B: a@x;", "without a group name"),
    (b"a@x b@y", "one @"),
    (b"a@b@x", "one @"),
    (b"<a@x> <b@y>", "comma is missing"),
    (b"<a@x> b", "comma is missing"),
    (b"Team: a@x; b@y", "comma is missing"),
    (b"a b@x", "space"),
    (b"a@x y", "space"),
    (b"@x", "local-part@domain"),
    (b"a@", "local-part@domain"),
    (b"<a@x", "not closed with >"),
    (b"a <a <b@x>>", "inside < >"),
    (b"<a:b@x>", "inside < >"),
    (b"<@a,b:b@x>", "inside < >"),
    (b"<@a:@b:b@x>", "inside < >"),
    (b"<@evil.example,@[192.0.2.9]:a@x>", "inside < >"),  # Mail::Address reads evil.example
    (b"<,@evil.example:a@x>", "inside < >"),
    (b"a@evil.example .x", "the domain of an address contains a space"),  # Ruby: evil.example
    (b"a@evil.example(c).x", "contains a space or a comment"),  # mailparser: evil.example
    (b"a>", "without a <"),
    (b'"a <a@x>', "quoted string is opened"),
    (b"(a <a@x>", "comment is opened"),
    (b") a@x", "outside quotes"),
    (b"a@\\x", "outside quotes"),
    (b"a\0@x", "U\\+0000"),
    (b"a@x[192.0.2.1]", "an address contains"),
    (b'a@"x"', "an address contains"),
    (b"a@-x", "domain"),
    (b"caf\xe9@example.org", "UTF-8"),
    (b"a" * 20_000 + b"@x", "longer than"),
]


@pytest.mark.parametrize(("value", "said"), UNREADABLE)
def test_an_ambiguous_field_is_an_error(value: bytes, said: str) -> None:
    with pytest.raises(MailboxError, match=said):
        addresses(value)


@given(st.text('aé <>@.,:;"\\()[]=?1\0', max_size=30))
def test_only_its_own_error_is_raised(text: str) -> None:
    try:
        found = addresses(text.encode())
    except MailboxError:
        return
    assert all("@" in address for address in found)


atoms = st.text("abc-", min_size=1, max_size=4)
emails = st.builds("{}@{}.example".format, atoms, st.sampled_from(["x", "y1"]))
names = st.sampled_from(["", "Jeanne ", '"a, <b@c>" ', "=?utf-8?q?a?= ", "(c (d)) ", "J. Q. "])


@given(st.lists(st.tuples(names, emails, st.sampled_from([", ", ",", " (c),"])), max_size=5))
def test_every_address_that_was_written_is_found(written: list[tuple[str, str, str]]) -> None:
    value = "".join(f"{name}<{email}>{comma}" for name, email, comma in written)
    assert list(addresses(value.encode())) == [email for _, email, _ in written]
    assert addresses(f"Group: {value};".encode()) == addresses(value.encode())


@pytest.mark.parametrize(
    ("name", "folds", "left"), [("xx " * 77, 13, True), ("xx " * 77, 14, False)]
)
def test_line_ends_count_when_mtas_cut_an_address(name: str, folds: int, left: bool) -> None:
    value = f"{name}<a@b.test>".encode()
    if left:
        assert addresses(value, folds) == ("a@b.test",)
        return
    with pytest.raises(MailboxError, match="is cut by some MTAs"):
        addresses(value, folds)
