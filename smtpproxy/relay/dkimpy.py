"""Uses dkimpy as the independent verifier of signatures (RFC 6376), in separate processes.

Its relaxed canonicalization takes quadratic time on a run of spaces, and its patterns even more, so
it must not run where anything else waits for it.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from enum import StrEnum

import structlog

from smtpproxy.relay import dkimpy_process
from smtpproxy.relay.dkimpy_process import QUESTION

_PROCESSES = 2
_SECONDS = 2.0  # processor time for a signature
_LONGEST = 10.0  # seconds of the clock
_LONGEST_RUN = 998  # octets of a line (RFC 5322 2.1.1), and so of spaces

log = structlog.get_logger(__name__)


class Verdict(StrEnum):
    """dkimpy's verdict on a signature. `PARTLY`: the end of the body was not signed (`l=`)."""

    VALID = "valid"
    PARTLY = "valid for a part of the body"
    NOT_VALID = "not valid"
    UNANSWERED = "no answer"


_ANSWERS = {
    dkimpy_process.VALID: Verdict.VALID,
    dkimpy_process.PARTLY: Verdict.PARTLY,
    dkimpy_process.NOT_VALID: Verdict.NOT_VALID,
}


class Dkimpy:
    """A few processes that check signatures, started when needed and kept until they have to be
    killed. Use it in one event loop, and close it there."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """`seconds`: processor time for a signature; one that needs more is UNANSWERED."""
        self._seconds = seconds
        self._idle: list[Process] = []
        self._free = asyncio.Semaphore(_PROCESSES)

    async def is_valid(self, message: bytes, index: int, domain: str, record: bytes) -> bool:
        """Whether that signature is valid for the whole body; see `verdict`."""
        return await self.verdict(message, index, domain, record) is Verdict.VALID

    async def verdict(self, message: bytes, index: int, domain: str, record: bytes) -> Verdict:
        """Return the verdict on the signature with that index from the top.

        `record` is the text of its key record; the signature must be of `domain`.
        """
        if b" " * (_LONGEST_RUN + 1) in message.replace(b"\t", b" "):
            return Verdict.UNANSWERED  # would cost much time, and the sender nothing
        name = domain.encode()
        question = QUESTION.pack(index, len(name), len(record), len(message))
        async with self._free:
            process = await self._process()
            try:
                async with asyncio.timeout(_LONGEST):
                    answer = await _asked(process, question + name + record + message)
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                await _end(process)
                log.warning("no answer from dkimpy", domain=domain, ended=process.returncode)
                return Verdict.UNANSWERED
            except BaseException:
                await _end(process)
                raise
            self._idle.append(process)
            return answer

    async def _process(self) -> Process:
        while self._idle:
            if (kept := self._idle.pop()).returncode is None:
                return kept
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "smtpproxy.relay.dkimpy_process", str(self._seconds)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,  # Ctrl-C is for the caller
        )

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _end(self._idle.pop())


async def _asked(process: Process, question: bytes) -> Verdict:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question)
    await process.stdin.drain()
    return _ANSWERS[await process.stdout.readexactly(1)]


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
