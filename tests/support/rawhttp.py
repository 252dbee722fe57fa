"""HTTP by hand: a server on a socket of the test's own, and a client that sends exactly the bytes it is given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any

from bireme.api.docker.app import build_router
from bireme.api.http.message import HttpProblem, Request, Response
from bireme.api.http.router import Router
from bireme.api.http.server import Server, ServerLimits
from bireme.engine.tasks import TaskGroup
from tests.support.pace import patience
from tests.support.services import FakeServices


class Reply:
    """One parsed answer; `rest` is what came behind its head on a hijacked connection."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def trickle(self, data: bytes) -> None:
        """Send byte by byte, letting the server see each."""
        for index in range(len(data)):
            self.writer.write(data[index : index + 1])
            await asyncio.sleep(0)

    def half_close(self) -> None:
        self.writer.write_eof()

    async def head(self) -> Reply:
        text = await self._timely(self.reader.readuntil(b"\r\n\r\n"))
        first, *lines = text.decode("latin-1").split("\r\n")
        headers = {}
        for line in filter(None, lines):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Reply(int(first.split(" ")[1]), headers, b"")

    async def reply(self, method: str = "GET") -> Reply:
        """The next answer with its whole body."""
        reply = await self.head()
        if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
            return reply
        if reply.headers.get("transfer-encoding") == "chunked":
            reply.body = b"".join([chunk async for chunk in self.chunks()])
        elif "content-length" in reply.headers:
            reply.body = await self.exactly(int(reply.headers["content-length"]))
        else:
            reply.body = await self.rest()
        return reply

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._timely(self.reader.readline()), 16):
            yield await self.exactly(size)
            await self.exactly(2)
        await self.exactly(2)

    async def chunk(self) -> bytes:
        """The next chunk of a streamed body; b"" at its end."""
        size = int(await self._timely(self.reader.readline()), 16)
        data = await self.exactly(size)
        await self.exactly(2)
        return data

    async def exactly(self, size: int) -> bytes:
        return bytes(await self._timely(self.reader.readexactly(size)))

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        return bytes(await self._timely(self.reader.read()))

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """A request with a JSON body, and its answer."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: docker"]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return await self.reply(method)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    @staticmethod
    async def _timely(work: Any) -> Any:
        return await asyncio.wait_for(work, patience(20))


class Served:
    """A running server: `client` connects."""

    def __init__(self, server: Server, path: str) -> None:
        self.server = server
        self.path = path
        self._clients: list[Client] = []

    async def client(self) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.path))
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        await self.server.close(grace_s=0.0)


class ServedEngine(Served):
    """A server with the whole API over an engine in memory."""

    services: FakeServices


def plain_failure(_: Request, error: BaseException) -> Response:
    status, text = (error.status, error.message) if isinstance(error, HttpProblem) else (500, repr(error))
    return Response(status, json.dumps({"message": text}).encode())


def plain_router() -> Router:
    return Router(plain_failure, oldest=24, newest=55)


@contextlib.asynccontextmanager
async def served(router: Router, limits: ServerLimits | None = None) -> AsyncIterator[Served]:
    tasks = TaskGroup()
    with tempfile.TemporaryDirectory(prefix="bireme-api-") as directory:
        server = Server(router, tasks, limits)
        path = str(pathlib.Path(directory) / "api.sock")
        await server.serve_unix(path)
        here = Served(server, path)
        try:
            yield here
        finally:
            await here.close()
            await tasks.close()


@contextlib.asynccontextmanager
async def served_engine() -> AsyncIterator[ServedEngine]:
    services = FakeServices()
    with tempfile.TemporaryDirectory(prefix="bireme-api-") as directory:
        server = Server(build_router(services), services.tasks)
        path = str(pathlib.Path(directory) / "api.sock")
        await server.serve_unix(path)
        here = ServedEngine(server, path)
        here.services = services
        try:
            yield here
        finally:
            await here.close()
            await services.close()
