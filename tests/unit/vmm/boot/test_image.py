"""Files on their way into guest memory: exact, with holes left alone, and cut off ones noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.errors import Invalid, Unavailable
from bireme.vmm.boot.image import FileImage
from bireme.vmm.memory import GuestFault, GuestMemory

MIB = 1 << 20


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(8 * MIB)
    yield memory
    memory.close()


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """Two bytes at the start, a hole, three bytes at 2 MiB, a hole at the end."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(b"ab")
        file.seek(2 * MIB)
        file.write(b"xyz")
        file.truncate(4 * MIB)
    return path


def test_a_file_with_holes_arrives_as_it_reads(memory: GuestMemory, sparse: Path) -> None:
    with FileImage(str(sparse)) as file:
        file.copy(0, file.size, memory, MIB)
    assert os.fstat(memory.fd).st_blocks * 512 < MIB
    assert memory.read(MIB, 4 * MIB) == sparse.read_bytes()


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (1, 3), (2 * MIB + 1, 2), (2 * MIB - 1, 2), (3 * MIB, MIB), (5, 0)]
)
def test_any_part_goes_to_any_address(memory: GuestMemory, sparse: Path, offset: int, size: int) -> None:
    with FileImage(str(sparse)) as file:
        file.copy(offset, size, memory, 0x12345)
    assert memory.read(0x12345, size) == sparse.read_bytes()[offset : offset + size]
    assert memory.read(0x12345 + size, 16) == bytes(16)


def test_parts_that_are_not_there(memory: GuestMemory, sparse: Path) -> None:
    with FileImage(str(sparse)) as file:
        for offset, size in ((4 * MIB, 1), (0, 4 * MIB + 1), (-1, 2), (0, -1)):
            with pytest.raises(Invalid, match="cut off"):
                file.copy(offset, size, memory, 0)
            with pytest.raises(Invalid, match="cut off"):
                file.read(offset, size)
        with pytest.raises(GuestFault):
            file.copy(0, 2 * MIB, memory, 7 * MIB)


def test_a_file_that_shrinks_meanwhile(memory: GuestMemory, sparse: Path) -> None:
    with FileImage(str(sparse)) as file:
        os.truncate(sparse, 100)
        with pytest.raises(Invalid, match="cut off"):
            file.read(2 * MIB, 3)


def test_what_is_no_file(memory: GuestMemory) -> None:
    reader, writer = os.pipe()
    file = FileImage(reader)
    assert file.size == 0
    file.copy(0, 0, memory, 0)
    with pytest.raises(Unavailable):
        file.read(0, 0)
    os.close(reader)
    os.close(writer)
