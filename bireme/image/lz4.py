"""LZ4 in the "legacy" frame, which nothing but Linux kernel images uses any more: `lz4 -l`, lib/decompress_unlz4.c.

    02 21 4c 18, then per block of at most 8 MiB of output: u32 size, block
    block: sequences of  token (literals << 4 | match - 4)  [more literals]  literals  u16 offset  [more match]
           a length nibble of 15 goes on in bytes, each added, until one is not 255; the last sequence ends after its
           literals

Debian's cloud kernel is packed so, and the standard library has no LZ4. In Python its 53 MB take a second or two, once
when it is added.
"""

from __future__ import annotations

from bireme.errors import Invalid

MAGIC = b"\x02\x21\x4c\x18"
_BLOCK_MAX = 8 << 20


def decode(data: bytes, limit: int) -> bytes:
    """What the frame `data` holds; Invalid when it is corrupt or gives more than `limit` bytes."""
    if not data.startswith(MAGIC):
        raise Invalid("lz4 data is corrupt", place="lz4")
    out = bytearray()
    at = 4
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if size == int.from_bytes(MAGIC, "little"):
            continue
        if at + size > len(data):
            raise Invalid("lz4 data is truncated", place="lz4")
        out += decode_block(data[at : at + size])
        at += size
        if len(out) > limit:
            raise Invalid("lz4 data is larger than allowed", place="lz4")
    return bytes(out)


def decode_block(block: bytes) -> bytearray:
    """One block; Invalid when it is corrupt."""
    out = bytearray()
    at, end = 0, len(block)
    try:
        while at < end:
            token = block[at]
            at += 1
            length = token >> 4
            if length:
                if length == 15:
                    length, at = _longer(block, at, 15)
                out += block[at : at + length]
                at += length
            if at >= end:
                break
            offset = block[at] | block[at + 1] << 8
            at += 2
            length = (token & 15) + 4
            if length == 19:
                length, at = _longer(block, at, 19)
            start = len(out) - offset
            if start < 0 or not offset:
                raise Invalid("lz4 data is corrupt", place="lz4")
            if offset >= length:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // offset + 1))[:length]
            if len(out) > _BLOCK_MAX:
                raise Invalid("lz4 data is corrupt", place="lz4")
    except IndexError:
        raise Invalid("lz4 data is truncated", place="lz4") from None
    if at > end:
        raise Invalid("lz4 data is truncated", place="lz4")
    return out


def _longer(block: bytes, at: int, length: int) -> tuple[int, int]:
    while (byte := block[at]) == 255:
        length += 255
        at += 1
    return length + byte, at + 1
