"""Namespaces of another container, or of the host, against a real engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from bireme.client.errors import ApiError
from tests.support.daemon import RunningEngine, running_engine
from tests.support.pace import eventually

pytestmark = pytest.mark.needs_root

SAYS_HI = ("busybox", "sh", "-c", "echo hi > /dev/shm/x; sleep 600")
SLEEP = ("busybox", "sleep", "600")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.fixture
def engine(shared: RunningEngine) -> Iterator[RunningEngine]:
    yield shared
    left = shared.bireme("ps", "-aq").stdout.split()
    if left:
        shared.bireme("rm", "-f", *left)


def _ok(engine: RunningEngine, *words: str, **more: Any) -> str:
    done = engine.bireme(*words, **more)
    assert (done.returncode, done.stderr) == (0, ""), (words, done, engine.log())
    return done.stdout.strip()


def _fails(engine: RunningEngine, *words: str) -> str:
    done = engine.bireme(*words)
    assert done.returncode != 0, (words, done)
    return done.stderr


def _space(engine: RunningEngine, name: str, kind: str) -> str:
    pid = _ok(engine, "inspect", "-f", "{{.State.Pid}}", name)
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def _same(engine: RunningEngine, one: str, other: str, *kinds: str) -> None:
    for kind in kinds:
        assert _space(engine, one, kind) == _space(engine, other, kind), kind


def test_network_of_another_container(engine: RunningEngine) -> None:
    web = _ok(engine, "run", "-d", "--name", "web", "--add-host", "db:10.9.8.7", *SLEEP)
    _ok(engine, "run", "-d", "--name", "side", "--network", "container:web", *SLEEP)
    _same(engine, "side", "web", "net", "user")
    assert _space(engine, "side", "uts") != _space(engine, "web", "uts")
    assert _space(engine, "side", "pid") != _space(engine, "web", "pid")
    for file in ("hosts", "resolv.conf", "hostname"):
        mine, theirs = (_ok(engine, "exec", name, "cat", f"/etc/{file}") for name in ("side", "web"))
        assert mine == theirs
    assert "10.9.8.7\tdb" in _ok(engine, "exec", "side", "cat", "/etc/hosts")
    assert _ok(engine, "exec", "side", "hostname") == web[:12]
    assert f"HOSTNAME={web[:12]}" in _ok(engine, "exec", "side", "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ")
    assert _ok(engine, "inspect", "-f", "{{.HostConfig.NetworkMode}}", "side") == f"container:{web}"
    _ok(engine, "exec", "-d", "web", "nc", "-l", "-p", "80", "-e", "echo", "hello")
    assert eventually(lambda: engine.bireme("exec", "side", "nc", "127.0.0.1", "80").stdout.strip()) == "hello"
    assert _ok(engine, "exec", "side", "ping", "-c", "1", "127.0.0.1")


def test_what_shares_a_network_is_not_root_outside(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "web", *SLEEP)
    _ok(engine, "run", "-d", "--name", "side", "--network", "container:web", *SLEEP)
    pids = [_ok(engine, "inspect", "-f", "{{.State.Pid}}", name) for name in ("web", "side")]
    owners = [os.stat(f"/proc/{pid}").st_uid for pid in pids]
    assert owners[0] == owners[1] > 0


def test_the_range_of_ids_stays_taken_while_it_is_used(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "web", *SLEEP)
    _ok(engine, "run", "-d", "--name", "side", "--network", "container:web", *SLEEP)
    _ok(engine, "rm", "-f", "web")
    for number in range(4):
        _ok(engine, "run", "-d", "--name", f"other{number}", "--network", "none", *SLEEP)
    names = ["side", *(f"other{n}" for n in range(4))]
    bases = {os.stat(f"/proc/{_ok(engine, 'inspect', '-f', '{{.State.Pid}}', n)}").st_uid for n in names}
    assert len(bases) == len(names)


def test_the_network_goes_on_without_its_interface(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "web", *SLEEP)
    _ok(engine, "run", "-d", "--name", "side", "--network", "container:web", *SLEEP)
    assert "eth0" in _ok(engine, "exec", "side", "ls", "/sys/class/net")
    before = _space(engine, "side", "net")
    _ok(engine, "stop", "-t", "0", "web")
    assert _space(engine, "side", "net") == before
    assert eventually(lambda: "eth0" not in _ok(engine, "exec", "side", "ls", "/sys/class/net"))
    assert _ok(engine, "exec", "side", "ping", "-c", "1", "127.0.0.1")
    _ok(engine, "start", "web")
    assert _space(engine, "web", "net") != before
    _ok(engine, "restart", "-t", "0", "side")
    _same(engine, "side", "web", "net", "user")
    assert "eth0" in _ok(engine, "exec", "side", "ls", "/sys/class/net")


@pytest.mark.parametrize("program", ["bireme-supervisor", "biremed"])
def test_what_is_shared_survives_its_keepers(engine: RunningEngine, program: str) -> None:
    _ok(engine, "run", "-d", "--name", "web", *SLEEP)
    _ok(engine, "run", "-d", "--name", "side", "--network", "container:web", *SLEEP)
    engine.kill(program)
    if program == "biremed":
        engine.start()
    eventually(lambda: engine.bireme("exec", "side", "true").returncode == 0)
    _ok(engine, "rm", "-f", "web")
    assert eventually(lambda: "eth0" not in _ok(engine, "exec", "side", "ls", "/sys/class/net"))
    _ok(engine, "run", "-d", "--name", "other", "--network", "none", *SLEEP)
    bases = [os.stat(f"/proc/{_ok(engine, 'inspect', '-f', '{{.State.Pid}}', n)}").st_uid for n in ("side", "other")]
    assert bases[0] != bases[1]


def test_who_does_not_run_cannot_be_joined(engine: RunningEngine) -> None:
    idle = _ok(engine, "create", "--name", "idle", *SLEEP)
    refused = _fails(engine, "run", "--network", "container:idle", *SLEEP)
    assert "cannot join network namespace of a non running container: container idle is created" in refused
    refused = _fails(engine, "run", "--pid", "container:idle", *SLEEP)
    assert f"failed to join PID namespace: container {idle} is not running" in refused
    refused = _fails(engine, "run", "--ipc", "container:idle", *SLEEP)
    assert f"failed to join IPC namespace: container {idle} is not running" in refused
    refused = _fails(engine, "run", "--network", "container:nobody", *SLEEP)
    assert "joining network namespace of container: No such container: nobody" in refused


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--hostname", "me"), "conflicting options: hostname and the network mode"),
        (("-p", "80"), "conflicting options: port publishing and the container type network mode"),
        (("-P",), "conflicting options: port publishing and the container type network mode"),
        (("--expose", "80"), "conflicting options: port exposing and the container type network mode"),
        (("--dns", "1.1.1.1"), "conflicting options: dns and the network mode"),
        (("--add-host", "a:1.1.1.1"), "conflicting options: custom host-to-IP mapping and the network mode"),
        (("--link", "web"), "conflicting options: container type network can't be used with links"),
    ],
)
def test_options_that_contradict_a_shared_network(engine: RunningEngine, option: tuple[str, ...], message: str) -> None:
    assert message in _fails(engine, "create", "--network", "container:web", *option, *SLEEP)


def test_pids_of_another_container(engine: RunningEngine) -> None:
    web = _ok(engine, "run", "-d", "--name", "web", "busybox", "sleep", "777")
    _ok(engine, "run", "-d", "--name", "side", "--pid", "container:web", "busybox", "sleep", "778")
    _same(engine, "side", "web", "pid", "user")
    seen = _ok(engine, "exec", "side", "ps")
    assert "sleep 777" in seen
    assert "sleep 778" in seen
    assert _ok(engine, "inspect", "-f", "{{.HostConfig.PidMode}}", "side") == f"container:{web}"
    _ok(engine, "exec", "-d", "side", "sleep", "779")
    _ok(engine, "stop", "-t", "0", "side")
    assert eventually(lambda: "sleep 779" not in _ok(engine, "exec", "web", "ps"))
    assert "sleep 777" in _ok(engine, "exec", "web", "ps")
    _ok(engine, "start", "side")
    _ok(engine, "kill", "web")
    assert _ok(engine, "wait", "side") == "137"


def test_ipc_of_another_container(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "donor", "--ipc", "shareable", *SAYS_HI)
    _ok(engine, "run", "-d", "--name", "side", "--ipc", "container:donor", *SLEEP)
    _same(engine, "side", "donor", "ipc", "user")
    assert eventually(lambda: engine.bireme("exec", "side", "cat", "/dev/shm/x").stdout) == "hi\n"
    _ok(engine, "exec", "side", "sh", "-c", "echo ho > /dev/shm/y")
    assert _ok(engine, "exec", "donor", "cat", "/dev/shm/y") == "ho"
    _ok(engine, "run", "-d", "--name", "third", "--ipc", "container:side", *SLEEP)
    _same(engine, "third", "donor", "ipc")
    _ok(engine, "rm", "-f", "donor")
    assert _ok(engine, "exec", "third", "cat", "/dev/shm/y") == "ho"


def test_ipc_modes_of_its_own(engine: RunningEngine) -> None:
    private = _ok(engine, "run", "-d", "--name", "private", *SLEEP)
    assert f"failed to join IPC namespace: container {private}: non-shareable IPC" in _fails(
        engine, "run", "--ipc", "container:private", *SLEEP
    )
    assert _ok(engine, "run", "--rm", "--ipc", "none", "busybox", "sh", "-c", "ls /dev/shm 2>&1 || true").endswith(
        "No such file or directory"
    )
    assert _ok(engine, "run", "--rm", "--ipc", "host", "busybox", "readlink", "/proc/self/ns/ipc") == os.readlink(
        "/proc/self/ns/ipc"
    )
    assert "invalid IPC mode: nonsense" in _fails(engine, "create", "--ipc", "nonsense", *SLEEP)


@pytest.mark.parametrize(("option", "kind"), [("--uts", "uts"), ("--userns", "user"), ("--cgroupns", "cgroup")])
def test_namespaces_of_the_host(engine: RunningEngine, option: str, kind: str) -> None:
    inside = _ok(engine, "run", "--rm", option, "host", "busybox", "readlink", f"/proc/self/ns/{kind}")
    assert (inside == os.readlink(f"/proc/self/ns/{kind}")) is True


def test_all_of_one_container(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "web", "--ipc", "shareable", *SLEEP)
    modes = ("--network", "container:web", "--pid", "container:web", "--ipc", "container:web")
    _ok(engine, "run", "-d", "--name", "side", *modes, *SLEEP)
    _same(engine, "side", "web", "net", "pid", "ipc", "user")


def test_two_containers_of_different_user_namespaces_cannot_both_be_joined(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "one", *SLEEP)
    _ok(engine, "run", "-d", "--name", "two", *SLEEP)
    both = ("--network", "container:one", "--pid", "container:two")
    assert "different user namespaces" in _fails(engine, "run", *both, *SLEEP)
    _ok(engine, "run", "-d", "--name", "side", "--userns", "host", *both, *SLEEP)
    _same(engine, "side", "one", "net")
    _same(engine, "side", "two", "pid")


def test_who_joins_one_of_the_host_is_in_its_user_namespace(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "web", "--userns", "host", *SLEEP)
    _ok(engine, "run", "-d", "--name", "side", "--network", "container:web", *SLEEP)
    _same(engine, "side", "web", "net", "user")


def test_a_name_is_settled_when_it_is_created(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "web", *SLEEP)
    _ok(engine, "create", "--name", "side", "--network", "container:web", *SLEEP)
    _ok(engine, "rename", "web", "other")
    _ok(engine, "start", "side")
    _same(engine, "side", "other", "net")


def test_a_network_of_its_own_makes_no_sense(engine: RunningEngine) -> None:
    client = engine.client()
    try:
        wanted = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "container:self"}}
        client.call("POST", "/containers/create", {"name": "self"}, wanted)
        with pytest.raises(ApiError, match="cannot join own network namespace"):
            client.call("POST", "/containers/self/start")
    finally:
        client.close()
