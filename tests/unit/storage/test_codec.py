from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.errors import Invalid
from bireme.storage import codec
from tests.support import tar

zstd = codec._zstd()

CONTENT = b"".join(b"line %d\n" % n for n in range(3000)) + bytes(range(256)) * 50
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "zstd": lambda data: bytes(zstd.compress(data)),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
ALL = pytest.mark.parametrize("name", list(COMPRESSORS))


def decoded(data: bytes, most: int = 1 << 20) -> bytes:
    chunks = codec.decode(tar.reader(data, most))
    return b"".join(iter(chunks, b""))


@ALL
@pytest.mark.parametrize("most", [1, 3, 1000, 1 << 20])
def test_pieces_of_any_size_decode_to_the_same(name: str, most: int) -> None:
    packed = COMPRESSORS[name](CONTENT)
    assert codec.compression_of(packed) == name
    assert decoded(packed, most) == CONTENT


@ALL
def test_members_follow_one_another(name: str) -> None:
    pack = COMPRESSORS[name]
    assert decoded(pack(b"one") + pack(b"") + pack(b"two"), 2) == b"onetwo"


@ALL
@pytest.mark.parametrize("garbage", [b"x", bytes(4), b"garbage that is longer"])
def test_garbage_behind_is_refused(name: str, garbage: bytes) -> None:
    with pytest.raises(Invalid, match="garbage"):
        decoded(COMPRESSORS[name](CONTENT) + garbage, 1000)


@ALL
@pytest.mark.parametrize("cut", [1, 5, 100])
def test_truncated_data_is_refused(name: str, cut: int) -> None:
    with pytest.raises(Invalid):
        decoded(COMPRESSORS[name](CONTENT)[:-cut])


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_flipped_bits_are_refused(name: str) -> None:
    packed = bytearray(COMPRESSORS[name](CONTENT))
    packed[len(packed) // 2] ^= 0x10
    with pytest.raises(Invalid):
        decoded(bytes(packed))


def test_plain_data_passes() -> None:
    assert codec.compression_of(b"") == ""
    assert decoded(b"") == b""
    assert decoded(b"abc") == b"abc"
    assert decoded(CONTENT, 10) == CONTENT


def test_skippable_zstd_frames_are_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18\x05\0\0\0hello"
    assert decoded(COMPRESSORS["zstd"](b"abc") + skippable) == b"abc"
    assert decoded(skippable + COMPRESSORS["zstd"](b"abc")) == b"abc"


@ALL
def test_a_bomb_comes_in_bounded_chunks(name: str) -> None:
    packed = COMPRESSORS[name](bytes(30 << 20))
    chunks = codec.decode(tar.reader(packed))
    sizes = [len(chunk) for chunk in iter(chunks, b"")]
    assert sum(sizes) == 30 << 20
    assert max(sizes) <= codec.CHUNK


def test_zlib_stands_in_for_isal() -> None:
    packed = COMPRESSORS["gzip"](CONTENT)
    decompressor = codec._ZlibDecompressor()
    out = decompressor.decompress(packed + b"tail", 100)
    assert len(out) == 100
    while not decompressor.eof:
        out += decompressor.decompress(b"", 1000)
    assert (out, decompressor.unused_data) == (CONTENT, b"tail")


def test_gzip_encoder_is_deterministic_and_right() -> None:
    def encode() -> bytes:
        encoder = codec.GzipEncoder()
        return b"".join(encoder.encode(CONTENT[at : at + 999]) for at in range(0, len(CONTENT), 999)) + encoder.finish()

    assert encode() == encode()
    assert zlib.decompress(encode(), 31) == CONTENT
    assert encode()[4:8] == bytes(4)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0", b""]), st.binary(max_size=400))
def test_noise_is_refused_or_decoded(magic: bytes, noise: bytes) -> None:
    try:
        decoded(magic + noise, 50)
    except Invalid:
        pass


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(COMPRESSORS)), st.binary(max_size=5000), st.integers(1, 300))
def test_round_trip(name: str, data: bytes, most: int) -> None:
    assert decoded(COMPRESSORS[name](data), most) == data


def test_random_data_survives() -> None:
    data = os.urandom(300_000)
    assert decoded(COMPRESSORS["gzip"](data)) == data
