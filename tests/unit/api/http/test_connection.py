"""One connection after another, spoken to by hand: answers, order, take-over, slow and vanishing clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bireme.api.http.message import Answer, Deferred, Hijack, HttpProblem, Request, Response, Stream
from bireme.api.http.raw import RawStream
from bireme.api.http.router import Router
from bireme.api.http.server import ServerLimits
from tests.support.pace import patience
from tests.support.rawhttp import Client, Served, plain_router, served

Scenario = Callable[[Served], Awaitable[None]]

UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"


class Site:
    """Handlers of every kind, and what they noticed."""

    def __init__(self) -> None:
        self.router: Router = plain_router()
        self.seen: list[str] = []
        self.gate = asyncio.Event()
        self.cancelled = asyncio.Event()
        add = self.router.add
        add("GET", "/hello", lambda _: Response(200, b"hello"))
        add("HEAD", "/hello", lambda _: Response(200, b"hello"))
        add("GET", "/empty", lambda _: Response(204))
        add("POST", "/echo", self.echo)
        add("POST", "/small", self.small)
        add("POST", "/count", self.count)
        add("POST", "/ignore", lambda _: Response(200, b"ignored"))
        add("GET", "/gate", self.wait_at_gate)
        add("GET", "/patient", self.wait_at_gate, interruptible=True)
        add("GET", "/deferred", self.deferred)
        add("GET", "/numbers", lambda _: Stream(self.numbers()))
        add("GET", "/broken", lambda _: Stream(self.broken()))
        add("GET", "/late-error", lambda _: Stream(self.late_error(), patient=False))
        add("GET", "/flood", lambda _: Stream(self.flood()))
        add("GET", "/bug", self.bug)
        add("POST", "/raw", self.raw)

    async def echo(self, request: Request) -> Answer:
        return Response(200, await request.body.read(1 << 20))

    async def small(self, request: Request) -> Answer:
        return Response(200, await request.body.read(10))

    async def count(self, request: Request) -> Answer:
        total = 0
        async for chunk in request.body.chunks():
            total += len(chunk)
            await asyncio.sleep(0)
        return Response(200, str(total).encode())

    async def wait_at_gate(self, request: Request) -> Answer:
        try:
            self.seen.append("waiting")
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.seen.append("done")
        return Response(200, b"through")

    async def deferred(self, request: Request) -> Answer:
        async def later() -> bytes:
            await self.gate.wait()
            return b"late"

        return Deferred(later())

    async def numbers(self) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d\n" % number

    async def broken(self) -> AsyncIterator[bytes]:
        yield b"begin"
        await asyncio.sleep(0)
        raise RuntimeError("half way")

    async def late_error(self) -> AsyncIterator[bytes]:
        raise HttpProblem(404, "nothing there")
        yield b""

    async def flood(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 4096
                self.seen.append("x")
        finally:
            self.cancelled.set()

    def bug(self, request: Request) -> Answer:
        raise RuntimeError("a bug")

    def raw(self, request: Request) -> Answer:
        async def run(stream: RawStream) -> None:
            try:
                while data := await stream.read():
                    await stream.send(data)
            except ConnectionResetError:
                pass
            stream.write(b"[end]")
            self.seen.append("gone" if stream.gone else "ended")

        return Hijack(run, lambda: self.seen.append("discarded"))


def drive(scenario: Callable[[Site, Served], Awaitable[None]], limits: ServerLimits | None = None) -> None:
    async def main() -> None:
        site = Site()
        async with served(site.router, limits) as here:
            await scenario(site, here)

    asyncio.run(main())


def get(path: str, more: bytes = b"") -> bytes:
    return b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n" + more + b"\r\n"


def post(path: str, body: bytes, more: bytes = b"") -> bytes:
    head = b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    return head + more + b"\r\n" + body


def chunked(path: str, *pieces: bytes) -> bytes:
    head = b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


async def eventually(check: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not check():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), patience(20))


def test_answers_in_order_on_one_connection() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        requests = [get("/hello"), post("/echo", b"abc"), get("/empty"), chunked("/echo", b"d", b"ef"), get("/numbers")]
        for request, body in zip(requests, (b"hello", b"abc", b"", b"def", b"0\n1\n2\n"), strict=True):
            client.send(request)
            reply = await client.reply()
            assert reply.body == body
            assert "date" in reply.headers

    drive(scenario)


@pytest.mark.parametrize("trickle", [False, True])
def test_pipelined_requests_are_served_one_by_one(trickle: bool) -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        data = get("/hello") + post("/echo", b"abc") + get("/numbers") + get("/hello")
        await (client.trickle(data) if trickle else _send(client, data))
        client.half_close()
        assert [(await client.reply()).body for _ in range(4)] == [b"hello", b"abc", b"0\n1\n2\n", b"hello"]
        assert await client.rest() == b""

    drive(scenario)


async def _send(client: Client, data: bytes) -> None:
    client.send(data)


def test_a_backlog_without_end_stops_being_read() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/gate"))
        client.send(post("/echo", b"y" * 700_000))
        await eventually(lambda: bool(site.seen))
        for _ in range(50):
            await asyncio.sleep(0.001)
        (connection,) = here.server._connections
        assert len(connection._backlog) < 500_000
        site.gate.set()
        assert (await client.reply()).body == b"through"
        assert len((await client.reply()).body) == 700_000

    drive(scenario)


def test_head_has_no_body() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n" + get("/hello"))
        assert (await client.reply("HEAD")).headers["content-length"] == "5"
        assert (await client.reply()).body == b"hello"

    drive(scenario)


def test_http_1_0() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(b"GET /numbers HTTP/1.0\r\n\r\n")
        reply = await client.reply()
        assert "transfer-encoding" not in reply.headers
        assert reply.body == b"0\n1\n2\n"
        client = await here.client()
        client.send(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (await client.reply()).headers["connection"] == "keep-alive"
        client.send(b"GET /hello HTTP/1.0\r\n\r\n")
        assert (await client.reply()).headers["connection"] == "close"
        assert await client.rest() == b""

    drive(scenario)


def test_expect_100_continue() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.reply()).status == 100
        client.send(b"abc")
        assert (await client.reply()).body == b"abc"
        client.send(b"POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await client.rest() == b""

    drive(scenario)


def test_unread_bodies() -> None:
    """A small rest is skipped; behind a large one the connection ends, and the answer still arrives."""

    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        request = post("/ignore", b"z" * 1000)
        client.send(request[:-500])
        assert (await client.reply()).body == b"ignored"
        client.send(request[-500:] + get("/hello"))
        assert (await client.reply()).body == b"hello"
        client.send(post("/ignore", b"z" * 1_000_000))
        reply = await client.reply()
        assert (reply.body, reply.headers["connection"]) == (b"ignored", "close")

    drive(scenario)


def test_body_limits() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(post("/small", b"0123456789"))
        assert (await client.reply()).status == 200
        client.send(post("/small", b"0123456789a"))
        assert (await client.reply()).status == 413
        client.send(chunked("/small", b"01234", b"56789", b"a"))
        assert (await client.reply()).status == 413

    drive(scenario)


def test_large_bodies_flow_through() -> None:
    async def scenario(site: Site, here: Served) -> None:
        size = 5_000_000
        for request in (post("/count", b"q" * size), chunked("/count", *[b"q" * 50_000] * 100)):
            client = await here.client()
            client.send(request)
            assert (await client.reply()).body == str(size).encode()

    drive(scenario)


def test_deferred_sends_its_head_at_once() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/deferred") + get("/hello"))
        reply = await client.head()
        assert reply.status == 200
        site.gate.set()
        assert b"".join([chunk async for chunk in client.chunks()]) == b"late"
        assert (await client.reply()).body == b"hello"

    drive(scenario)


def test_failures() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/bug"))
        assert (await client.reply()).status == 500
        client.send(get("/nowhere"))
        reply = await client.reply()
        assert (reply.status, reply.message) == (404, "page not found")
        client.send(get("/late-error"))
        assert (await client.reply()).status == 404
        client.send(get("/broken"))
        assert (await client.head()).status == 200
        assert await client.chunk() == b"begin"
        assert await client.rest() == b""

    drive(scenario)


def test_a_client_that_does_not_read_stops_the_stream() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/flood"))
        await client.head()
        previous = -1
        while len(site.seen) != previous:
            previous = len(site.seen)
            await asyncio.sleep(0.05)
        assert 0 < previous < 1000
        await client.close()
        await asyncio.wait_for(site.cancelled.wait(), patience(20))

    drive(scenario)


@pytest.mark.parametrize("upgrade", [b"", UPGRADE])
@pytest.mark.parametrize("trickle", [False, True])
def test_take_over_keeps_early_bytes(upgrade: bytes, trickle: bool) -> None:
    """The JSON body is cut off, what follows it belongs to the raw stream, both directions end on their own."""

    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        data = post("/raw", b'{"a":1}', upgrade) + b"early \x00\r\n\r\nGET / HTTP/1.1\r\n"
        await (client.trickle(data) if trickle else _send(client, data))
        reply = await client.head()
        if upgrade:
            assert (reply.status, reply.headers["upgrade"], reply.headers["connection"]) == (101, "tcp", "Upgrade")
        else:
            assert reply.status == 200
            assert "upgrade" not in reply.headers
        assert reply.headers["content-type"] == "application/vnd.docker.raw-stream"
        client.send(b"late")
        client.half_close()
        assert await client.rest() == b"early \x00\r\n\r\nGET / HTTP/1.1\r\nlate[end]"
        await eventually(lambda: site.seen == ["ended"])

    drive(scenario)


def test_take_over_after_other_requests_and_with_half_close_at_once() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/hello") + post("/raw", b"", UPGRADE) + b"x")
        client.half_close()
        assert (await client.reply()).body == b"hello"
        assert (await client.head()).status == 101
        assert await client.rest() == b"x[end]"

    drive(scenario)


def test_raw_stream_moves_a_lot_both_ways() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(post("/raw", b"", UPGRADE))
        await client.head()
        payload = bytes(range(256)) * 16_000

        async def write() -> None:
            for position in range(0, len(payload), 100_000):
                client.send(payload[position : position + 100_000])
                await client.writer.drain()
            client.half_close()

        _, received = await asyncio.gather(write(), client.rest())
        assert received == payload + b"[end]"

    drive(scenario)


def test_raw_reader_that_sleeps_bounds_memory() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(post("/raw", b"", UPGRADE))
        await client.head()
        (connection,) = here.server._connections
        written = 0
        while written < 20_000_000:
            client.send(b"w" * 100_000)
            written += 100_000
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert connection._transport.get_write_buffer_size() < 2_000_000
        assert connection._raw is not None
        assert connection._raw._size < 2_000_000
        client.writer.transport.abort()
        await eventually(lambda: site.seen == ["gone"])

    drive(scenario)


def test_vanished_clients() -> None:
    """Work that only the client wanted is cancelled; other work is finished."""

    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/patient"))
        await eventually(lambda: site.seen == ["waiting"])
        await client.close()
        await asyncio.wait_for(site.cancelled.wait(), patience(20))
        site.seen.clear()
        client = await here.client()
        client.send(get("/gate"))
        await eventually(lambda: site.seen == ["waiting"])
        await client.close()
        site.gate.set()
        await eventually(lambda: site.seen == ["waiting", "done"])

    drive(scenario)


def test_half_closed_client_gets_its_answer() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/patient"))
        client.half_close()
        await eventually(lambda: site.seen == ["waiting"])
        site.gate.set()
        assert (await client.reply()).body == b"through"
        assert await client.rest() == b""

    drive(scenario)


def test_client_that_half_closed_and_then_vanished_is_noticed() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(get("/patient"))
        client.half_close()
        await eventually(lambda: site.seen == ["waiting"])
        await client.close()
        await asyncio.wait_for(site.cancelled.wait(), patience(20))

    drive(scenario, ServerLimits(sweep_s=0.02))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 0),
        (b"GET /hel", 408),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 408),
        (b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", 408),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 408),
    ],
)
def test_slow_clients(data: bytes, status: int) -> None:
    limits = ServerLimits(
        sweep_s=0.02, head_timeout_s=0.1, body_timeout_s=0.1, body_idle_timeout_s=0.1, idle_timeout_s=0.1, linger_s=0.1
    )

    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(data)
        if status:
            assert (await client.reply()).status == status
        assert await client.rest() == b""
        await eventually(lambda: not here.server._connections)

    drive(scenario, limits)


def test_unfinished_body_of_a_client_that_ends() -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(post("/echo", b"abc")[:-1])
        client.half_close()
        assert (await client.reply()).status == 400
        assert await client.rest() == b""

    drive(scenario)


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"]
)
def test_garbage_is_answered_and_ended(data: bytes) -> None:
    async def scenario(site: Site, here: Served) -> None:
        client = await here.client()
        client.send(data)
        assert (await client.reply()).status in (400, 505)
        assert await client.rest() == b""

    drive(scenario)
