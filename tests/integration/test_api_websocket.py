"""attach over a websocket: what it carries, how it ends, and what a hostile client gets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.test_api_containers import create, drive
from tests.support.daemon import running_engine
from tests.support.pace import until
from tests.support.rawhttp import Client, ServedEngine
from tests.support.websocket import (
    ACCEPT,
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    closing,
    masked,
    receive,
    receive_all,
    upgrade,
)

ALL = "stream=1&stdin=1&stdout=1&stderr=1"


async def attached(here: ServedEngine, identity: str, query: str = ALL, version: str = "", **headers: str) -> Client:
    client = await here.client()
    head = await upgrade(client, f"{version}/containers/{identity}/attach/ws?{query}", **headers)
    assert head.status == 101
    assert head.headers["sec-websocket-accept"] == ACCEPT
    return client


async def started(client: Client, *command: str, **config: Any) -> str:
    identity = await create(client, *command, **config)
    await client.call("POST", f"/containers/{identity}/start")
    return identity


def test_output_is_raw_and_the_end_is_a_close() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sh", "-c", "echo out; sleep 0.1; echo err >&2; exit 3")
        stream = await attached(here, identity)
        await client.call("POST", f"/containers/{identity}/start")
        assert await receive_all(stream) == (b"out\nerr\n", 1000)
        stream.send(closing(1000))
        assert await stream.rest() == b""

    drive(scenario)


def test_streams_are_chosen_since_1_42() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        for version, expected in (("/v1.42", {b"err\n"}), ("/v1.41", {b"out\nerr\n", b"err\nout\n"})):
            identity = await create(client, "sh", "-c", "echo out; echo err >&2", name=version[4:])
            stream = await attached(here, identity, "stream=1&stderr=1", version)
            await client.call("POST", f"/containers/{identity}/start")
            data, _ = await receive_all(stream)
            assert data in expected

    drive(scenario)


def test_text_messages_before_1_28() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        for version, opcode in (("/v1.27", TEXT), ("/v1.28", BINARY)):
            identity = await create(client, "echo", "hi", name=version[4:])
            stream = await attached(here, identity, "stream=1&stdout=1", version)
            await client.call("POST", f"/containers/{identity}/start")
            assert await receive(stream) == (opcode, b"hi\n")

    drive(scenario)


def test_input_in_messages_of_every_kind() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "cat", OpenStdin=True)
        stream = await attached(here, identity)
        stream.send(masked(TEXT, "grüße ".encode()))
        stream.send(masked(BINARY, b"from ", final=False) + masked(PING, b"?") + masked(0, b"here\n"))
        got, pong = b"", b""
        while not (got.endswith(b"here\n") and pong):
            opcode, data = await receive(stream)
            if opcode == PONG:
                pong = data
            else:
                got += data
        assert (got, pong) == ("grüße from here\n".encode(), b"?")

    drive(scenario)


def test_a_megabyte_and_back_byte_for_byte() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "cat", OpenStdin=True, StdinOnce=True)
        stream = await attached(here, identity)
        data = bytes(range(256)) * 4096
        for at in range(0, len(data), 100_000):
            stream.send(masked(BINARY, data[at : at + 100_000]))
        got = b""
        while len(got) < len(data):
            got += (await receive(stream))[1]
        assert got == data

    drive(scenario)


def test_a_close_ends_the_input() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "cat", OpenStdin=True, StdinOnce=True)
        stream = await attached(here, identity)
        stream.send(masked(BINARY, b"last words\n") + closing(1000, b"bye"))
        opcode, data = await receive(stream)
        while opcode != CLOSE:
            opcode, data = await receive(stream)
        assert data[:2] == (1000).to_bytes(2, "big")
        assert await stream.rest() == b""
        assert (await client.call("POST", f"/containers/{identity}/wait")).json == {"StatusCode": 0}
        assert b"".join(r.data for r in here.services.instances.find(identity).records) == b"last words\n"

    drive(scenario)


def test_a_close_leaves_what_does_not_wait_for_input() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "sleep", "1000")
        stream = await attached(here, identity)
        stream.send(masked(CLOSE, b""))
        assert await receive(stream) == (CLOSE, b"")
        assert await stream.rest() == b""
        await stream.close()
        await until(lambda: len(here.server._connections) == 1)
        assert here.services.instances.find(identity).running

    drive(scenario)


def test_terminal_and_detach_keys() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "cat", Tty=True, OpenStdin=True)
        stream = await attached(here, identity, ALL + "&detachKeys=ctrl-a,b")
        stream.send(masked(TEXT, b"hi\n"))
        got = b""
        while got != b"hi\r\nhi\r\n":
            got += (await receive(stream))[1]
        stream.send(masked(TEXT, b"\x01") + masked(TEXT, b"b"))
        assert await receive_all(stream) == (b"", 1000)
        assert here.services.instances.find(identity).running

    drive(scenario)


def test_logs_come_first() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "sh", "-c", "echo before; read x; echo after $x", OpenStdin=True)
        await until(lambda: bool(here.services.instances.find(identity).records))
        stream = await attached(here, identity, ALL + "&logs=1")
        assert (await receive(stream))[1] == b"before\n"
        stream.send(masked(BINARY, b"that\n"))
        assert await receive_all(stream) == (b"after that\n", 1000)
        old = await attached(here, identity, "logs=1&stdout=1")
        assert await receive_all(old) == (b"before\nafter that\n", 1000)

    drive(scenario)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x82\x02hi", 1002),
        (b"\xc2\x80\0\0\0\0", 1002),
        (masked(PING, b"x", final=False), 1002),
        (masked(CLOSE, b"\x03"), 1002),
        (masked(TEXT, b"\xff\xfe"), 1007),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4), 1009),
    ],
)
def test_hostile_frames(frames: bytes, code: int) -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "cat", OpenStdin=True)
        stream = await attached(here, identity)
        stream.send(frames)
        assert await receive_all(stream) == (b"", code)
        assert await stream.rest() == b""
        assert here.services.instances.find(identity).running

    drive(scenario)


def test_a_client_that_does_not_read_or_vanishes() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await started(client, "yes", OpenStdin=True)
        stream = await attached(here, identity)
        for _ in range(200):
            stream.send(masked(PING, b"p" * 125))
        await receive(stream)
        await stream.close()
        await until(lambda: len(here.server._connections) == 1)
        assert here.services.instances.find(identity).running

    drive(scenario)


def test_refusals_before_the_upgrade() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "cat", OpenStdin=True)
        path = f"/containers/{identity}/attach/ws?stream=1"
        cases: list[tuple[str, dict[str, str], int]] = [
            (path, {"Upgrade": "tcp"}, 400),
            (path, {"Sec_WebSocket_Version": "8"}, 400),
            (path, {"Sec_WebSocket_Key": "AAAA"}, 400),
            (path, {"Connection": ""}, 400),
            ("/containers/nobody/attach/ws", {}, 404),
            (f"/containers/{identity}/attach/ws?detachKeys=ctrl-,x", {}, 400),
        ]
        for target, headers, status in cases:
            other = await here.client()
            head = await upgrade(other, target, **headers)
            assert head.status == status, (target, headers)
            if "Sec_WebSocket_Version" in headers:
                assert head.headers["sec-websocket-version"] == "13"
        assert (await client.call("GET", path)).status == 400

    drive(scenario)


@pytest.mark.needs_root
def test_a_real_container(tmp_path: Any) -> None:
    async def session(path: str) -> None:
        client = Client(*await asyncio.open_unix_connection(path))
        head = await upgrade(client, f"/containers/ws/attach/ws?{ALL}")
        assert head.status == 101
        client.send(masked(BINARY, b"one\ntwo\n"))
        got = b""
        while got.count(b"\n") < 2:
            got += (await receive(client))[1]
        assert got == b"one\ntwo\n"
        client.send(closing(1000))
        while (await receive(client))[0] != CLOSE:
            pass
        await client.close()

    with running_engine(tmp_path) as engine:
        done = engine.bireme("create", "-i", "--name", "ws", "busybox", "cat")
        assert done.returncode == 0, done.stderr
        assert engine.bireme("start", "ws").returncode == 0
        asyncio.run(session(engine.host.removeprefix("unix://")))
        assert engine.bireme("wait", "ws").stdout == "0\n"
        assert engine.bireme("logs", "ws").stdout == "one\ntwo\n"
