"""ELF kernels: what is loaded where, and every way in which a file is none."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bireme.errors import BiremeError, Invalid
from bireme.vmm.boot.elf import Segment, iter_notes, parse_elf
from tests.support.kernelfile import PT_LOAD, PT_NOTE, Part, elf, note, opened, pvh_note

GOOD = [Part(PT_LOAD, 0x100000, b"abcd"), pvh_note(0x100200), Part(PT_LOAD, 0x200000, b"xy", 100)]


def test_segments_entry_and_pvh_note() -> None:
    with opened(elf(GOOD, entry=0x100000)) as file:
        kernel = parse_elf(file)
        assert [file.read(segment.offset, segment.size) for segment in kernel.segments] == [b"abcd", b"xy"]
    assert [(segment.address, segment.memory_size) for segment in kernel.segments] == [(0x100000, 4), (0x200000, 100)]
    assert (kernel.entry, kernel.pvh_entry, kernel.end) == (0x100000, 0x100200, 0x200064)


def test_without_a_note_there_is_no_pvh_entry() -> None:
    for parts in (
        [GOOD[0]],
        [GOOD[0], Part(PT_NOTE, 0, note(b"Xen", 17, bytes(8)))],
        [GOOD[0], Part(PT_NOTE, 0, b"x")],
    ):
        with opened(elf(parts)) as file:
            assert parse_elf(file).pvh_entry == -1


def test_a_pvh_entry_beyond_32_bits_is_none() -> None:
    with opened(elf([GOOD[0], pvh_note(1 << 40)])) as file:
        assert parse_elf(file).pvh_entry == -1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (elf(GOOD, machine=183), "not an x86_64 kernel"),
        (elf(GOOD, kind=1), "not an x86_64 kernel"),
        (b"\x7fELF\x01" + elf(GOOD)[5:], "not an x86_64 kernel"),
        (elf([]), "program headers"),
        (elf([GOOD[1]]), "nothing to load"),
        (elf([Part(PT_LOAD, 0x100000, b"abcd", 2)]), "larger in the file"),
        (elf([Part(PT_LOAD, 0x100000, b"", 0x1000), Part(PT_LOAD, 0x100FFF, b"x")]), "overlap"),
        (elf(GOOD)[:-1], "cut off"),
        (elf(GOOD)[:100], "cut off"),
        (elf(GOOD)[:20], "cut off"),
    ],
)
def test_files_that_are_no_kernels(data: bytes, message: str) -> None:
    with opened(data) as file, pytest.raises(Invalid, match=message) as caught:
        parse_elf(file)
    assert caught.value.subject == file.name


@given(st.binary(max_size=400))
@example(b"")
def test_any_bytes_are_a_kernel_or_an_error(tail: bytes) -> None:
    with opened(elf(GOOD)[:6] + tail) as file:
        try:
            assert parse_elf(file).segments
        except BiremeError:
            return


@given(st.integers(0, 200), st.integers(0, 255))
def test_any_damaged_byte_is_a_kernel_or_an_error(at: int, value: int) -> None:
    data = bytearray(elf(GOOD))
    data[at % len(data)] = value
    with opened(bytes(data)) as file:
        try:
            kernel = parse_elf(file)
        except BiremeError:
            return
        for segment in kernel.segments:
            assert 0 <= segment.offset <= segment.offset + segment.size <= len(data)
            assert segment.size <= segment.memory_size


@given(st.binary(max_size=200))
def test_any_bytes_as_notes(block: bytes) -> None:
    for owner, _, content in iter_notes(block):
        assert len(owner) + len(content) <= len(block)


def test_where_a_segment_ends() -> None:
    assert Segment(0, 1, 0x1000, 0x10).end == 0x1010
