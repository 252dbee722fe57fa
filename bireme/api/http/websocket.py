"""WebSocket (RFC 6455), the server's side, without I/O: handshake and frames.

What travels here is a byte stream cut into messages anywhere, so messages are never put together: payload is passed on
as it arrives, whatever the length of its frame, and memory is bounded by what one read of the socket gives. Everything
the RFC forbids a client ends the connection with the code it names: frames without a mask, reserved bits and opcodes,
control frames that are long or in pieces, lengths not in their shortest form, text that is not UTF-8.

    bytes 0-1   FIN, RSV1-3, opcode (4 bits) | MASK, length (7 bits; 126: 16 more bits, 127: 64 more)
    then        the key of the mask (4 bytes, client to server only), the payload
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
from enum import IntEnum
from typing import NamedTuple

from bireme.api.http.message import HttpProblem, Request

VERSION = "13"
MAX_FRAME_BYTES = 32 << 20
"""A longer frame is refused with 1009: no client of a terminal or a pipe cuts its stream so coarsely."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTROL_BYTES = 125


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(IntEnum):
    """RFC 6455, 7.4.1."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    INVALID_DATA = 1007
    TOO_BIG = 1009


class Refused(Exception):
    """The client broke the protocol; `code` goes into the close frame."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Piece(NamedTuple):
    """Part of a message's payload, or a whole control frame."""

    opcode: Opcode
    data: bytes


def handshake(request: Request) -> bytes:
    """The head that answers an opening handshake. HttpProblem 400 for anything else than one, in version 13."""
    tokens = request.headers.get(b"upgrade", b"").lower().replace(b" ", b"").split(b",")
    if not request.upgrade or b"websocket" not in tokens:
        raise HttpProblem(400, "not websocket protocol")
    if request.header(b"sec-websocket-version").strip() != VERSION:
        raise HttpProblem(400, f"unsupported websocket version: {VERSION} is supported")
    key = request.headers.get(b"sec-websocket-key", b"").strip()
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        raise HttpProblem(400, "mismatch challenge/response: Sec-WebSocket-Key is not 16 bytes in base64")
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    offered = request.headers.get(b"sec-websocket-protocol", b"").partition(b",")[0].strip()
    chosen = b"Sec-WebSocket-Protocol: " + offered + b"\r\n" if offered else b""
    return head + accept + b"\r\n" + chosen + b"\r\n"


def frame_header(opcode: Opcode, length: int) -> bytes:
    """The head of a whole message of ours: FIN, no mask."""
    first = 0x80 | opcode
    if length <= _CONTROL_BYTES:
        return bytes((first, length))
    if length < 1 << 16:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; without a code when that is NO_STATUS."""
    data = b"" if code == CloseCode.NO_STATUS else code.to_bytes(2, "big") + reason.encode()[:120]
    return frame_header(Opcode.CLOSE, len(data)) + data


def unmask(data: bytes, key: bytes) -> bytes:
    """`data` with the repeated `key` taken off (or put on)."""
    size = len(data)
    pattern = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(size, "little")


def close_code(data: bytes) -> int:
    """The code of a close frame's payload; Refused when there can be none such."""
    if not data:
        return CloseCode.NO_STATUS
    code = int.from_bytes(data[:2], "big") if len(data) > 1 else 0
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise Refused(CloseCode.PROTOCOL_ERROR, "invalid close code")
    try:
        data[2:].decode()
    except UnicodeDecodeError:
        raise Refused(CloseCode.INVALID_DATA, "the reason of a close frame is not UTF-8") from None
    return code


class FrameReader:
    """A client's bytes, cut anywhere, as pieces. `feed` raises Refused; nothing can be read after that."""

    __slots__ = ("_control", "_head", "_key", "_left", "_message", "_opcode", "_text", "_wanted", "_whole")

    def __init__(self) -> None:
        self._head = bytearray()
        self._wanted = 2
        self._opcode = Opcode.BINARY
        self._message: Opcode | None = None
        self._whole = True
        self._key = b""
        self._left = 0
        self._control = bytearray()
        self._text = codecs.getincrementaldecoder("utf-8")()

    def feed(self, data: bytes) -> list[Piece]:
        pieces: list[Piece] = []
        at = 0
        while at < len(data):
            if self._wanted:
                missing = self._wanted - len(self._head)
                self._head += data[at : at + missing]
                at += missing
                if len(self._head) < self._wanted or not self._parse_head():
                    continue
            taken = data[at : at + self._left]
            at += len(taken)
            self._take(taken, pieces)
        return pieces

    def _parse_head(self) -> bool:
        """Whether the head is complete; else `_wanted` is how long it will be."""
        head = self._head
        if len(head) == 2:
            self._check(head[0], head[1])
            size = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
            self._wanted = 2 + size + 4
            return False
        short = head[1] & 0x7F
        length = int.from_bytes(head[2:-4], "big") if short > _CONTROL_BYTES else short
        if (short == 126 and length <= _CONTROL_BYTES) or (short == 127 and length < 1 << 16):
            raise Refused(CloseCode.PROTOCOL_ERROR, "a length is not in its shortest form")
        if length > MAX_FRAME_BYTES:
            raise Refused(CloseCode.TOO_BIG, f"a frame is longer than {MAX_FRAME_BYTES} bytes")
        self._key, self._left = bytes(head[-4:]), length
        self._whole = bool(head[0] & 0x80)
        head.clear()
        self._wanted = 0
        return True

    def _check(self, first: int, second: int) -> None:
        if first & 0x70:
            raise Refused(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise Refused(CloseCode.PROTOCOL_ERROR, "unknown opcode") from None
        if not second & 0x80:
            raise Refused(CloseCode.PROTOCOL_ERROR, "a frame of a client is not masked")
        if opcode >= Opcode.CLOSE:
            if not first & 0x80 or second & 0x7F > _CONTROL_BYTES:
                raise Refused(CloseCode.PROTOCOL_ERROR, "a control frame is fragmented or too long")
        elif (opcode is Opcode.CONTINUATION) is (self._message is None):
            raise Refused(CloseCode.PROTOCOL_ERROR, "a message begins inside another, or goes on before it began")
        self._opcode = opcode

    def _take(self, masked: bytes, pieces: list[Piece]) -> None:
        data = unmask(masked, self._key)
        turn = len(data) % 4
        self._key = self._key[turn:] + self._key[:turn]
        self._left -= len(data)
        ends = not self._left
        if ends:
            self._wanted = 2
        if self._opcode >= Opcode.CLOSE:
            self._control += data
            if ends:
                pieces.append(Piece(self._opcode, bytes(self._control)))
                self._control.clear()
            return
        message = self._message if self._opcode is Opcode.CONTINUATION else self._opcode
        assert message is not None
        if message is Opcode.TEXT:
            self._check_text(data, ends and self._whole)
        self._message = None if ends and self._whole else message
        if data:
            pieces.append(Piece(message, data))

    def _check_text(self, data: bytes, final: bool) -> None:
        try:
            self._text.decode(data, final)
        except UnicodeDecodeError:
            raise Refused(CloseCode.INVALID_DATA, "a text message is not UTF-8") from None
        if final:
            self._text.reset()
