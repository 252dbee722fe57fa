"""Requests that nobody should send, and good ones cut anywhere: the reader refuses or reads, never anything else."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from bireme.api.http.framing import Part, RequestReader
from bireme.api.http.message import Hijack, HttpProblem, Request, Response
from bireme.api.http.raw import RawStream
from tests.support.rawhttp import plain_router, served

GOOD = [
    b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\nhello",
    b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}raw bytes",
]
FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"Content-Length: 7\r\n", b"Content-Length: 007\r\n", b"chunked",
    b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1", b"HTTP/9.9", b"0\r\n\r\n", b"ffffffff\r\n", b"\xff\xfe",
    b"Host: y\r\n",
]  # fmt: skip


class Source:
    def body_wanted(self, whole: bool) -> None: ...

    def body_arrived(self) -> None: ...

    def body_paused(self, paused: bool) -> None: ...


def read(pieces: list[bytes]) -> tuple[str, bytes, bool]:
    """What became of the input: the request or the refusal, its body, whether it is complete."""
    reader = RequestReader(Source(), 4096, 32)
    try:
        for piece in pieces:
            reader.feed(piece)
    except HttpProblem as problem:
        return f"refused {problem.status}", b"", True
    request = reader.request
    if request is None:
        return "incomplete", b"", False
    assert reader.part is Part.DONE or not request.body.complete
    return f"{request.method} {request.path}", request.body.take(1 << 20), request.body.complete


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces, position = [], 0
    for length in cuts:
        pieces.append(data[position : position + length])
        position += length
    return [*pieces, data[position:]]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(data)))
        if draw(st.booleans()):
            data[position:position] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=3))
        else:
            del data[position : position + draw(st.integers(1, 5))]
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(mutated(), st.lists(st.integers(1, 20), max_size=12))
def test_cutting_changes_nothing(data: bytes, cuts: list[int]) -> None:
    """Only chunked bodies may differ: what is behind their end is refused when it comes in the same read."""
    assert read(cut(data, cuts)) == read([data])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    outcome, _, _ = read([data])
    assert outcome.startswith(("refused 4", "refused 5", "incomplete", "GET", "POST"))


@settings(max_examples=60, deadline=None)
@given(st.lists(mutated(), min_size=1, max_size=3))
def test_a_server_survives(requests: list[bytes]) -> None:
    """Whatever one client sends, it is answered or cut off, and the next client is served."""

    async def run(stream: RawStream) -> None:
        while data := await stream.read():
            await stream.send(data)

    async def echo(request: Request) -> Response | Hijack:
        body = await request.body.read(1000)
        return Hijack(run, lambda: None) if request.upgrade else Response(200, body)

    async def main() -> None:
        router = plain_router()
        router.add("POST", "/a", echo)
        router.add("GET", "/a", lambda _: Response(200, b"fine"))
        async with served(router) as here:
            rude = await here.client()
            for data in requests:
                rude.send(data)
            rude.half_close()
            await rude.rest()
            polite = await here.client()
            polite.send(GOOD[0])
            assert (await polite.reply()).body == b"fine"

    asyncio.run(main())
