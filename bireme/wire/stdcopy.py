"""Docker's multiplexed output: frames of stdout and stderr on one connection.

    byte 0      stream: 0 stdin (as an echo, unused), 1 stdout, 2 stderr, 3 an error of the engine itself
    bytes 1-3   zero
    bytes 4-7   length of the payload, big endian
    then        the payload

Follows the Engine API's "Stream format" of POST /containers/{id}/attach. No I/O here.
"""

from __future__ import annotations

import struct

STDIN = 0
STDOUT = 1
STDERR = 2
SYSTEM_ERROR = 3

HEADER_BYTES = 8
MAX_FRAME_BYTES = 16 << 20
"""The longest payload a Decoder accepts; writers here cut at 64 KiB or less."""

_header = struct.Struct(">BxxxI")


def header(stream: int, length: int) -> bytes:
    """The eight bytes that announce `length` bytes of `stream`."""
    return _header.pack(stream, length)


def frame(stream: int, data: bytes) -> bytes:
    """`data` as one frame."""
    return _header.pack(stream, len(data)) + data


class FrameError(ValueError):
    """The bytes are not frames: unknown stream, or a length past MAX_FRAME_BYTES."""


class Decoder:
    """Takes bytes as they come, gives back (stream, data) as early as it can: a long frame arrives in pieces.

    `feed` raises FrameError for bytes that cannot be frames; the decoder is of no use afterwards. `complete` says
    whether the input so far ends between two frames.
    """

    __slots__ = ("_head", "_left", "_stream")

    def __init__(self) -> None:
        self._head = b""
        self._stream = 0
        self._left = 0

    @property
    def complete(self) -> bool:
        return not self._left and not self._head

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        pieces: list[tuple[int, bytes]] = []
        position = 0
        end = len(data)
        while position < end:
            if self._left:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                pieces.append((self._stream, piece))
                continue
            wanted = HEADER_BYTES - len(self._head)
            self._head += data[position : position + wanted]
            position += wanted
            if len(self._head) == HEADER_BYTES:
                self._open(self._head)
                self._head = b""
        return pieces

    def _open(self, head: bytes) -> None:
        stream, length = _header.unpack(head)
        if stream > SYSTEM_ERROR:
            raise FrameError(f"unrecognized stream: {stream}")
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"frame of {length} bytes is longer than {MAX_FRAME_BYTES}")
        self._stream = stream
        self._left = length
