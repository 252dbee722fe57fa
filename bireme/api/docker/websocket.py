"""GET /containers/{id}/attach/ws: the session of an attach over a websocket.

As dockerd's: what the container writes travels as it is, stdout and stderr mixed, in binary messages (text ones before
API 1.28); before 1.42 all three streams are attached whatever the request says.
"""

from __future__ import annotations

from bireme.api.docker.attach import Streamed, join
from bireme.api.docker.parameters import flag
from bireme.api.docker.services import Services
from bireme.api.http.message import TEXT, Answer, Hijack, HttpProblem, Request, Response
from bireme.api.http.raw import RawStream
from bireme.api.http.websocket import VERSION, Opcode, handshake
from bireme.api.http.websocketstream import WebSocketStream
from bireme.wire.stdcopy import Decoder

BINARY_SINCE = 28
CHOICE_SINCE = 42


class _Unframed(WebSocketStream):
    """Takes stdcopy frames and sends what is in them."""

    def __init__(self, raw: RawStream, opcode: Opcode, *, reads: bool) -> None:
        super().__init__(raw, opcode, reads=reads)
        self._decoder = Decoder()

    def write(self, data: bytes) -> None:
        for _, payload in self._decoder.feed(data):
            super().write(payload)


async def attach_websocket(services: Services, request: Request) -> Answer:
    """Join the client to an instance, as `attach`."""
    try:
        head = handshake(request)
    except HttpProblem as problem:
        text = problem.message.encode() + b"\n"
        return Response(400, text, TEXT, b"Sec-WebSocket-Version: %s\r\n" % VERSION.encode())
    chosen = request.version >= CHOICE_SINCE
    stdin, stdout, stderr = (not chosen or flag(request, name) for name in ("stdin", "stdout", "stderr"))
    joined = await join(services, request, Streamed(stdin, stdout, stderr), half_close=False)
    opcode = Opcode.BINARY if request.version >= BINARY_SINCE else Opcode.TEXT
    kind = WebSocketStream if joined.terminal else _Unframed

    async def run(raw: RawStream) -> None:
        stream = kind(raw, opcode, reads=joined.session.reads)
        pump = services.tasks.spawn(stream.pump(), "websocket")
        try:
            await joined.run(stream)
        finally:
            pump.cancel()
            stream.close()

    return Hijack(run, joined.session.leave, head=head)
