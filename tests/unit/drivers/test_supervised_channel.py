"""What leaves towards the supervisor: one JSON text per packet, whatever the strings hold."""

from __future__ import annotations

import asyncio
import json
import pathlib
import socket
from typing import Any

import pytest

from bireme.drivers.supervised.channel import Channel
from bireme.linux.fd import recv_fds
from bireme.wire import supervision


async def sent(path: str, **fields: Any) -> tuple[bytes, dict[str, Any]]:
    """A request as it comes out at the other end: the packet, and what the supervisor makes of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        channel = Channel(path, "the supervisor", lambda event: None)
        await channel.connect()
        server, _ = listener.accept()
        with server:
            future = channel.post("launch", **fields)
            data, fds = recv_fds(server)
            future.cancel()
        channel.close()
    return data, supervision.decode(data, fds, unspill=lambda fd, limit: b"")[0]


@pytest.mark.parametrize("word", ["plain", "\u00e9\u4e2d", 'quote"\\\n\x7f', "odd\udcff"])
def test_any_string_arrives(tmp_path: pathlib.Path, word: str) -> None:
    plan = {"args": [word, ""], "sizes": {"a": -1, "b": 2**63 - 1}, "skeleton": None, "hold": False}
    data, message = asyncio.run(sent(str(tmp_path / "s"), plan=plan))
    assert message == {"rid": 1, "op": "launch", "plan": plan}
    assert b"\n" not in data
    assert json.loads(data.decode("utf-8", "surrogateescape")) == message
