"""Streams of the Engine API over an engine in memory: attach, exec, logs, events, by raw sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from bireme.wire.stdcopy import Decoder
from tests.support.pace import patience
from tests.support.rawhttp import Client, Reply, ServedEngine, served_engine

Scenario = Callable[[ServedEngine, Client], Awaitable[None]]


def drive(scenario: Scenario) -> None:
    async def main() -> None:
        async with served_engine() as here:
            await scenario(here, await here.client())

    asyncio.run(main())


async def create(client: Client, *command: str, **config: Any) -> str:
    body = {"Image": "busybox", "Cmd": list(command), **config}
    return str((await client.call("POST", "/containers/create", body)).json["Id"])


async def hijack(client: Client, path: str, body: bytes = b"", *, upgrade: bool = True, early: bytes = b"") -> Reply:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    if upgrade:
        lines += ["Connection: Upgrade", "Upgrade: tcp"]
    client.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body + early)
    return await client.head()


def split(data: bytes) -> dict[int, bytes]:
    decoder = Decoder()
    found: dict[int, bytes] = {}
    for stream, piece in decoder.feed(data):
        found[stream] = found.get(stream, b"") + piece
    assert decoder.complete
    return found


def test_attach_before_start_loses_nothing() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sh", "-c", "echo out; echo err >&2")
        stream = await here.client()
        head = await hijack(stream, f"/containers/{identity}/attach?stream=1&stdout=1&stderr=1")
        assert (head.status, head.headers["content-type"]) == (101, "application/vnd.docker.multiplexed-stream")
        await client.call("POST", f"/containers/{identity}/start")
        assert split(await stream.rest()) == {1: b"out\n", 2: b"err\n"}

    drive(scenario)


def test_attach_of_old_clients() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "echo", "hi")
        stream = await here.client()
        head = await hijack(stream, f"/v1.24/containers/{identity}/attach?stream=1&stdout=1", upgrade=False)
        assert (head.status, head.headers["content-type"]) == (200, "application/vnd.docker.raw-stream")
        await client.call("POST", f"/containers/{identity}/start")
        assert split(await stream.rest()) == {1: b"hi\n"}

    drive(scenario)


def test_stdin_sent_before_start_and_half_closed() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sort", OpenStdin=True, StdinOnce=True, AttachStdin=True)
        stream = await here.client()
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        assert (await hijack(stream, f"/containers/{identity}/attach?{query}", early=b"b\n")).status == 101
        stream.send(b"a\n")
        stream.half_close()
        await client.call("POST", f"/containers/{identity}/start")
        assert split(await stream.rest()) == {1: b"a\nb\n"}
        assert (await client.call("POST", f"/containers/{identity}/wait")).json == {"StatusCode": 0}

    drive(scenario)


def test_attach_with_logs_shows_what_was() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sh", "-c", "echo before; read x; echo after $x", OpenStdin=True)
        await client.call("POST", f"/containers/{identity}/start")
        instance = here.services.instances.find(identity)
        while not instance.records:
            await asyncio.sleep(0.01)
        stream = await here.client()
        await hijack(stream, f"/containers/{identity}/attach?stream=1&stdin=1&stdout=1&logs=1")
        stream.send(b"that\n")
        assert split(await stream.rest()) == {1: b"before\nafter that\n"}

    drive(scenario)


def test_terminal_and_detach_keys() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "cat", Tty=True, OpenStdin=True)
        await client.call("POST", f"/containers/{identity}/start")
        assert (await client.call("POST", f"/containers/{identity}/resize?h=20&w=90")).status == 200
        assert here.services.instances.find(identity).size == (20, 90)
        for query, keys in (("", b"\x10\x11"), ("&detachKeys=ctrl-a,b", b"\x01b")):
            stream = await here.client()
            head = await hijack(stream, f"/containers/{identity}/attach?stream=1&stdin=1&stdout=1{query}")
            assert head.headers["content-type"] == "application/vnd.docker.raw-stream"
            stream.send(b"hi\n")
            assert await stream.exactly(4) == b"hi\r\n"
            assert await stream.exactly(4) == b"hi\r\n"
            stream.send(keys[:1])
            stream.send(keys[1:])
            assert await stream.rest() == b""
        assert here.services.instances.find(identity).running
        bad = await client.call("POST", f"/containers/{identity}/attach?detachKeys=ctrl-,x")
        assert (bad.status, bad.message) == (400, "Invalid detach keys (ctrl-,x) provided")

    drive(scenario)


def test_client_of_an_attach_that_vanishes() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sleep", "1000", OpenStdin=True)
        await client.call("POST", f"/containers/{identity}/start")
        stream = await here.client()
        await hijack(stream, f"/containers/{identity}/attach?stream=1&stdin=1&stdout=1")
        await stream.close()
        for _ in range(1000):
            if len(here.server._connections) == 1:
                break
            await asyncio.sleep(0.01)
        assert len(here.server._connections) == 1
        assert here.services.instances.find(identity).running

    drive(scenario)


async def exec_of(client: Client, identity: str, *command: str, **body: Any) -> str:
    body = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, **body}
    reply = await client.call("POST", f"/containers/{identity}/exec", body)
    assert reply.status == 201, reply.body
    return str(reply.json["Id"])


async def running(client: Client) -> str:
    identity = await create(client, "sleep", "1000")
    await client.call("POST", f"/containers/{identity}/start")
    return identity


def test_exec() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        exec_id = await exec_of(
            client, await running(client), "sh", "-c", "cat; echo err >&2; exit 5", AttachStdin=True
        )
        stream = await here.client()
        body = json.dumps({"Detach": False, "Tty": False}).encode()
        head = await hijack(stream, f"/exec/{exec_id}/start", body, early=b"early ")
        assert (head.status, head.headers["content-type"]) == (101, "application/vnd.docker.multiplexed-stream")
        stream.send(b"late\n")
        stream.half_close()
        assert split(await stream.rest()) == {1: b"early late\n", 2: b"err\n"}
        shown = (await client.call("GET", f"/exec/{exec_id}/json")).json
        assert (shown["ExitCode"], shown["Running"], shown["OpenStdin"]) == (5, False, True)
        assert shown["ProcessConfig"]["entrypoint"] == "sh"

    drive(scenario)


def test_exec_moves_a_lot_both_ways() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        exec_id = await exec_of(client, await running(client), "cat", AttachStdin=True)
        stream = await here.client()
        await hijack(stream, f"/exec/{exec_id}/start", b"{}")
        payload = bytes(range(256)) * 20_000

        async def write() -> None:
            for position in range(0, len(payload), 65536):
                stream.send(payload[position : position + 65536])
                await stream.writer.drain()
            stream.half_close()

        _, received = await asyncio.gather(write(), stream.rest())
        assert split(received) == {1: payload}

    drive(scenario)


def test_exec_with_terminal_and_detached() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await running(client)
        exec_id = await exec_of(client, identity, "sh", "-c", "test -t 0 && echo yes", Tty=True, AttachStdin=True)
        stream = await here.client()
        head = await hijack(stream, f"/exec/{exec_id}/start", b'{"Tty":true,"ConsoleSize":[7,9]}')
        assert head.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert await stream.rest() == b"yes\r\n"
        assert here.services.execs.find(exec_id).size == (7, 9)
        exec_id = await exec_of(client, identity, "true")
        assert (await client.call("POST", f"/exec/{exec_id}/start", {"Detach": True})).status == 200
        assert (await client.call("POST", "/exec/nope/start", {})).message == "No such exec instance: nope"
        assert (await client.call("POST", f"/containers/{identity}/exec", {})).message == "No exec command specified"
        await client.call("POST", f"/containers/{identity}/kill")
        await client.call("POST", f"/containers/{identity}/wait")
        reply = await client.call("POST", f"/containers/{identity}/exec", {"Cmd": ["true"]})
        assert (reply.status, "is not running" in reply.message) == (409, True)

    drive(scenario)


def test_exec_of_a_missing_command_says_so_in_its_output() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        exec_id = await exec_of(client, await running(client), "no-such-program")
        stream = await here.client()
        assert (await hijack(stream, f"/exec/{exec_id}/start", b"{}")).status == 101
        assert b"executable file not found" in split(await stream.rest())[1]
        assert (await client.call("GET", f"/exec/{exec_id}/json")).json["ExitCode"] == 127

    drive(scenario)


def test_exec_outlives_its_client() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        script = (
            "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; exit 9"
        )
        exec_id = await exec_of(client, await running(client), "sh", "-c", script)
        stream = await here.client()
        await hijack(stream, f"/exec/{exec_id}/start", b"{}")
        await stream.close()
        record = here.services.execs.find(exec_id)

        async def ended() -> None:
            while record.exit_code is None:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(ended(), patience(20))
        assert record.exit_code == 9

    drive(scenario)


def test_logs() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sh", "-c", "echo one; echo two >&2; echo three")
        await client.call("POST", f"/containers/{identity}/start")
        await client.call("POST", f"/containers/{identity}/wait")
        path = f"/containers/{identity}/logs"
        assert (await client.call("GET", path)).message == "must specify at least one of 'stdout' or 'stderr'"
        reply = await client.call("GET", f"{path}?stdout=1&stderr=1")
        assert split(reply.body) == {1: b"one\nthree\n", 2: b"two\n"}
        assert (await client.call("GET", f"{path}?stdout=1&tail=0")).body == b""
        assert split((await client.call("GET", f"{path}?stdout=1&tail=all&stderr=0")).body) == {1: b"one\nthree\n"}
        stamped = split((await client.call("GET", f"{path}?stderr=1&timestamps=1")).body)[2]
        assert stamped.endswith(b"Z two\n")
        assert len(stamped.split()[0]) == len("2026-01-02T03:04:05.123456789Z")
        assert (await client.call("GET", f"{path}?stdout=1&since=x")).status == 400
        assert (await client.call("GET", f"{path}?stdout=1&until=1.5")).body == b""

    drive(scenario)


def test_logs_follow_until_the_end() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sh", "-c", "echo one; read x; echo $x", OpenStdin=True)
        await client.call("POST", f"/containers/{identity}/start")
        follower = await here.client()
        follower.send(f"GET /containers/{identity}/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await follower.head()).status == 200
        assert split(await follower.chunk()) == {1: b"one\n"}
        stream = await here.client()
        await hijack(stream, f"/containers/{identity}/attach?stream=1&stdin=1")
        stream.send(b"two\n")
        assert split(await follower.chunk()) == {1: b"two\n"}
        assert await follower.chunk() == b""

    drive(scenario)


def test_events() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        watcher = await here.client()
        filters = "%7B%22event%22%3A%5B%22create%22%2C%22die%22%5D%7D"
        watcher.send(f"GET /v1.45/events?filters={filters} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await watcher.head()).headers["content-type"] == "application/json"
        identity = await create(client, "true", Labels={"k": "v"})
        await client.call("POST", f"/containers/{identity}/start")
        first, second = json.loads(await watcher.chunk()), json.loads(await watcher.chunk())
        assert (first["Action"], first["status"], first["id"], first["from"]) == (
            "create",
            "create",
            identity,
            "busybox",
        )
        assert first["Actor"]["Attributes"]["k"] == "v"
        assert (second["Action"], second["Actor"]["Attributes"]["exitCode"]) == ("die", "0")
        past = await client.call("GET", "/events?since=1&until=2")
        assert (past.body, past.headers["content-type"]) == (b"", "application/jsonl")
        whole = await client.call("GET", f"/events?since=1&until={first['time'] + 1}")
        actions = [json.loads(line)["Action"] for line in whole.body.splitlines()]
        assert actions[:2] == ["create", "start"]
        assert (await client.call("GET", "/events?since=9&until=3")).status == 400
        assert (await client.call("GET", "/events?filters=%7B%22x%22%3A%5B%22y%22%5D%7D")).status == 400

    drive(scenario)
