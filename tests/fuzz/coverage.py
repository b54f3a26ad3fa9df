"""Fuzzing by coverage: `python -m tests.fuzz.coverage headers|mime [libFuzzer options]`."""

import sys

import atheris

with atheris.instrument_imports(include=["smtpproxy.mail", "smtpproxy.policy"]):
    from smtpproxy.mail.mime import MimeLimits
    from tests.fuzz.test_headers import read_everything
    from tests.fuzz.test_mime import read_message


def mime(raw: bytes) -> None:
    read_message(raw, MimeLimits())


SUBJECTS = {"headers": read_everything, "mime": mime}

if __name__ == "__main__":
    subject = SUBJECTS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, subject)
    atheris.Fuzz()
