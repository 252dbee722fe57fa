from __future__ import annotations

import bz2
import gzip
import lzma
import struct

import pytest

from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.image import lz4
from bireme.image.kernelfile import extract_vmlinux, parse_kernel
from tests.support import kernel

SIZE = struct.pack("<I", len(kernel.VMLINUX))


def lz4_stored(data: bytes) -> bytes:
    extra = len(data) - 15
    block = b"\xf0" + b"\xff" * (extra // 255) + bytes([extra % 255]) + data
    return lz4.MAGIC + struct.pack("<I", len(block)) + block


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(kernel.VMLINUX),
        lzma.compress(kernel.VMLINUX) + SIZE,
        bz2.compress(kernel.VMLINUX) + SIZE,
        lz4_stored(kernel.VMLINUX) + SIZE,
        kernel.VMLINUX,
    ],
    ids=["gzip", "xz", "bzip2", "lz4", "plain"],
)
def test_vmlinux_comes_out(packed: bytes) -> None:
    image = kernel.bzimage(packed)
    found = parse_kernel(image)
    assert (found.kind, found.release) == ("bzimage", kernel.RELEASE)
    assert extract_vmlinux(image, found) == kernel.VMLINUX


def test_vmlinux_is_a_kernel_too() -> None:
    assert parse_kernel(kernel.VMLINUX)[:2] == ("vmlinux", kernel.RELEASE)


@pytest.mark.parametrize(
    "data", [b"", b"root:x:0:0", bytes(4096), b"\x7fELF", kernel.module(), kernel.elf(machine=183)]
)
def test_not_a_kernel(data: bytes) -> None:
    with pytest.raises(Invalid, match="passwd is not a kernel"):
        parse_kernel(data, "passwd")


@pytest.mark.parametrize(("image", "needed"), [(kernel.bzimage(), -16), (kernel.VMLINUX, -400)])
def test_any_truncation_is_told(image: bytes, needed: int) -> None:
    for size in range(0, len(image) + needed, 97):
        with pytest.raises(Invalid, match=r"truncated|not a kernel"):
            parse_kernel(image[:size])


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0x206, struct.pack("<H", 0x207), "too old"),
        (0x248, struct.pack("<II", 48, 1 << 30), "outside"),
        (0x248, struct.pack("<II", 0xFFFFFFFF, 8), "outside"),
        (0x248, bytes(8), "outside"),
        (0x20E, struct.pack("<H", 0xFFFF), "no release"),
        (0x300, b"../../evil", "no release"),
        (0x1F4, struct.pack("<I", 0xFFFFFFFF), "truncated"),
    ],
)
def test_lying_headers(offset: int, value: bytes, words: str) -> None:
    image = bytearray(kernel.bzimage())
    image[offset : offset + len(value)] = value
    with pytest.raises(BiremeError, match=words):
        parse_kernel(bytes(image))


def test_packed_in_an_unknown_way() -> None:
    image = kernel.bzimage(b"\x89LZO\0" + bytes(100))
    with pytest.raises(Unsupported, match="packed"):
        extract_vmlinux(image, parse_kernel(image))


@pytest.mark.parametrize("packed", [gzip.compress(kernel.VMLINUX)[:-40], lzma.compress(b"no elf") + SIZE])
def test_damaged_inside(packed: bytes) -> None:
    image = kernel.bzimage(packed)
    with pytest.raises(Invalid):
        extract_vmlinux(image, parse_kernel(image))
