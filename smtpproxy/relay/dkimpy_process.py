"""The process in which dkimpy checks signatures, one after the other.

Its processor time for each and its memory are limited, and it can open no files. The kernel ends it
if it takes longer, whatever it is doing, and also if its parent is gone.
"""

import resource
import signal
import sys
from importlib import import_module
from struct import Struct

QUESTION = Struct(">BHHI")
"""The index of the signature from the top, and the lengths of domain, key record and message."""
NOT_VALID, VALID, PARTLY = b"\x00", b"\x01", b"\x02"
"""The answer. PARTLY: valid, but the end of the body was not signed (`l=`)."""

_MEMORY = 512 * 1024 * 1024  # octets of address space


def main() -> None:
    """Answer questions from standard input until it ends. The argument is the seconds for each."""
    seconds = float(sys.argv[1])
    import_module("dkim")  # while files can still be opened
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := asked.read(QUESTION.size):
        index, *lengths = QUESTION.unpack(head)
        domain, record, message = (asked.read(length) for length in lengths)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
        answer = judge(message, index, domain, record)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer)
        answers.flush()


def judge(message: bytes, index: int, domain: bytes, record: bytes) -> bytes:
    """Return whether that signature is valid with this key and of that domain."""
    from dkim import DKIM  # here, since the parent does not need it

    try:
        checked = DKIM(message)
        valid = checked.verify(idx=index, dnsfunc=lambda name, timeout=5: record)
        signed = checked.signature_fields
        if not valid or signed[b"d"].lower() != domain:
            return NOT_VALID
        return PARTLY if b"l" in signed else VALID
    except Exception:  # dkimpy's own, and whatever odd input causes
        return NOT_VALID


if __name__ == "__main__":
    main()
