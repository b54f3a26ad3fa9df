"""Message content is the same octets whether held in memory or on disk."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.relay.content import Content, Spool
from tests.kit.disk import fill, tiny_disk
from tests.kit.parts import needs
from tests.wire.feeding import quick

HEADER = b"Subject: x\r\nX: y\r\n\r\n"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert list(tmp_path.iterdir()) == [], "a file was left in the spool"


def filled(spool: Path, data: bytes, *, threshold: int = 1000, step: int = 100) -> Content:
    content = Content(Spool(spool, threshold))
    for start in range(0, len(data), step):
        content.append(data[start : start + step])
    return content


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


SIZES = [0, 1, 999, 1000, 1001, 5000, 700_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1000, 65_536])
def test_content_is_read_back_unchanged(spool: Path, size: int, step: int) -> None:
    data = (HEADER + os.urandom(size))[:size]
    content = filled(spool, data, step=step)
    assert content.size == size
    for _ in range(2):  # a message may be sent again on another connection
        assert b"".join(content.pieces()) == data
    for skip in (0, 1, len(HEADER), 999, 1001, size):
        assert b"".join(content.pieces(skip)) == data[skip:]
    content.close()


PIECES = st.binary(max_size=300) | st.binary(min_size=1, max_size=3).map(lambda piece: piece * 2048)


@quick
@given(st.lists(PIECES, max_size=20), st.sampled_from([0, 600, 50_000]), st.integers(0, 3000))
def test_content_written_in_any_pieces_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], threshold: int, skip: int
) -> None:
    spool = Spool(tmp_path_factory.getbasetemp(), threshold)
    content = Content(spool)
    for chunk in chunks:
        content.append(HEADER + chunk)
    data = b"".join(HEADER + chunk for chunk in chunks)
    if skip % 2:
        content.header()
    assert b"".join(content.pieces(skip)) == data[skip:]
    assert content.header() == (HEADER if chunks else b"")
    assert b"".join(content.pieces()) == data
    content.close()
    assert spool.in_memory == 0


def test_a_large_body_is_kept_on_disk_instead_of_in_memory(spool: Path) -> None:
    before = open_files()
    content = filled(spool, HEADER + b"x" * 1_000_000, step=50_000)
    assert open_files() == before + 1
    pieces = content.pieces()
    assert max(map(len, pieces)) <= 256 * 1024
    content.close()
    assert open_files() == before


def test_a_small_body_needs_no_file(spool: Path) -> None:
    before = open_files()
    content = filled(spool, HEADER + b"x" * 900)
    assert open_files() == before
    content.close()
    content.close()


def test_all_messages_share_a_memory_limit(spool: Path) -> None:
    """Once it is reached, large content goes to disk and small content stays."""
    before = open_files()
    shared = Spool(spool, threshold=1_000_000, memory=1_500_000)
    contents = [Content(shared) for _ in range(5)]
    for content in contents:
        content.append(HEADER + b"x" * 400_000)
    assert open_files() == before + 2
    assert shared.in_memory <= 1_500_000
    small = Content(shared)
    small.append(HEADER)
    contents[0].append(b"y" * 900_000)
    assert open_files() == before + 3
    for content in contents:
        assert b"".join(content.pieces()).startswith(HEADER + b"x")
        content.close()
    assert shared.in_memory == len(HEADER)
    small.close()
    small.close()
    assert shared.in_memory == 0
    assert open_files() == before


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (HEADER + b"body\r\n", HEADER),
        (HEADER, HEADER),
        (b"\r\nbody\r\n", b"\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\n"),
        (b"", b""),
        (b"..dot: x\r\n\r\n..\r\n", b"..dot: x\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_the_header_section(spool: Path, data: bytes, header: bytes, step: int) -> None:
    content = filled(spool, data, step=step)
    assert content.header() == content.header() == header
    assert b"".join(content.pieces(len(header))) == data[len(header) :]


@pytest.mark.parametrize("body", [0, 2_000_000])
@pytest.mark.parametrize("size", [900, 1500, 500_000, 3_000_000])
def test_a_long_header_section_is_read_from_its_file(spool: Path, size: int, body: int) -> None:
    before = open_files()
    header = b"X: " + b"y" * size + b"\r\n\r\n"
    content = filled(spool, header + b"z" * body, step=60_000)
    assert open_files() == before + (size + body > 1000)
    for _ in range(2):
        assert content.header() == header
        assert content.header_size == len(header)
    assert b"".join(content.pieces(len(header))) == b"z" * body
    content.close()


@needs("tmpfs")
def test_a_full_spool_is_an_error_and_frees_what_it_took(tmp_path: Path) -> None:
    before = open_files()
    with tiny_disk(tmp_path / "spool", "64k") as spool:
        content = Content(Spool(spool, 1000))
        content.append(HEADER)
        with pytest.raises(OSError, match="No space left on device"):
            content.append(b"x" * 200_000)
        content.close()
        fill(spool).unlink()
        content = filled(spool, HEADER + b"x" * 30_000)
        assert b"".join(content.pieces()) == HEADER + b"x" * 30_000
        content.close()
    assert open_files() == before


def test_a_missing_spool_is_an_error(tmp_path: Path) -> None:
    content = Content(Spool(tmp_path / "nowhere", 10))
    with pytest.raises(OSError, match="No such file or directory"):
        content.append(HEADER + b"x" * 20)
    content.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR])
def test_the_spool_works_without_unnamed_files(
    spool: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """NFS and the overlay file system of old kernels have none."""
    opened = os.open

    def without_them(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", without_them)
    content = filled(spool, HEADER + b"x" * 5000)
    assert list(spool.iterdir()) == []  # so a crash leaves nothing either
    assert b"".join(content.pieces()) == HEADER + b"x" * 5000
    content.close()


KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("threshold", "size", "all_together", "begun", "overflows"),
    [
        (2 * MIB, 2 * MIB, 2 * MIB, False, False),
        (2 * MIB, 2 * MIB + 1, 2 * MIB + 1, False, True),
        (2 * MIB, 16 * KIB, 64 * MIB + 1, False, False),
        (2 * MIB, 16 * KIB + 1, 64 * MIB, False, False),
        (2 * MIB, 16 * KIB + 1, 64 * MIB + 1, False, True),
        (2 * MIB, 256 * KIB, 256 * KIB, True, False),
        (2 * MIB, 256 * KIB + 1, 256 * KIB + 1, True, True),
        (1000, 1001, 1001, True, True),
    ],
)
def test_which_content_goes_to_disk(
    threshold: int, size: int, all_together: int, begun: bool, overflows: bool
) -> None:
    spool = Spool(Path(), threshold)
    spool.in_memory = all_together
    assert spool.overflows(size, begun=begun) is overflows


@given(st.integers(0, 200_000), st.integers(0, 100_000), st.booleans())
def test_a_small_content_never_overflows(threshold: int, size: int, begun: bool) -> None:
    full = Spool(Path(), threshold, memory=0)
    full.in_memory = 1
    assert size > full.small or not full.overflows(size, begun=begun)
