"""Memory: freed, kept for the next message, given back to the system if none comes, used up.

glibc keeps what a process frees unless it is at the very end of the heap. Other C libraries give
memory back by themselves, and lack these functions.
"""

import asyncio
import ctypes
import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import structlog

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_KEPT = 32 * 1024 * 1024  # octets
_SIZES = [24 << doubled for doubled in range(13)][::-1]  # octets; anything smaller takes 24
_QUIET = 2  # seconds without a message


def keep_freed() -> None:
    """Keep freed memory: requesting new pages for each large message costs more than reading every
    octet of it."""
    with suppress(AttributeError):
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _KEPT)


def give_back() -> None:
    """Give all freed memory back to the system."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def freeze_loaded() -> None:
    """Call this when everything is loaded that lasts as long as the process: it is never checked
    for garbage again, which would write to all of its memory."""
    gc.collect()
    gc.freeze()
    give_back()


class _HeapState(ctypes.Structure):
    """What mallinfo2(3) returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks"),
            *("fordblks", "keepcost"),
        )
    )


def fill_gaps() -> None:
    """Take the gaps between objects out of use, before a fork.

    They are small and everywhere: whatever a child allocates would go there, and have the kernel
    copy a whole page for each. A connection to SQLite made its process 2.4 MB larger, 0.2 MB
    otherwise.
    """
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        allocate, end = library.malloc, library.sbrk
        allocate.argtypes, allocate.restype = (ctypes.c_size_t,), ctypes.c_size_t
        end.argtypes, end.restype = (ctypes.c_ssize_t,), ctypes.c_size_t
        library.mallinfo2.restype = _HeapState
        behind_all = end(0) - library.mallinfo2().keepcost
        for size in _SIZES:
            while 0 < allocate(size) < behind_all:  # 0: there is no memory
                pass


class IdleTrimmer:
    """Gives freed memory back when there is a pause in the mail."""

    def __init__(self, give_back: Callable[[], None] = give_back) -> None:
        self._give_back = give_back
        self._messages = 0.0
        self._quiet = 0

    def beat(self, messages: float) -> None:
        """Call this every second with the number of messages until then."""
        if messages != self._messages:
            self._messages, self._quiet = messages, 0
            return
        self._quiet += 1
        if self._quiet == _QUIET:
            self._give_back()


_NEEDED = 1024 * 1024  # octets, for one message
_MOST_BEATS = 5


class MemoryWatch:
    """Ends a process that has had no memory left for five seconds and gets nothing done.

    Each client would be answered 421, or cut off, for ever: Python and the libraries keep what they
    have, and a new process begins with less.
    """

    def __init__(self, end: Callable[[], None], has_room: Callable[[int], bool]) -> None:
        self._end = end
        self._has_room = has_room
        self._messages = 0.0
        self._failed = 0  # beats in a row

    def beat(self, messages: float) -> None:
        """Call this every second with the number of messages until then."""
        if messages != self._messages or self._has_room(_NEEDED):
            self._messages, self._failed = messages, 0
        else:
            self.failed()

    def failed(self) -> None:
        """Call this instead if there was no memory to find that out."""
        self._failed += 1
        if self._failed >= _MOST_BEATS:
            self._end()


async def end_without_memory() -> None:
    """Watch the memory of a process that does other work than mail; run it beside that."""
    memory = MemoryWatch(end_at_once, has_room)
    while True:
        try:
            memory.beat(0.0)
            await asyncio.sleep(1.0)
        except MemoryError:
            memory.failed()
            time.sleep(1.0)  # noqa: ASYNC251 - there is no memory for anything else either


def end_at_once(save: Callable[[], None] = lambda: None) -> None:
    """End the process, which has no memory left; the supervisor starts another one."""
    with suppress(MemoryError):
        structlog.get_logger().error("no memory left", outcome="the process ends")
    with suppress(Exception):
        save()
    os._exit(1)


def has_room(octets: int) -> bool:
    """Return whether this much can be allocated in one piece. Nothing is written to it."""
    allocate, free = _allocator()
    piece = allocate(octets)
    free(piece)
    return piece is not None


@cache
def _allocator() -> tuple[Callable[[int], int | None], Callable[[int | None], None]]:
    """malloc(3) and free(3). Each CDLL makes a class of its own, which only a collection frees."""
    library = ctypes.CDLL(None)
    library.malloc.argtypes, library.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    library.free.argtypes, library.free.restype = (ctypes.c_void_p,), None
    return library.malloc, library.free
