"""The multiplexed stream of attach, exec and logs, taken apart as it arrives.

Each frame is `[stream, 0, 0, 0, size (4 bytes, big-endian)]` and `size` bytes (Docker Engine API, "Stream format"). A
frame may be as long as its sender likes, so payload is passed on in the pieces it came in: memory stays bounded.
"""

from __future__ import annotations

from bireme.client.errors import BrokenReply

STDOUT, STDERR, SYSTEM_ERROR = 1, 2, 3
_HEADER = 8


class Demultiplexer:
    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(stream, payload) pairs in the order they came; stream 0 counts as standard output."""
        pieces: list[tuple[int, bytes]] = []
        position, size = 0, len(data)
        while position < size:
            if self._left == 0:
                wanted = _HEADER - len(self._header)
                self._header += data[position : position + wanted]
                position += wanted
                if len(self._header) == _HEADER:
                    self._begin()
                continue
            payload = data[position : position + self._left]
            position += len(payload)
            self._left -= len(payload)
            pieces.append((self._stream, payload))
        return pieces

    def _begin(self) -> None:
        header, self._header = self._header, b""
        if header[0] > SYSTEM_ERROR or header[1:4] != b"\0\0\0":
            raise BrokenReply("malformed frame in the output stream", subject=repr(header))
        self._stream = header[0] or STDOUT
        self._left = int.from_bytes(header[4:], "big")

    @property
    def complete(self) -> bool:
        """Whether the stream may end here."""
        return self._left == 0 and not self._header
