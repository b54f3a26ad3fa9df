"""The process in which dkimpy checks signatures, one after the other.

It has so much processor time for each, so much memory, and can open nothing. The kernel ends it
where it takes longer, whatever it is doing, and also if whoever started it is gone.
"""

import resource
import signal
import sys
from struct import Struct

import dkim

QUESTION = Struct(">BHHI")
"""The number of the signature from the top, and the lengths of domain, key record and message."""
VALID, NOT_VALID = b"\x01", b"\x00"

_MEMORY = 512 * 1024 * 1024  # octets of address space


def main() -> None:
    """Answer questions from standard input until it ends. The argument: seconds for each."""
    seconds = float(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := asked.read(QUESTION.size):
        index, *lengths = QUESTION.unpack(head)
        domain, record, message = (asked.read(length) for length in lengths)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
        valid = is_valid(message, index, domain, record)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(VALID if valid else NOT_VALID)
        answers.flush()


def is_valid(message: bytes, index: int, domain: bytes, record: bytes) -> bool:
    """Whether that signature is valid by this key, of that domain and over the whole body."""
    try:
        checked = dkim.DKIM(message)
        valid = checked.verify(idx=index, dnsfunc=lambda name, timeout=5: record)
        signed = checked.signature_fields
        return bool(valid) and signed[b"d"].lower() == domain and b"l" not in signed
    except Exception:  # dkimpy raises its own, and whatever odd input leads it to
        return False


if __name__ == "__main__":
    main()
