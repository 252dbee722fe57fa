"""The Engine API over an engine in memory: a container's life, listings, refusals, by raw HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.rawhttp import Client, ServedEngine, served_engine

Scenario = Callable[[ServedEngine, Client], Awaitable[None]]


def drive(scenario: Scenario) -> None:
    async def main() -> None:
        async with served_engine() as here:
            await scenario(here, await here.client())

    asyncio.run(main())


async def create(client: Client, *command: str, name: str = "c", version: str = "", **config: Any) -> str:
    body = {"Image": "busybox", "Cmd": list(command), **config}
    reply = await client.call("POST", f"{version}/containers/create?name={name}", body)
    assert reply.status == 201, reply.body
    return str(reply.json["Id"])


def test_create_start_wait_remove() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        identity = await create(client, "sh", "-c", "exit 3")
        waiter = await here.client()
        waiter.send(f"POST /containers/{identity}/wait?condition=next-exit HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await waiter.head()
        assert (head.status, head.headers["content-type"]) == (200, "application/json")
        assert (await client.call("POST", "/containers/c/start")).status == 204
        body = b"".join([chunk async for chunk in waiter.chunks()])
        assert json.loads(body) == {"StatusCode": 3}
        assert (await client.call("POST", "/containers/c/start")).status == 204
        assert (await client.call("POST", "/containers/c/wait")).json == {"StatusCode": 3}
        assert (await client.call("DELETE", "/containers/c")).status == 204
        reply = await client.call("GET", "/containers/c/json")
        assert (reply.status, reply.message) == (404, "No such container: c")

    drive(scenario)


def test_states_and_their_refusals() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        await create(client, "sleep", "1000")
        verbs = [
            ("POST", "/containers/c/kill", 409),
            ("POST", "/containers/c/stop", 304),
            ("POST", "/containers/c/pause", 409),
            ("POST", "/containers/c/start", 204),
            ("POST", "/containers/c/start", 304),
            ("DELETE", "/containers/c", 409),
            ("POST", "/containers/c/pause", 204),
            ("POST", "/containers/c/pause", 409),
            ("POST", "/containers/c/attach?stream=1&stdout=1", 409),
            ("POST", "/containers/c/unpause", 204),
            ("POST", "/containers/c/rename?name=d", 204),
            ("POST", "/containers/zz/kill", 404),
            ("POST", "/containers/d/kill?signal=SIGNOPE", 400),
            ("POST", "/containers/d/stop?t=x", 400),
            ("POST", "/containers/d/restart?t=0", 204),
            ("POST", "/containers/d/kill?signal=TERM", 204),
        ]
        for method, path, status in verbs:
            reply = await client.call(method, path)
            assert reply.status == status, (path, reply.body)
        assert (await client.call("POST", "/containers/d/wait")).json == {"StatusCode": 143}
        assert (await client.call("DELETE", "/containers/d?force=1")).status == 204

    drive(scenario)


def test_start_failures_carry_what_the_cli_looks_for() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        for command, text in (("no-such-program", "executable file not found"), ("/etc/passwd", "permission denied")):
            await create(client, command, name="x")
            reply = await client.call("POST", "/containers/x/start")
            assert reply.status == 400
            assert text in reply.message
            await client.call("DELETE", "/containers/x")

    drive(scenario)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("", b"", 400, "invalid JSON: got EOF while reading request body"),
        ("", b"{", 400, "invalid JSON: unexpected EOF"),
        ("", b"{}", 400, "config cannot be empty in order to create a container"),
        ("", b"null", 400, "config cannot be empty in order to create a container"),
        ("", {"Image": "nope"}, 404, "No such image: nope:latest"),
        ("", {"Image": "nope:1"}, 404, "No such image: nope:1"),
        ("", {"Image": 7}, 400, "invalid JSON: json: cannot unmarshal number into Go struct field"),
        ("", {"Image": "busybox", "HostConfig": {"Memory": 1}}, 400, "Minimum memory limit allowed is 6MB"),
        ("", {"Image": "busybox", "HostConfig": {"Memory": -1}}, 400, "Minimum memory limit allowed is 6MB"),
        ("", {"Image": "busybox", "HostConfig": {"NanoCpus": -1}}, 400, "range of CPUs is from 0.01 to"),
        ("", {"Image": "busybox", "HostConfig": {"CapAdd": ["X"]}}, 400, 'invalid CapAdd: unknown capability: "CAP_X"'),
        ("", {"Image": "busybox", "HostConfig": {"Links": ["a"]}}, 501, "links are not supported: a"),
        ("?platform=linux/riscv64", {"Image": "busybox"}, 404, "does not provide the specified platform"),
        ("?platform=linux/amd64", {"Image": "busybox"}, 201, ""),
        ("?platform=a/b/c/d", {"Image": "busybox"}, 400, "unknown operating system or architecture"),
        ("?name=taken", {"Image": "busybox"}, 409, 'Conflict. The container name "/taken" is already in use'),
    ],
)
def test_create_refusals(path: str, body: Any, status: int, message: str) -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        await create(client, "true", name="taken")
        reply = await client.call("POST", f"/containers/create{path}", body)
        assert reply.status == status, reply.body
        if message:
            assert message in reply.message

    drive(scenario)


def test_content_types() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        for head, text in (
            (
                b"Content-Type: text/plain\r\n",
                "unsupported Content-Type header (text/plain): must be 'application/json'",
            ),
            (b"", "malformed Content-Type header (): mime: no media type"),
        ):
            client.send(b"POST /containers/create HTTP/1.1\r\nHost: x\r\n" + head + b"Content-Length: 2\r\n\r\n{}")
            reply = await client.reply()
            assert (reply.status, reply.message) == (400, text)

    drive(scenario)


def test_inspect() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        host = {"Memory": 64 << 20, "NanoCpus": 10**9, "Binds": ["/tmp:/x:ro"], "PidsLimit": 7}
        identity = await create(
            client, "sleep", "1000", Labels={"a": "b"}, HostConfig=host, Tty=True, StopSignal="QUIT"
        )
        shown = (await client.call("GET", f"/containers/{identity[:12]}/json")).json
        assert (shown["Id"], shown["Name"], shown["Path"], shown["Args"]) == (identity, "/c", "sleep", ["1000"])
        assert shown["State"]["Status"] == "created"
        assert shown["State"]["StartedAt"] == "0001-01-01T00:00:00Z"
        config = shown["Config"]
        assert (config["Labels"], config["Tty"], config["Hostname"]) == ({"a": "b"}, True, identity[:12])
        assert config["StopSignal"] == "QUIT"
        limits = shown["HostConfig"]
        assert (limits["Memory"], limits["MemorySwap"], limits["NanoCpus"]) == (64 << 20, 128 << 20, 10**9)
        assert (limits["CpuQuota"], limits["PidsLimit"], limits["Binds"]) == (0, 7, ["/tmp:/x:ro"])
        (mount,) = shown["Mounts"]
        assert (mount["Type"], mount["Source"], mount["Destination"], mount["RW"]) == ("bind", "/tmp", "/x", False)
        assert "IPAddress" not in shown["NetworkSettings"]
        old = (await client.call("GET", "/v1.47/containers/c/json")).json
        assert old["NetworkSettings"]["IPAddress"] == ""
        reply = await client.call("POST", "/containers/c/update", {"Memory": 32 << 20, "MemorySwap": 64 << 20})
        assert reply.json == {"Warnings": []}
        shown = (await client.call("GET", "/containers/c/json")).json
        assert (shown["HostConfig"]["Memory"], shown["HostConfig"]["MemorySwap"]) == (32 << 20, 64 << 20)
        await client.call("POST", "/containers/c/start")
        state = (await client.call("GET", "/containers/c/json")).json["State"]
        assert (state["Running"], state["Pid"] > 0) == (True, True)

    drive(scenario)


def test_listing() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        for name in ("one", "two", "three"):
            await create(client, "sleep", "1000", name=name, Labels={"n": name})
        await client.call("POST", "/containers/two/start")

        async def names(query: str) -> list[str]:
            reply = await client.call("GET", f"/containers/json?{query}")
            assert reply.status == 200, reply.body
            return [row["Names"][0] for row in reply.json]

        def filtered(**filters: Any) -> str:
            return "all=1&filters=" + quote(
                json.dumps({k: v if isinstance(v, dict) else [v] for k, v in filters.items()})
            )

        assert await names("") == ["/two"]
        assert await names("all=1") == ["/three", "/two", "/one"]
        assert await names("all=1&limit=2") == ["/three", "/two"]
        assert await names(filtered(name="^/t")) == ["/three", "/two"]
        assert await names(filtered(name={"one": True, "two": False})) == ["/one"]
        assert await names(filtered(label="n=one")) == ["/one"]
        assert await names(filtered(status="running")) == ["/two"]
        assert await names(filtered(status="created")) == ["/three", "/one"]
        assert await names(filtered(before="two")) == ["/one"]
        assert await names(filtered(since="two")) == ["/three"]
        assert await names(filtered(ancestor="busybox")) == ["/three", "/two", "/one"]
        assert await names(filtered(ancestor="nope")) == []
        assert await names(filtered(network="bridge", name="one")) == ["/one"]
        assert await names(filtered(network="host")) == []
        await client.call("POST", "/containers/two/kill")
        await client.call("POST", "/containers/two/wait")
        assert await names(filtered(exited="137")) == ["/two"]
        row = (await client.call("GET", "/containers/json?" + filtered(name="two"))).json[0]
        assert row["Status"].startswith("Exited (137) Less than a second ago")
        assert (row["Image"], row["Command"], row["State"]) == ("busybox", "sleep 1000", "exited")
        for bad in (filtered(nope="x"), filtered(status="up"), filtered(exited="x"), "filters=[1]", "limit=x"):
            assert (await client.call("GET", f"/containers/json?{bad}")).status == 400

    drive(scenario)


def test_prune() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        kept = await create(client, "sleep", "1000", name="kept")
        await client.call("POST", "/containers/kept/start")
        gone = await create(client, "true", name="gone", Labels={"a": ""})
        await create(client, "true", name="other")
        filters = quote(json.dumps({"label": ["a"]}))
        reply = await client.call("POST", f"/containers/prune?filters={filters}")
        assert reply.json == {"ContainersDeleted": [gone], "SpaceReclaimed": 0}
        await client.call("POST", "/containers/prune")
        assert [i.id for i in here.services.instances.all()] == [kept]

    drive(scenario)


def test_readings() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        await create(client, "sleep", "1000")
        await client.call("POST", "/containers/c/start")
        top = (await client.call("GET", "/containers/c/top")).json
        assert top["Titles"][:3] == ["UID", "PID", "PPID"]
        assert top["Processes"][0][-1] == "sleep 1000"
        stat = (await client.call("GET", "/containers/c/stats?stream=0&one-shot=1")).json
        assert (stat["name"], stat["pids_stats"]["current"]) == ("/c", 1)
        assert stat["memory_stats"]["usage"] == 4096
        client.send(b"GET /containers/c/stats HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.head()).status == 200
        first, second = json.loads(await client.chunk()), json.loads(await client.chunk())
        assert second["preread"] == first["read"]
        explained = await (await here.client()).call("GET", "/bireme/v1/instances/c/explain")
        assert explained.json["processes"] == []

    drive(scenario)


def test_images() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        (row,) = (await client.call("GET", "/images/json")).json
        assert (row["RepoTags"], row["Containers"]) == (["busybox:latest"], 0)
        assert "VirtualSize" in (await client.call("GET", "/v1.43/images/json")).json[0]
        assert (await client.call("GET", "/images/busybox/json")).json["Config"]["Cmd"] == ["sh"]
        assert (await client.call("GET", "/images/nope/json")).status == 404
        assert (await client.call("POST", "/images/busybox/tag?repo=reg.example/a/b&tag=1")).status == 201
        assert (await client.call("GET", "/images/reg.example/a/b:1/json")).status == 200
        assert (await client.call("GET", "/images/busybox/history")).json[0]["Created"] == 1767323045
        reply = await client.call("DELETE", "/images/reg.example/a/b:1")
        assert reply.json == [{"Untagged": "reg.example/a/b:1"}]
        assert (await client.call("GET", "/images/busybox/get")).body.startswith(b"sha256:")
        assert (await client.call("GET", "/images/get?names=nope")).status == 404
        reply = await client.call("POST", "/images/create?fromImage=alpine&tag=3")
        assert reply.status == 404
        assert "alpine:3" in reply.message
        client.send(
            b"POST /images/load?quiet=0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        lines = [json.loads(line) for line in (await client.reply()).body.splitlines()]
        assert [("progressDetail" in line, line.get("stream")) for line in lines] == [
            (True, None),
            (False, "Loaded image: busybox:latest\n"),
        ]
        assert here.services.images.loaded == [b"abc"]
        reply = await client.call("POST", "/bireme/v1/bootstrap", {"image": "nothing"})
        assert json.loads(reply.body)["error"] == "nothing is known of nothing"

    drive(scenario)


def test_system_and_what_is_not_there() -> None:
    async def scenario(here: ServedEngine, client: Client) -> None:
        reply = await client.call("GET", "/_ping")
        assert reply.body == b"OK"
        for name, value in {
            "api-version": "1.55",
            "ostype": "linux",
            "docker-experimental": "false",
            "builder-version": "1",
            "cache-control": "no-cache, no-store, must-revalidate",
            "swarm": "inactive",
        }.items():
            assert reply.headers[name] == value
        assert (await client.call("HEAD", "/v1.24/_ping")).status == 200
        assert (await client.call("GET", "/version")).json["ApiVersion"] == "1.55"
        assert (await client.call("GET", "/info")).json["Driver"] == "overlay"
        reply = await client.call("GET", "/v1.12/info")
        assert (reply.status, reply.headers["content-type"]) == (400, "text/plain; charset=utf-8")
        assert reply.body.startswith(b"client version 1.12 is too old. Minimum supported API version is 1.24")
        assert (await client.call("GET", "/v1.99/info")).message == (
            "client version 1.99 is too new. Maximum supported API version is 1.55"
        )
        for method, path, status in (
            ("GET", "/nowhere", 404),
            ("GET", "/nodes", 503),
            ("POST", "/swarm/init", 501),
            ("POST", "/swarm/leave", 503),
            ("POST", "/build", 501),
            ("POST", "/auth", 501),
            ("GET", "/volumes/x", 404),
            ("POST", "/networks/create", 501),
            ("DELETE", "/networks/bridge", 403),
            ("GET", "/networks/nope", 404),
            ("GET", "/distribution/a/b/json", 501),
        ):
            reply = await client.call(method, path)
            assert (reply.status, bool(reply.message)) == (status, True)
        assert (await client.call("GET", "/volumes")).json == {"Volumes": [], "Warnings": None}
        assert [n["Name"] for n in (await client.call("GET", "/networks")).json] == ["bridge", "host", "none"]
        filters = quote(json.dumps({"driver": ["null"]}))
        assert [n["Name"] for n in (await client.call("GET", f"/networks?filters={filters}")).json] == ["none"]

    drive(scenario)
