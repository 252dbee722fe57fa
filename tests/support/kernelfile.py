"""Builders of kernels for the VMM's loader: files with headers that say what a test wants, and a few bytes of code."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bireme.vmm.boot.image import FileImage

PT_LOAD, PT_NOTE = 1, 4


class Part(NamedTuple):
    """A program header and its bytes; `memory_size` -1: as large as the bytes."""

    kind: int
    address: int
    content: bytes
    memory_size: int = -1


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    name = owner + b"\0"
    return struct.pack("<III", len(name), len(content), kind) + padded(name) + padded(content)


def pvh_note(entry: int) -> Part:
    return Part(PT_NOTE, 0, note(b"GNU", 3, b"x" * 5) + note(b"Xen", 18, struct.pack("<Q", entry)))


def elf(parts: Sequence[Part], *, entry: int = 0x100000, machine: int = 62, kind: int = 2) -> bytes:
    head = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, kind, machine, 1, entry, 64, 0, 0, 64, 56, len(parts), 0, 0, 0
    )
    headers, body = b"", b""
    start = 64 + 56 * len(parts)
    for part in parts:
        size = len(part.content) if part.memory_size < 0 else part.memory_size
        row = (part.kind, 7, start + len(body), part.address, part.address, len(part.content), size, 4096)
        headers += struct.pack("<IIQQQQQQ", *row)
        body += part.content
    return head + headers + body


def bzimage(protected: bytes, **values: int) -> bytes:
    """A bzImage with one sector of set-up and this 32-bit part; `values` overrides fields of the header."""
    fields = {
        "setup_sects": 1,
        "syssize": len(protected) // 16,
        "version": 0x20F,
        "initrd_addr_max": 0x7FFFFFFF,
        "relocatable": 1,
        "xloadflags": 1,
        "cmdline_size": 2047,
        "pref_address": 0x100000,
        "init_size": 0x200000,
    } | values
    forms = {
        "setup_sects": (0x1F1, "<B"),
        "syssize": (0x1F4, "<I"),
        "version": (0x206, "<H"),
        "initrd_addr_max": (0x22C, "<I"),
        "relocatable": (0x234, "<B"),
        "xloadflags": (0x236, "<H"),
        "cmdline_size": (0x238, "<I"),
        "payload_offset": (0x248, "<I"),
        "payload_length": (0x24C, "<I"),
        "pref_address": (0x258, "<Q"),
        "init_size": (0x260, "<I"),
    }
    setup = bytearray(1024)
    setup[0x1FE:0x206] = b"\x55\xaa\xeb\x66HdrS"
    for name, value in fields.items():
        offset, form = forms[name]
        struct.pack_into(form, setup, offset, value)
    return bytes(setup) + protected


@contextmanager
def opened(data: bytes) -> Iterator[FileImage]:
    """The bytes as a file."""
    fd = os.memfd_create("kernel", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        yield FileImage(fd)
    finally:
        os.close(fd)
