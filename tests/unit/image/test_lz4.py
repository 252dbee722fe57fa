from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.errors import Invalid
from bireme.image.lz4 import MAGIC, decode, decode_block


def length(value: int) -> bytes:
    return b"" if value < 15 else b"\xff" * ((value - 15) // 255) + bytes([(value - 15) % 255])


def sequence(literals: bytes, offset: int = 0, match: int = 0) -> bytes:
    token = min(len(literals), 15) << 4 | (min(match - 4, 15) if match else 0)
    tail = struct.pack("<H", offset) + length(match - 4) if match else b""
    return bytes([token]) + length(len(literals)) + literals + tail


def frame(*blocks: bytes) -> bytes:
    return MAGIC + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 269, 270, 271, 1000])
@pytest.mark.parametrize("match", [4, 18, 19, 20, 300, 1000])
def test_lengths(size: int, match: int) -> None:
    start = bytes(range(7)) + bytes(size)
    expected = bytearray(start)
    for _ in range(match):
        expected.append(expected[-7])
    block = sequence(start, 7, match) + sequence(b"end")
    assert decode(frame(block), 1 << 20) == bytes(expected) + b"end"


def test_a_match_may_reach_into_itself() -> None:
    assert decode_block(sequence(b"ab", 1, 9) + sequence(b"")) == b"ab" + b"b" * 9


def test_several_blocks() -> None:
    assert decode(frame(sequence(b"one"), sequence(b"two")), 100) == b"onetwo"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04\x22\x4d\x18",
        frame(sequence(b"a", 2, 4) + sequence(b"")),
        frame(sequence(b"a", 0, 4) + sequence(b"")),
        frame(sequence(b"abc"))[:-1],
        frame(sequence(b"abc")[:-1]),
        frame(b"\xf0\xff"),
        frame(b"\x1fa\x01"),
    ],
)
def test_what_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        decode(data, 1 << 20)


def test_a_bomb_is_bounded() -> None:
    bomb = sequence(b"a", 1, 9 << 20) + sequence(b"")
    with pytest.raises(Invalid, match="corrupt"):
        decode(frame(bomb), 1 << 30)
    with pytest.raises(Invalid, match="larger"):
        decode(frame(*[sequence(b"x" * 1000)] * 10), 5000)


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_decoded(data: bytes) -> None:
    try:
        decode(frame(data), 1 << 24)
    except Invalid:
        pass
