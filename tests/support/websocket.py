"""A websocket client by hand: the frames are exactly those it is told to send."""

from __future__ import annotations

import os

from tests.support.rawhttp import Client, Reply

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455, 1.3."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def masked(opcode: int, data: bytes, *, final: bool = True, key: bytes | None = None) -> bytes:
    """A frame of a client."""
    key = os.urandom(4) if key is None else key
    size = len(data)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 1 << 16:
        length = bytes((0x80 | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((0x80 | 127,)) + size.to_bytes(8, "big")
    body = bytes(byte ^ key[index % 4] for index, byte in enumerate(data))
    return bytes(((0x80 if final else 0) | opcode,)) + length + key + body


def closing(code: int, reason: bytes = b"") -> bytes:
    return masked(CLOSE, code.to_bytes(2, "big") + reason)


async def upgrade(client: Client, path: str, **headers: str) -> Reply:
    """Send an opening handshake and read the answer's head."""
    fields = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    client.send(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
    return await client.head()


async def receive(client: Client) -> tuple[int, bytes]:
    """The next frame of the server: its opcode and payload. It is whole and not masked."""
    first, second = await client.exactly(2)
    assert first & 0xF0 == 0x80
    assert not second & 0x80
    size = second
    if size > 125:
        size = int.from_bytes(await client.exactly(2 if size == 126 else 8), "big")
    return first & 0x0F, await client.exactly(size)


async def receive_all(client: Client) -> tuple[bytes, int]:
    """All payload up to the close frame, and its code (1005 without)."""
    data = b""
    while True:
        opcode, payload = await receive(client)
        if opcode == CLOSE:
            return data, int.from_bytes(payload[:2], "big") if payload else 1005
        data += payload
