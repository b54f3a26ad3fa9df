"""Hostile octets: pieces of mail assembled in the wrong way."""

from hypothesis import strategies as st

_WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"<", b">", b'"', b"\\", b"("),
    *(b")", b"@", b"=", b"&", b"'", b"--", b"--b", b"--b--", b"\r\n\r\n", b"\r\n--b\r\n", b"=\r\n"),
    *(b"From: ", b"a@b.example", b"List-Unsubscribe: ", b"<https://x.example/u>", b"mailto:"),
    *(b"Content-Type: ", b"text/plain", b"text/html", b"multipart/mixed; boundary=b", b"charset="),
    *(b'; boundary="b', b"utf-7", b"utf-16", b"idna", b"punycode", b"iso-2022-jp", b"hz", b"zlib"),
    *(b"Content-Transfer-Encoding: ", b"base64", b"quoted-printable", b"=3D", b"=\xff", b"YQ=="),
    *(b"=?utf-8?b?YQ==?=", b"=?utf-8?q?=0A?=", b"\x1b$B", b"+AAAA", b"\xff\xfe", b"\xc3", b"\xf0"),
    *(
        b"<a href=",
        b"<!--",
        b"-->",
        b"<p hidden>",
        b"<style>",
        b"</",
        b"&#x110000;",
        b"&#",
        b"&eacute",
    ),
    *(b"style='display:none'", b"9" * 30, b"x" * 70, b"unsubscribe", "désinscrire".encode()),
]

octets = st.lists(st.one_of(st.sampled_from(_WORDS), st.binary(max_size=8)), max_size=60).map(
    b"".join
)
"""Up to a few hundred octets, which reveal most faults of a parser."""

flood = st.tuples(octets.filter(bool), st.integers(1, 200_000)).map(
    lambda found: (found[0] * (found[1] // len(found[0]) + 1))[: found[1]]
)
"""The same octets repeated, which reveals more than linear time."""
