"""Fuzzing by coverage: `python -m tests.fuzz.coverage headers|mime [libFuzzer options]`."""

import sys

import atheris

with atheris.instrument_imports(include=["smtpproxy.mail", "smtpproxy.policy"]):
    from smtpproxy.mail.mime import MimeLimits
    from tests.fuzz.test_headers import read_everything
    from tests.fuzz.test_mime import HEADERS, read_message


def mime(raw: bytes) -> None:
    """The first octet chooses how the rest is read."""
    header = HEADERS[raw[0] % len(HEADERS)] if raw else b""
    read_message(header + raw[1:], MimeLimits())


SUBJECTS = {"headers": read_everything, "mime": mime}

if __name__ == "__main__":
    subject = SUBJECTS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, subject)
    atheris.Fuzz()
