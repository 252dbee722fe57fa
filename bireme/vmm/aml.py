"""A very small encoder of AML, the byte code of ACPI's definition blocks. ACPI 6.5, chapter 20.

Just what a machine without moving parts needs: names, packages, devices, scopes and resource templates. Every function
returns the bytes of one term; terms are joined by concatenation.

    device("V000", name("_HID", string("LNRO0005")), name("_CRS", resources(memory32_fixed(base, size), interrupt(5))))
"""

from __future__ import annotations

import re
import struct

_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,3}")
_ROOT = "\\"


def name_segment(text: str) -> bytes:
    """Four characters, filled up with underscores; a backslash in front makes it absolute. ValueError for others."""
    root, bare = (b"\\", text[1:]) if text.startswith(_ROOT) else (b"", text)
    if not _NAME.fullmatch(bare):
        raise ValueError(f"not an ACPI name: {text!r}")
    return root + bare.encode().ljust(4, b"_")


def package_length(body: bytes) -> bytes:
    """The body with its length in front, which counts itself (20.2.4): 6 bits, or 4 bits and one to three bytes."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for more in (1, 2, 3):
        total = len(body) + 1 + more
        if total < 1 << 4 + 8 * more:
            return bytes([more << 6 | total & 0xF]) + (total >> 4).to_bytes(more, "little") + body
    raise ValueError("an AML package of 256 MiB")


def integer(value: int) -> bytes:
    """The shortest form: zero and one are operators, the rest has a prefix for its width."""
    if value in (0, 1):
        return bytes([value])
    for prefix, width in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if value < 1 << 8 * width:
            return bytes([prefix]) + value.to_bytes(width, "little")
    raise ValueError(f"not an AML integer: {value}")


def string(text: str) -> bytes:
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A compressed identifier like PNP0501: three letters of five bits and four hexadecimal digits, big-endian."""
    letters, digits = text[:3], text[3:]
    value = 0
    for letter in letters:
        value = value << 5 | ord(letter) - 0x40
    return b"\x0c" + struct.pack(">H", value) + bytes.fromhex(digits)


def name(path: str, value: bytes) -> bytes:
    """Name (path, value)"""
    return b"\x08" + name_segment(path) + value


def package(*elements: bytes) -> bytes:
    """Package () {elements}"""
    return b"\x12" + package_length(bytes([len(elements)]) + b"".join(elements))


def scope(path: str, *terms: bytes) -> bytes:
    """Scope (path) {terms}"""
    return b"\x10" + package_length(name_segment(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """Device (path) {terms}"""
    return b"\x5b\x82" + package_length(name_segment(path) + b"".join(terms))


def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate () {descriptors}: a buffer that ends with an end tag, whose checksum 0 means none."""
    content = b"".join(descriptors) + b"\x79\x00"
    return b"\x11" + package_length(integer(len(content)) + content)


def memory32_fixed(base: int, size: int) -> bytes:
    """Memory32Fixed (ReadWrite, base, size)"""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def interrupt(gsi: int, *, shared: bool = False) -> bytes:
    """Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive or Shared) {gsi}"""
    consumer, edge = 1 << 0, 1 << 1
    return struct.pack("<BHBBI", 0x89, 6, consumer | edge | shared << 3, 1, gsi)


def port(base: int, size: int) -> bytes:
    """IO (Decode16, base, base, 1, size)"""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, size)


def irq_no_flags(irq: int) -> bytes:
    """IRQNoFlags () {irq}: edge, active high, as on the ISA bus."""
    return struct.pack("<BH", 0x22, 1 << irq)
