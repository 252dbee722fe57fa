"""Frames of RFC 6455 as a client may send them, and as it may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.api.http.message import HttpProblem, Request
from bireme.api.http.websocket import (
    MAX_FRAME_BYTES,
    CloseCode,
    FrameReader,
    Opcode,
    Piece,
    Refused,
    close_code,
    close_frame,
    frame_header,
    handshake,
    unmask,
)
from tests.support.websocket import ACCEPT, BINARY, CLOSE, KEY, PING, TEXT, masked


def request(**changes: str | None) -> Request:
    headers: dict[str, str | None] = {
        "upgrade": "websocket",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    made = Request("GET", "/", "", {k.encode(): v.encode() for k, v in headers.items() if v is not None}, 1)
    made.upgrade = "upgrade" in headers
    return made


def test_handshake() -> None:
    head = handshake(request(upgrade="WebSocket"))
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n".encode() in head
    assert b"Sec-WebSocket-Protocol: tty\r\n" in handshake(request(sec_websocket_protocol="tty, other"))


@pytest.mark.parametrize(
    "changes",
    [
        {"upgrade": "tcp"},
        {"upgrade": None},
        {"sec_websocket_version": "8"},
        {"sec_websocket_version": None},
        {"sec_websocket_key": None},
        {"sec_websocket_key": "AAAA"},
        {"sec_websocket_key": "!" * 24},
    ],
)
def test_what_is_no_handshake(changes: dict[str, str | None]) -> None:
    with pytest.raises(HttpProblem) as refused:
        handshake(request(**changes))
    assert refused.value.status == 400


PLAYBOOK = b"".join(
    (
        masked(BINARY, b"hello"),
        masked(BINARY, b""),
        masked(TEXT, "ä".encode()[:1], final=False),
        masked(PING, b"are you there"),
        masked(0, "ä".encode()[1:]),
        masked(BINARY, b"a" * 300, key=b"\0\0\0\0"),
        masked(BINARY, b"b" * 70_000),
        masked(CLOSE, b"\x03\xe8bye"),
    )
)


def joined(pieces: list[Piece]) -> list[tuple[Opcode, bytes]]:
    """Neighbouring pieces of data as one."""
    found: list[tuple[Opcode, bytes]] = []
    for opcode, data in pieces:
        if found and found[-1][0] == opcode < Opcode.CLOSE:
            found[-1] = (opcode, found[-1][1] + data)
        else:
            found.append((opcode, data))
    return found


EXPECTED = [
    (Opcode.BINARY, b"hello"),
    (Opcode.TEXT, "ä".encode()[:1]),
    (Opcode.PING, b"are you there"),
    (Opcode.TEXT, "ä".encode()[1:]),
    (Opcode.BINARY, b"a" * 300 + b"b" * 70_000),
    (Opcode.CLOSE, b"\x03\xe8bye"),
]


def test_playbook() -> None:
    assert joined(FrameReader().feed(PLAYBOOK)) == EXPECTED


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_pieces_of_any_size(size: int) -> None:
    reader = FrameReader()
    pieces: list[Piece] = []
    for at in range(0, len(PLAYBOOK), size):
        pieces += reader.feed(PLAYBOOK[at : at + size])
    assert joined(pieces) == EXPECTED


def trickle(frames: bytes) -> None:
    reader = FrameReader()
    for index in range(len(frames)):
        reader.feed(frames[index : index + 1])


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x82\x05hello", CloseCode.PROTOCOL_ERROR),
        (b"\xc2\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
        (b"\x92\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
        (b"\x83\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
        (b"\x8f\x80\0\0\0\0", CloseCode.PROTOCOL_ERROR),
        (masked(PING, b"x" * 126), CloseCode.PROTOCOL_ERROR),
        (masked(PING, b"x", final=False), CloseCode.PROTOCOL_ERROR),
        (masked(0, b"x"), CloseCode.PROTOCOL_ERROR),
        (masked(BINARY, b"x", final=False) + masked(BINARY, b"y"), CloseCode.PROTOCOL_ERROR),
        (b"\x82\xfe\x00\x7d" + bytes(4), CloseCode.PROTOCOL_ERROR),
        (b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(4), CloseCode.PROTOCOL_ERROR),
        (b"\x82\xff" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big") + bytes(4), CloseCode.TOO_BIG),
        (b"\x82\xff" + b"\xff" * 8 + bytes(4), CloseCode.TOO_BIG),
        (masked(TEXT, b"\xff"), CloseCode.INVALID_DATA),
        (masked(TEXT, b"\xc3"), CloseCode.INVALID_DATA),
        (masked(TEXT, b"\xc3", final=False) + masked(0, b"x"), CloseCode.INVALID_DATA),
    ],
)
def test_hostile_frames(frames: bytes, code: CloseCode) -> None:
    with pytest.raises(Refused) as refused:
        FrameReader().feed(frames)
    assert refused.value.code is code
    with pytest.raises(Refused):
        trickle(frames)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_bytes_break_the_reader(chunks: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for chunk in chunks:
            reader.feed(chunk)
    except Refused:
        pass
    assert len(reader._control) <= 125
    assert len(reader._head) <= 14


@given(st.lists(st.binary(max_size=200), max_size=10), st.integers(1, 50))
def test_what_is_sent_arrives(messages: list[bytes], size: int) -> None:
    wire = b"".join(masked(BINARY, message) for message in messages)
    reader = FrameReader()
    got = b""
    for at in range(0, len(wire), size):
        got += b"".join(piece.data for piece in reader.feed(wire[at : at + size]))
    assert got == b"".join(messages)


def test_close_codes() -> None:
    assert close_code(b"") == CloseCode.NO_STATUS
    assert close_code(b"\x03\xe8ok") == 1000
    assert close_code((4999).to_bytes(2, "big")) == 4999
    for bad in (b"\x03", (999).to_bytes(2, "big"), (1005).to_bytes(2, "big"), (1006).to_bytes(2, "big"), b"\xff\xff"):
        with pytest.raises(Refused):
            close_code(bad)
    with pytest.raises(Refused) as refused:
        close_code(b"\x03\xe8\xff")
    assert refused.value.code is CloseCode.INVALID_DATA


def test_frames_of_the_server() -> None:
    assert frame_header(Opcode.BINARY, 125) == b"\x82\x7d"
    assert frame_header(Opcode.BINARY, 126) == b"\x82\x7e\x00\x7e"
    assert frame_header(Opcode.TEXT, 1 << 16) == b"\x81\x7f" + (1 << 16).to_bytes(8, "big")
    assert close_frame(1000, "bye") == b"\x88\x05\x03\xe8bye"
    assert close_frame(CloseCode.NO_STATUS) == b"\x88\x00"
    assert unmask(unmask(b"some text", b"abcd"), b"abcd") == b"some text"
