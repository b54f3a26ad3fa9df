"""The SASL machines, with the RFCs' examples and with arbitrary input."""

import base64
import hmac
from hashlib import pbkdf2_hmac, sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.wire.sasl import (
    Challenge,
    CheckPassword,
    Login,
    Mechanism,
    NotPreparable,
    Plain,
    Proven,
    Refused,
    ScramKeys,
    ScramSha256,
    is_user_name,
    saslprep,
)
from tests.wire.feeding import quick

# RFC 7677, section 3
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
KEYS = ScramKeys.of("pencil", SALT, 4096)


def machine() -> ScramSha256:
    return ScramSha256(lambda user: KEYS, SERVER_NONCE)


def test_the_example_of_rfc_7677() -> None:
    scram = machine()
    assert scram.step(CLIENT_FIRST) == Challenge(SERVER_FIRST)
    assert scram.step(CLIENT_FINAL) == Challenge(SERVER_FINAL)
    assert scram.step(b"") == Proven("user")


def test_a_client_that_supports_channel_binding_need_not_use_it() -> None:
    assert isinstance(machine().step(b"y" + CLIENT_FIRST[1:]), Challenge)


def test_scram_without_an_initial_response() -> None:
    scram = machine()
    assert scram.step(None) == Challenge(b"")
    assert scram.step(CLIENT_FIRST) == Challenge(SERVER_FIRST)


@pytest.mark.parametrize(
    "final",
    [
        CLIENT_FINAL.replace(b"p=dHz", b"p=dHy"),
        CLIENT_FINAL.replace(b"c=biws", b"c=eSws"),  # y,, although the first message said n,,
        CLIENT_FINAL.replace(b"NlF$k0", b"NlF$k1"),
        CLIENT_FINAL.replace(b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b"p=AAAA"),
    ],
)
def test_a_wrong_proof_is_rejected(final: bytes) -> None:
    scram = machine()
    scram.step(CLIENT_FIRST)
    assert scram.step(final) == Refused(user="user")


def proven(said: bytes) -> bytes:
    """A final message with the right proof for its text."""
    key = hmac.digest(pbkdf2_hmac("sha256", b"pencil", SALT, 4096), b"Client Key", "sha256")
    signed = b",".join([CLIENT_FIRST.removeprefix(b"n,,"), SERVER_FIRST, said])
    signature = hmac.digest(sha256(key).digest(), signed, "sha256")
    return (
        said + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))
    )


def test_a_proof_for_different_earlier_messages_is_rejected() -> None:
    said = CLIENT_FINAL.partition(b",p=")[0]
    assert proven(said) == CLIENT_FINAL
    for other in (said.replace(b"biws", b"eSws"), said + b"x", said.replace(b"%hv", b"%hV")):
        scram = machine()
        scram.step(CLIENT_FIRST)
        assert scram.step(proven(other)) == Refused(user="user")


@pytest.mark.parametrize(
    "final",
    [
        b"",
        CLIENT_FINAL.replace(b",p=", b"p="),
        CLIENT_FINAL.replace(b",p=", b",x="),
        CLIENT_FINAL.replace(b"c=", b"x="),
        CLIENT_FINAL.replace(b"c=biws,", b""),
        CLIENT_FINAL.replace(b"c=biws", b"c=bi!ws"),
        CLIENT_FINAL.replace(b"p=dHz", b"p=d!Hz"),
        CLIENT_FINAL + b"=",
        b"\xff" + CLIENT_FINAL,
    ],
)
def test_malformed_final_messages_are_rejected(final: bytes) -> None:
    scram = machine()
    scram.step(CLIENT_FIRST)
    assert scram.step(final) == Refused(malformed=True)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"x,,n=user,r=abc",
        b"p=tls-unique,,n=user,r=abc",
        b"n,,r=abc,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,n=us=er,r=abc",
        b"n,,m=ext,n=user,r=abc",
        b"n,x,n=user,r=abc",
        b"n,,n=us\xffer,r=abc",
    ],
)
def test_malformed_first_messages_are_rejected(first: bytes) -> None:
    assert machine().step(first) == Refused(malformed=True)


def test_names_with_comma_and_equals() -> None:
    asked = []
    scram = ScramSha256(lambda user: asked.append(user) or KEYS, "x")  # type: ignore[func-returns-value]
    scram.step(b"n,,n=a=2Cb=3Dc,r=abc")
    assert asked == ["a,b=c"]


def test_authorising_as_somebody_else_is_refused() -> None:
    assert machine().step(b"n,a=root,n=user,r=abc") == Refused(user="user")
    assert isinstance(machine().step(b"n,a=user,n=user,r=abc"), Challenge)
    assert Plain().step(b"root\0user\0pw") == Refused(user="user")
    assert Plain().step(b"user\0user\0pw") == CheckPassword("user", "pw")


@pytest.mark.parametrize(
    "response", [b"", b"a", b"a\0b", b"\0\0pw", b"\0u\0", b"\0u\0p\0", b"\0u\xff\0p"]
)
def test_malformed_plain_responses_are_rejected(response: bytes) -> None:
    assert Plain().step(response) == Refused(malformed=True)


def test_login_asks_twice() -> None:
    login = Login()
    assert login.step(None) == Challenge(b"Username:")
    assert login.step("jürgen".encode()) == Challenge(b"Password:")
    assert login.step(b"pw") == CheckPassword("jürgen", "pw")


def test_a_password_does_not_appear_in_a_repr() -> None:
    assert "secret" not in repr(CheckPassword("user", "secret"))
    assert "pencil" not in repr(KEYS)
    assert "b'" not in repr(KEYS)


@quick
@given(
    st.lists(st.none() | st.binary(max_size=60), max_size=4),
    st.sampled_from([Plain, Login, machine]),
)
def test_arbitrary_responses_never_authenticate(
    responses: list[bytes | None], make: type[Mechanism]
) -> None:
    mechanism: Mechanism = make()
    for response in responses:
        step = mechanism.step(response)
        assert not isinstance(step, Proven)
        if not isinstance(step, Challenge):
            return


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\xadX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\xaa", "a"),
        ("\u2168", "IX"),
        ("a\u1680b", "a b"),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
def test_the_examples_of_rfc_4013(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize(
    "text",
    [
        "\x07",
        "\u0627\u0031",
        "1\u0627",
        "\u0627a\u0628",
        "a\x7f",
        *"\ue000\ufdd0\ufffd\u2ff0\u200e\U000e0001",
    ],
)
def test_strings_that_saslprep_rejects(text: str) -> None:
    with pytest.raises(NotPreparable):
        saslprep(text)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("shop", True), ("shop@example.com", True), ("jürgen", True),
        ("", False), ("#a", False), ("%key", False), ("a b", False), ("a\tb", False),
        ("x" * 129, False), ("I\xadX", False),
    ],
)  # fmt: skip
def test_valid_user_names(name: str, good: bool) -> None:
    assert is_user_name(name) is good
