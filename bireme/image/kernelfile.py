"""What a file is that should boot: bzImage or vmlinux, of which release, complete or not; and vmlinux out of bzImage.

    bzImage    boot sector and real-mode set-up | decompressor with the packed vmlinux inside
               0x1f1 set-up sectors, 0x1f4 size of the rest / 16, 0x202 "HdrS", 0x206 version of the protocol,
               0x20e where the release's text is, 0x248 offset and length of the packed vmlinux (since 2.08)
    vmlinux    an ELF file of 64 bits

Documentation/arch/x86/boot.rst. A machine boots from vmlinux, which the host unpacks once here, instead of unpacking
the same bytes in every guest.
"""

from __future__ import annotations

import re
import struct
from typing import Literal, NamedTuple

from bireme.errors import Invalid, Unsupported
from bireme.image import lz4
from bireme.image.deb import reader_of
from bireme.storage.codec import MAGIC_MAX_BYTES, compression_of, decode

KERNEL_MAX_BYTES = 512 << 20
_VMLINUX_MAX_BYTES = 1 << 30
_SECTOR = 512
_OLDEST_PROTOCOL = 0x208
_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_MACHINE_X86_64 = 62
_LOAD = 1
_BANNER = re.compile(rb"Linux version ([0-9][^ \0]{0,63}) ")
_RELEASE = re.compile(r"[0-9][A-Za-z0-9._+~-]{0,63}\Z")


class KernelFile(NamedTuple):
    """`packed` is where a bzImage has its vmlinux: offset and length."""

    kind: Literal["bzimage", "vmlinux"]
    release: str
    packed: tuple[int, int] = (0, 0)


def parse_kernel(data: bytes, name: str = "kernel") -> KernelFile:
    """What `data` is; Invalid when it is no kernel for x86-64 or not all of one."""
    if data.startswith(b"\x7fELF"):
        _check_elf(data, name)
        found = _BANNER.search(data)
        if found is None:
            raise Invalid(f"{name} is not a kernel", subject=name, hint="an ELF file without a Linux banner")
        return KernelFile("vmlinux", _release(found[1], name))
    if len(data) < 0x260 or data[0x202:0x206] != b"HdrS":
        raise Invalid(f"{name} is not a kernel", subject=name, hint="a bzImage (vmlinuz) or vmlinux for x86-64 is")
    return _parse_bzimage(data, name)


def _parse_bzimage(data: bytes, name: str) -> KernelFile:
    protocol, text = struct.unpack_from("<H", data, 0x206)[0], struct.unpack_from("<H", data, 0x20E)[0]
    if protocol < _OLDEST_PROTOCOL:
        raise Unsupported(f"{name} is too old a kernel", subject=name, hint="boot protocol 2.08 or newer is needed")
    start = ((data[0x1F1] or 4) + 1) * _SECTOR
    size = start + struct.unpack_from("<I", data, 0x1F4)[0] * 16
    if len(data) < size:
        raise Invalid(f"{name} is truncated: {len(data)} bytes of {size}", subject=name)
    offset, length = struct.unpack_from("<II", data, 0x248)
    if not length or start + offset + length > len(data):
        raise Invalid(f"{name} is not a kernel: its contents lie outside", subject=name)
    words = data[0x200 + text : 0x200 + text + 256].split(b"\0")[0].split()
    return KernelFile("bzimage", _release(words[0] if words else b"", name), (start + offset, length))


def _release(text: bytes, name: str) -> str:
    release = text.decode("ascii", "replace")
    if not _RELEASE.match(release):
        raise Invalid(f"{name} is not a kernel: no release in it", subject=name)
    return release


def _check_elf(data: bytes, name: str) -> None:
    """Every loaded segment lies in the file."""
    if len(data) < _ELF.size or not data.startswith(_ELF_64_LITTLE):
        raise Invalid(f"{name} is not a kernel: no ELF file of 64 bits", subject=name)
    header = _ELF.unpack_from(data)
    machine, table, entry_size, count = header[2], header[5], header[9], header[10]
    if machine != _MACHINE_X86_64:
        raise Invalid(f"{name} is not a kernel for x86-64", subject=name)
    if entry_size != _PROGRAM.size or not 0 < count < 64 or table + count * entry_size > len(data):
        raise Invalid(f"{name} is not a kernel: bad program headers", subject=name)
    for at in range(table, table + count * entry_size, entry_size):
        kind, _, offset, _, _, stored, _, _ = _PROGRAM.unpack_from(data, at)
        if kind == _LOAD and offset + stored > len(data):
            raise Invalid(f"{name} is truncated: {len(data)} bytes of {offset + stored}", subject=name)


def extract_vmlinux(data: bytes, kernel: KernelFile) -> bytes:
    """The vmlinux in a bzImage; Unsupported for a packing unknown here, Invalid when it is corrupt.

    All packers but gzip are followed by the size of the result in four bytes.
    """
    at, length = kernel.packed
    packed = data[at : at + length]
    if packed.startswith(lz4.MAGIC):
        vmlinux = lz4.decode(packed[:-4], _VMLINUX_MAX_BYTES)
    elif kind := compression_of(packed[:MAGIC_MAX_BYTES]):
        vmlinux = _unpack(packed if kind == "gzip" else packed[:-4])
    elif packed.startswith(b"\x7fELF"):
        vmlinux = packed
    else:
        raise Unsupported("the kernel is packed in a way unknown here", hint="gzip, xz, zstd, bzip2 and lz4 are known")
    _check_elf(vmlinux, "the vmlinux inside")
    return vmlinux


def _unpack(packed: bytes) -> bytes:
    chunks = decode(reader_of(packed))
    out = bytearray()
    while chunk := chunks():
        out += chunk
        if len(out) > _VMLINUX_MAX_BYTES:
            raise Invalid("the kernel inside is larger than allowed")
    return bytes(out)
