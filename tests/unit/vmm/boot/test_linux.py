"""Loading Linux into guest memory: both protocols, what the kernel finds there, and what does not fit."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bireme.errors import BiremeError, Invalid, NotFound
from bireme.vmm import layout
from bireme.vmm.boot.linux import load_linux
from bireme.vmm.boot.placement import RAM, RESERVED
from bireme.vmm.memory import GuestMemory
from tests.support.kernelfile import PT_LOAD, Part, bzimage, elf, pvh_note

MEMORY = 64 << 20
CODE = bytes(range(256)) * 8
KERNEL = Part(PT_LOAD, 0x200000, CODE, 0x4000)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(MEMORY)
    yield memory
    memory.close()


@pytest.fixture
def initrd(tmp_path: Path) -> str:
    (tmp_path / "initrd").write_bytes(b"initramfs")
    return str(tmp_path / "initrd")


def kernel(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "kernel").write_bytes(data)
    return str(tmp_path / "kernel")


def test_pvh(memory: GuestMemory, tmp_path: Path, initrd: str) -> None:
    entry = load_linux(memory, kernel(tmp_path, elf([KERNEL, pvh_note(0x200100)])), [initrd], "quiet")
    assert (entry.mode, entry.regs["rip"]) == ("protected", 0x200100)
    assert memory.read(0x200000, len(CODE)) == CODE
    start = struct.unpack("<IIIIQQQQII", memory.read(entry.regs["rbx"], 56))
    magic, version, _, modules, modlist, cmdline, rsdp, memmap, ranges, _ = start
    assert (magic, version, modules, rsdp) == (0x336EC578, 1, 1, layout.ACPI)
    assert memory.read(cmdline, 6) == b"quiet\0"
    address, size = struct.unpack("<QQ", memory.read(modlist, 16))
    assert memory.read(address, size)[:9] == b"initramfs"
    assert address % layout.PAGE == 0
    rows = struct.iter_unpack("<QQII", memory.read(memmap, ranges * 24))
    assert [row[:3] for row in rows] == [
        (0, layout.LOW_RAM_END, RAM),
        (0xE0000, 0x20000, RESERVED),
        (0x100000, MEMORY - 0x100000, RAM),
    ]


def zero_page(memory: GuestMemory) -> bytes:
    return memory.read(layout.ZERO_PAGE, layout.PAGE)


def test_an_elf_without_pvh_gets_a_zero_page(memory: GuestMemory, tmp_path: Path) -> None:
    entry = load_linux(memory, kernel(tmp_path, elf([KERNEL], entry=0x200000)), [], "quiet")
    assert (entry.mode, entry.regs["rip"], entry.regs["rsi"]) == ("long", 0x200000, layout.ZERO_PAGE)
    assert zero_page(memory)[0x202:0x206] == b"HdrS"


def test_bzimage(memory: GuestMemory, tmp_path: Path, initrd: str) -> None:
    entry = load_linux(memory, kernel(tmp_path, bzimage(CODE)), [initrd, initrd], "quiet")
    assert (entry.mode, entry.regs["rip"]) == ("long", layout.KERNEL + 0x200)
    assert memory.read(layout.KERNEL, len(CODE)) == CODE
    page = zero_page(memory)
    assert (page[0x210], page[0x211] & 1, page[0x1E8]) == (0xFF, 1, 3)
    assert struct.unpack_from("<Q", page, 0x70) == (layout.ACPI,)
    address, size = struct.unpack_from("<II", page, 0x218)
    assert memory.read(address, size) == b"initramfs\0\0\0initramfs\0\0\0"
    assert memory.read(struct.unpack_from("<I", page, 0x228)[0], 6) == b"quiet\0"
    assert struct.unpack_from("<QQI", page, 0x2D0 + 40) == (0x100000, MEMORY - 0x100000, RAM)


def test_the_initrd_stays_below_what_the_kernel_can_reach(memory: GuestMemory, tmp_path: Path, initrd: str) -> None:
    load_linux(memory, kernel(tmp_path, bzimage(CODE, initrd_addr_max=0x2FFFFFF)), [initrd], "")
    address, size = struct.unpack_from("<II", zero_page(memory), 0x218)
    assert address + size <= 0x3000000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a kernel"),
        (b"root:x:0:0", "not a kernel"),
        (bytes(100000), "not a kernel"),
        (elf([Part(PT_LOAD, 0x9000, CODE)]), "below 1 MiB"),
        (elf([Part(PT_LOAD, 1 << 62, CODE)]), "not a kernel"),
        (elf([Part(PT_LOAD, 0xD0000000, CODE)]), "not a kernel"),
        (elf([Part(PT_LOAD, 0x200000, CODE, MEMORY)]), "too little memory"),
        (elf([Part(PT_LOAD, 0x200000, CODE, MEMORY - 0x300000)]), "too little memory"),
        (bzimage(CODE, init_size=MEMORY), "too little memory"),
    ],
)
def test_kernels_that_do_not_load(memory: GuestMemory, tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        load_linux(memory, kernel(tmp_path, data), [], "")
    assert caught.value.subject
    if message == "too little memory":
        assert "MiB" in caught.value.hint


@pytest.mark.parametrize("cmdline", ["x" * 2048, "a\0b", "a\nb"])
@pytest.mark.parametrize("data", [elf([KERNEL]), bzimage(CODE)], ids=["elf", "bzimage"])
def test_command_lines_that_do_not_fit(memory: GuestMemory, tmp_path: Path, data: bytes, cmdline: str) -> None:
    with pytest.raises(Invalid, match="command line"):
        load_linux(memory, kernel(tmp_path, data), [], cmdline)


def test_an_initrd_that_is_too_large(memory: GuestMemory, tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate(MEMORY)
    with pytest.raises(Invalid, match="too little memory"):
        load_linux(memory, kernel(tmp_path, elf([KERNEL])), [str(tmp_path / "big")], "")
    (tmp_path / "some").write_bytes(bytes(1 << 20))
    with pytest.raises(Invalid, match="does not fit"):
        load_linux(memory, kernel(tmp_path, bzimage(CODE, initrd_addr_max=0x3FFFFF)), [str(tmp_path / "some")] * 2, "")


def test_files_that_are_not_there(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_linux(memory, str(tmp_path / "absent"), [], "")
    with pytest.raises(NotFound):
        load_linux(memory, kernel(tmp_path, elf([KERNEL])), [str(tmp_path / "absent")], "")
    with pytest.raises(BiremeError):
        load_linux(memory, str(tmp_path), [], "")
