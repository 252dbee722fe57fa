"""Frames of stdout and stderr: playbook, byte at a time, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.wire.stdcopy import MAX_FRAME_BYTES, STDERR, STDOUT, Decoder, FrameError, frame, header


def joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Neighbouring pieces of one stream as one."""
    found: list[tuple[int, bytes]] = []
    for stream, data in pieces:
        if found and found[-1][0] == stream:
            found[-1] = (stream, found[-1][1] + data)
        else:
            found.append((stream, data))
    return found


def test_frame_is_header_and_payload() -> None:
    assert frame(STDOUT, b"hi\n") == b"\x01\x00\x00\x00\x00\x00\x00\x03hi\n"
    assert header(STDERR, 0x01020304) == b"\x02\x00\x00\x00\x01\x02\x03\x04"


def test_playbook() -> None:
    decoder = Decoder()
    assert decoder.feed(frame(1, b"a") + frame(2, b"bc") + frame(1, b"")) == [(1, b"a"), (2, b"bc")]
    assert decoder.complete


def test_byte_at_a_time() -> None:
    data = frame(1, b"hello") + frame(2, b"") + frame(2, b"world")
    decoder = Decoder()
    pieces = [piece for index in range(len(data)) for piece in decoder.feed(data[index : index + 1])]
    assert joined(pieces) == [(1, b"hello"), (2, b"world")]
    assert decoder.complete


def test_incomplete_input_is_seen() -> None:
    decoder = Decoder()
    decoder.feed(frame(1, b"hello")[:-1])
    assert not decoder.complete
    decoder = Decoder()
    decoder.feed(b"\x01\x00")
    assert not decoder.complete


def test_refuses_what_cannot_be_frames() -> None:
    with pytest.raises(FrameError, match="unrecognized stream: 72"):
        Decoder().feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(FrameError, match="longer than"):
        Decoder().feed(header(1, MAX_FRAME_BYTES + 1))


@given(st.lists(st.tuples(st.integers(1, 2), st.binary(max_size=50))), st.lists(st.integers(1, 30)))
def test_any_cutting_gives_the_same(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in frames)
    decoder = Decoder()
    pieces: list[tuple[int, bytes]] = []
    position = 0
    for cut in [*cuts, len(data)]:
        pieces += decoder.feed(data[position : position + cut])
        position += cut
    pieces += decoder.feed(data[position:])
    assert joined(pieces) == joined([f for f in frames if f[1]])
