"""The process in which dkimpy checks signatures, one after the other.

It has so much processor time for each, so much memory, and can open nothing. The kernel ends it
where it takes longer, whatever it is doing, and also if whoever started it is gone.
"""

import resource
import signal
import sys
from importlib import import_module
from struct import Struct

QUESTION = Struct(">BHHI")
"""The number of the signature from the top, and the lengths of domain, key record and message."""
NOT_VALID, VALID, PARTLY = b"\x00", b"\x01", b"\x02"
"""The answer. Partly: valid, but what follows in the body was not signed (`l=`)."""

_MEMORY = 512 * 1024 * 1024  # octets of address space


def main() -> None:
    """Answer questions from standard input until it ends. The argument: seconds for each."""
    seconds = float(sys.argv[1])
    import_module("dkim")  # while files can be opened
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
    """Return whether that signature is valid by this key, and of that domain."""
    from dkim import DKIM  # here: whoever asks does not need it

    try:
        checked = DKIM(message)
        valid = checked.verify(idx=index, dnsfunc=lambda name, timeout=5: record)
        signed = checked.signature_fields
        if not valid or signed[b"d"].lower() != domain:
            return NOT_VALID
        return PARTLY if b"l" in signed else VALID
    except Exception:  # dkimpy raises its own, and whatever odd input leads it to
        return NOT_VALID


if __name__ == "__main__":
    main()
