"""Listening: unix sockets by path and by descriptor, TCP with and without TLS, who is let in, how it ends."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
import ssl
import stat
import subprocess

import pytest

from bireme.api.http.message import Response
from bireme.api.http.server import Server, ServerLimits, bind_unix
from bireme.engine.tasks import TaskGroup
from bireme.errors import Conflict, Invalid
from tests.support.rawhttp import Client, plain_router


def make_server(limits: ServerLimits | None = None) -> Server:
    router = plain_router()
    router.add("GET", "/hello", lambda _: Response(200, b"hello"))
    return Server(router, TaskGroup(), limits)


async def ask(client: Client, *headers: str) -> int:
    lines = "".join(f"{header}\r\n" for header in headers)
    client.send(f"GET /hello HTTP/1.1\r\n{lines}\r\n".encode())
    status = (await client.reply()).status
    await client.close()
    return status


async def unix(path: pathlib.Path | str) -> Client:
    return Client(*await asyncio.open_unix_connection(str(path)))


def test_unix_socket_with_mode_and_no_leftovers(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"

    async def main() -> None:
        server = make_server()
        await server.serve_unix(str(path), group=str(os.getgid()), mode=0o660)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert path.stat().st_gid == os.getgid()
        assert await ask(await unix(path), "Host: x", "Origin: https://any") == 200
        await server.close()
        assert not path.exists()

    asyncio.run(main())


def test_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s.sock")
    bind_unix(path, "", 0o600).close()
    live = bind_unix(path, "", 0o600)
    live.listen()
    with pytest.raises(Conflict, match="another engine listens"):
        bind_unix(path, "", 0o600)
    live.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(Conflict, match="in the way"):
        bind_unix(str(tmp_path / "file"), "", 0o600)
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(Invalid, match="no group is named"):
        bind_unix(str(tmp_path / "t.sock"), "no-such-group-here", 0o600)
    with pytest.raises(Invalid, match="cannot make the socket"):
        bind_unix(str(tmp_path / "missing" / "t.sock"), "", 0o600)


def test_sockets_handed_in(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"

    async def main() -> None:
        server = make_server()
        given = bind_unix(str(path), "", 0o600)
        given.listen()
        await server.serve_fd(given.detach())
        assert await ask(await unix(path), "Host: x") == 200
        datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with pytest.raises(Invalid, match="not a stream socket"):
            await server.serve_fd(datagram.detach())
        await server.close()
        assert path.exists()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Host: 127.0.0.1:2375"], 200),
        (["Host: [::1]:2375"], 200),
        (["Host: localhost"], 200),
        (["Host: LOCALHOST:1"], 200),
        (["Host: engine.lan:2376"], 200),
        (["Host: evil.example"], 403),
        (["Host: evil.example:2375"], 403),
        (["Host: "], 403),
        (["Host: localhost", "Origin: https://evil.example"], 403),
        (["Host: localhost", "Origin: null"], 403),
        (["Host: localhost", "Origin: http://localhost"], 403),
        (["Host: localhost", "Origin: https://engine.lan:8443"], 200),
    ],
)
def test_tcp_checks_host_and_origin(headers: list[str], status: int) -> None:
    async def main() -> None:
        server = make_server()
        port = await server.serve_tcp("127.0.0.1", 0, tls=None, allowed_hosts=("Engine.lan",))
        assert await ask(Client(*await asyncio.open_connection("127.0.0.1", port)), *headers) == status
        await server.close()

    asyncio.run(main())


def test_port_in_use() -> None:
    async def main() -> None:
        server = make_server()
        port = await server.serve_tcp("127.0.0.1", 0, tls=None)
        with pytest.raises(Conflict, match="cannot listen on"):
            await server.serve_tcp("127.0.0.1", port, tls=None)
        await server.close()

    asyncio.run(main())


def test_tls(tmp_path: pathlib.Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl program to make a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=str(certificate))
    trust.check_hostname = False

    async def main() -> None:
        server = make_server()
        port = await server.serve_tcp("127.0.0.1", 0, tls=context)
        client = Client(*await asyncio.open_connection("127.0.0.1", port, ssl=trust))
        assert await ask(client, "Host: localhost") == 200
        await server.close()

    asyncio.run(main())


def test_too_many_connections_are_turned_away(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"

    async def main() -> None:
        server = make_server(ServerLimits(connections=1))
        await server.serve_unix(str(path))
        first = await unix(path)
        first.send(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first.reply()).status == 200
        second = await unix(path)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(second, "Host: x")
        await first.close()
        await server.close()

    asyncio.run(main())


def test_close_lets_answers_finish(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"

    async def main() -> None:
        server = make_server()
        entered, gate = asyncio.Event(), asyncio.Event()

        async def slow(_: object) -> Response:
            entered.set()
            await gate.wait()
            return Response(200, b"finished")

        server.router.add("GET", "/slow", slow)
        await server.serve_unix(str(path))
        idle, busy = await unix(path), await unix(path)
        busy.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await entered.wait()
        closing = asyncio.gather(server.close(grace_s=30.0))
        assert await idle.rest() == b""
        gate.set()
        reply = await busy.reply()
        assert (reply.body, reply.headers["connection"]) == (b"finished", "close")
        assert await busy.rest() == b""
        await closing
        for client in (idle, busy):
            await client.close()

    asyncio.run(main())


def test_close_cuts_what_does_not_end(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.sock"

    async def main() -> None:
        server = make_server()
        entered = asyncio.Event()

        async def forever(_: object) -> Response:
            entered.set()
            await asyncio.Event().wait()
            return Response(200)

        server.router.add("GET", "/forever", forever)
        await server.serve_unix(str(path))
        client = await unix(path)
        client.send(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
        await entered.wait()
        await server.close(grace_s=0.05)
        assert await client.rest() == b""
        await client.close()

    asyncio.run(main())
