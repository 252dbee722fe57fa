"""docker-py against a real engine: the calls that test suites and scripts make."""

from __future__ import annotations

import gc
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually, patience

pytestmark = [
    pytest.mark.needs_root,
    # docker-py leaves sockets of streams and hijacked connections to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

TICKING = ["sh", "-c", "while true; do echo tick; sleep 0.1; done"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("docker-py")) as made:
        yield made


@pytest.fixture
def client(engine: RunningEngine) -> Iterator[Any]:
    made = docker.DockerClient(base_url=engine.host, timeout=int(patience(60)))
    yield made
    for container in made.containers.list(all=True):
        container.remove(force=True)
    made.close()
    gc.collect()


def test_system(client: Any) -> None:
    assert client.ping()
    assert client.version()["ApiVersion"] == "1.55"
    assert client.info()["Driver"] == "overlay"


def test_older_versions(engine: RunningEngine) -> None:
    for version in ("1.24", "1.41", "1.45"):
        made = docker.DockerClient(base_url=engine.host, version=version, timeout=int(patience(60)))
        assert made.containers.run("busybox", "echo old", remove=True) == b"old\n"
        made.close()
    with pytest.raises(APIError, match="is too new"):
        docker.DockerClient(base_url=engine.host, version="1.99").ping()


def test_run(client: Any) -> None:
    assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
    with pytest.raises(ContainerError) as failed:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 5"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (5, b"bad\n")
    with pytest.raises(ImageNotFound):
        client.containers.run("no-such-image:1", "true")
    with pytest.raises(APIError, match="executable file not found"):
        client.containers.run("busybox", "no-such-program")
    with pytest.raises(APIError, match="Minimum memory limit allowed is 6MB"):
        client.containers.create("busybox", mem_limit="1m")


def test_a_life(client: Any) -> None:
    limit = docker.types.Ulimit(name="nofile", soft=100, hard=200)
    container = client.containers.run(
        "busybox",
        TICKING,
        detach=True,
        name="life",
        mem_limit="64m",
        labels={"a": "b"},
        environment={"X": "y"},
        tmpfs={"/run": "size=1m"},
        hostname="inside",
        cap_drop=["ALL"],
        ulimits=[limit],
        network_mode="none",
    )
    container.reload()
    assert container.status == "running"
    assert container.attrs["Config"]["Hostname"] == "inside"
    assert container.attrs["HostConfig"]["Ulimits"] == [{"Name": "nofile", "Soft": 100, "Hard": 200}]
    assert container.exec_run(["sh", "-c", "echo $X; ulimit -n"]).output == b"y\n100\n"
    assert [c.name for c in client.containers.list(filters={"label": "a=b"})] == ["life"]
    reading = container.stats(stream=False)
    assert reading["memory_stats"]["limit"] == 64 << 20
    assert reading["cpu_stats"]["system_cpu_usage"] > reading["precpu_stats"]["system_cpu_usage"]
    assert "CMD" in container.top()["Titles"]
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename("after")
    container.update(mem_limit="32m", memswap_limit="64m")
    container.reload()
    assert container.attrs["HostConfig"]["Memory"] == 32 << 20
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    assert container.logs(tail=1) == b"tick\n"
    container.start()
    container.kill()
    container.wait()
    container.remove()
    with pytest.raises(NotFound):
        client.containers.get("after")


def test_exec(client: Any) -> None:
    container = client.containers.run("busybox", ["sleep", "1000"], detach=True, network_mode="none")
    for _ in range(5):
        result = container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 3"], demux=True)
        assert (result.exit_code, result.output) == (3, (b"out\n", b"err\n"))
    assert container.exec_run(["tty"], tty=True).output.startswith(b"/dev/pts/")
    api = client.api
    identity = api.exec_create(container.id, ["cat"], stdin=True)["Id"]
    stream = api.exec_start(identity, socket=True)
    stream._sock.sendall(b"hello\n")
    stream._sock.shutdown(socket.SHUT_WR)
    assert _read_all(stream._sock).endswith(b"hello\n")
    stream.close()
    assert api.exec_inspect(identity)["ExitCode"] == 0
    assert b"".join(container.exec_run(["seq", "3"], stream=True).output) == b"1\n2\n3\n"
    container.exec_run(["touch", "/made"], detach=True)
    eventually(lambda: container.exec_run(["test", "-e", "/made"]).exit_code == 0)


def _read_all(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def test_attach(client: Any) -> None:
    api = client.api
    host = api.create_host_config(network_mode="none")
    identity = api.create_container("busybox", ["cat"], stdin_open=True, host_config=host)["Id"]
    stream = api.attach_socket(identity, params={"stdin": 1, "stdout": 1, "stream": 1})
    api.start(identity)
    stream._sock.sendall(b"over\n")
    assert stream._sock.recv(100).endswith(b"over\n")
    stream.close()
    assert api.inspect_container(identity)["State"]["Running"]


def test_logs_and_events(client: Any) -> None:
    events = client.events(decode=True, filters={"type": "container"})
    container = client.containers.create("busybox", TICKING, network_mode="none", name="noisy")
    starter = threading.Thread(target=container.start)
    starter.start()
    assert [next(events)["Action"] for _ in range(2)] == ["create", "start"]
    starter.join()
    events.close()
    lines = container.logs(stream=True, follow=True)
    assert [next(lines) for _ in range(3)] == [b"tick\n"] * 3
    lines.close()
    stamped = container.logs(timestamps=True, tail=1)
    assert stamped.endswith(b"Z tick\n")


def test_images(client: Any, tmp_path: pathlib.Path) -> None:
    image = client.images.get("busybox")
    assert image.tags == ["busybox:latest"]
    archive = b"".join(image.save())
    image.tag("loc.example/al", "t1")
    assert sorted(client.images.get("busybox").tags) == ["busybox:latest", "loc.example/al:t1"]
    client.images.remove("loc.example/al:t1")
    (loaded,) = client.images.load(archive)
    assert loaded.id == image.id
    assert image.history()[0]["Id"] == image.id
    with pytest.raises(ImageNotFound):
        client.images.get("nothing")
    with pytest.raises(ImageNotFound):
        client.images.pull("alpine")


def test_volumes(client: Any) -> None:
    volume = client.volumes.create("data", labels={"a": "b"})
    assert (volume.name, volume.attrs["Driver"], volume.attrs["Labels"]) == ("data", "local", {"a": "b"})
    mounted = {"data": {"bind": "/d", "mode": "rw"}}
    client.containers.run("busybox", "touch /d/file", volumes=mounted, remove=True)
    assert client.containers.run("busybox", "ls /d", volumes={"data": {"bind": "/d", "mode": "ro"}}, remove=True) == (
        b"file\n"
    )
    keeping = client.containers.create("busybox", "true", volumes=mounted)
    with pytest.raises(APIError, match="remove data: volume is in use") as caught:
        volume.remove()
    assert caught.value.status_code == 409
    assert [v.name for v in client.volumes.list(filters={"dangling": False})] == ["data"]
    keeping.remove(v=True)
    assert client.volumes.prune(filters={"all": True})["VolumesDeleted"] == ["data"]
    with pytest.raises(NotFound):
        client.volumes.get("data")


def test_networks_volumes_prune(client: Any) -> None:
    assert sorted(n.name for n in client.networks.list()) == ["bridge", "host", "none"]
    assert client.networks.get("bridge").attrs["Driver"] == "bridge"
    assert client.volumes.list() == []
    client.containers.create("busybox", "true")
    assert len(client.containers.prune()["ContainersDeleted"]) == 1
    with pytest.raises(APIError, match="not supported yet"):
        client.networks.create("mine")
