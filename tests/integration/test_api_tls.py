"""The API over TLS: who is let in, directions that end one by one, hostile handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bireme.api.docker.app import build_router
from bireme.api.http import tls as api_tls
from bireme.api.http.server import Server
from bireme.client.transport import TlsFiles, connect
from bireme.wire.stdcopy import Decoder
from tests.integration.test_api_containers import create
from tests.support.certificates import Certificates
from tests.support.pace import patience
from tests.support.rawhttp import Client
from tests.support.services import FakeServices


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "pki")


def files_of(directory: pathlib.Path) -> TlsFiles:
    return TlsFiles(*(str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem")), True)


@contextlib.asynccontextmanager
async def tls_engine(certificates: Certificates) -> AsyncIterator[tuple[FakeServices, Server, int]]:
    services = FakeServices()
    server = Server(build_router(services), services.tasks)
    port = await server.serve_tcp(
        "127.0.0.1", 0, tls=certificates.server_context(), allowed_hosts=("localhost", "docker")
    )
    try:
        yield services, server, port
    finally:
        await server.close(0.0)
        await services.close()


async def client_of(certificates: Certificates, port: int) -> Client:
    context = ssl.create_default_context(cafile=str(certificates.client / "ca.pem"))
    context.load_cert_chain(certificates.client / "cert.pem", certificates.client / "key.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    return Client(reader, writer)


Scenario = Callable[[FakeServices, Server, int], Awaitable[None]]


def drive(certificates: Certificates, scenario: Scenario) -> None:
    async def main() -> None:
        async with tls_engine(certificates) as (services, server, port):
            await scenario(services, server, port)

    asyncio.run(main())


def test_requests_one_after_the_other(certificates: Certificates) -> None:
    async def scenario(services: FakeServices, server: Server, port: int) -> None:
        client = await client_of(certificates, port)
        for _ in range(3):
            assert (await client.call("GET", "/_ping")).body == b"OK"
        load = await client.call("POST", "/images/load", b"x" * 3_000_000)
        assert load.status == 200
        assert sum(map(len, services.images.loaded)) == 3_000_000
        await client.close()

    drive(certificates, scenario)


def test_the_end_of_input_is_not_the_end_of_output(certificates: Certificates) -> None:
    """Our client sends close_notify as docker's does; the rest comes after it."""

    def session(port: int, path: str) -> bytes:
        stream = connect(f"tcp://localhost:{port}", files_of(certificates.client))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        stream.sendall(head.encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += stream.recv(1)
        stream.sendall(b"b\n" * 200_000 + b"a\n")
        stream.shutdown(1)
        data = b""
        while piece := stream.recv(65536):
            data += piece
        stream.close()
        return b"".join(payload for _, payload in Decoder().feed(data))

    async def scenario(services: FakeServices, server: Server, port: int) -> None:
        client = await client_of(certificates, port)
        identity = await create(client, "sort", OpenStdin=True, StdinOnce=True)
        await client.call("POST", f"/containers/{identity}/start")
        path = f"/containers/{identity}/attach?stream=1&stdin=1&stdout=1"
        got = await asyncio.wait_for(asyncio.to_thread(session, port, path), patience(60))
        assert got == b"a\n" + b"b\n" * 200_000
        await client.close()

    drive(certificates, scenario)


def test_strangers_and_bytes_that_are_no_handshake(certificates: Certificates) -> None:
    async def scenario(services: FakeServices, server: Server, port: int) -> None:
        for data in (b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(300), b"\0"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            assert not (await asyncio.wait_for(reader.read(), patience(20))).startswith(b"HTTP")
            writer.close()
        context = ssl.create_default_context(cafile=str(certificates.client / "ca.pem"))
        for pair in (None, certificates.stranger):
            if pair is not None:
                context.load_cert_chain(pair / "cert.pem", pair / "key.pem")
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await _ask(context, port)
        client = await client_of(certificates, port)
        assert (await client.call("GET", "/_ping")).status == 200
        await client.close()

    drive(certificates, scenario)


async def _ask(context: ssl.SSLContext, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n"), patience(20))
    finally:
        writer.transport.abort()


def test_a_handshake_that_does_not_go_on(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_tls, "HANDSHAKE_TIMEOUT_S", 0.05)

    async def scenario(services: FakeServices, server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), patience(20)) == b""
        writer.close()

    drive(certificates, scenario)


def test_a_client_that_vanishes_while_it_is_written_to(certificates: Certificates) -> None:
    async def scenario(services: FakeServices, server: Server, port: int) -> None:
        client = await client_of(certificates, port)
        identity = await create(client, "sh", "-c", "while :; do echo y; sleep 0.01; done")
        await client.call("POST", f"/containers/{identity}/start")
        other = await client_of(certificates, port)
        other.send(f"GET /containers/{identity}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await other.head()
        other.writer.transport.abort()

        async def gone() -> None:
            while len(server._connections) > 1:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(gone(), patience(30))
        assert services.instances.find(identity).running
        await client.call("DELETE", f"/containers/{identity}?force=1")
        await client.close()

    drive(certificates, scenario)
