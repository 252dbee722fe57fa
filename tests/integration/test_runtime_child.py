"""What a child must not do or leave: import after the fork, be open to others, carry another instance's secrets."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bireme.linux import fd, process
from bireme.linux.cgroup import CgroupManager, open_cgroups
from bireme.runtime import defaults, launch, spare, sync
from bireme.runtime import exec as exec_stage
from bireme.runtime.plan import plan_launch
from tests.support.container import UID_BASE, Host

pytestmark = pytest.mark.needs_root


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


class _NoImports:
    """A finder that fails every import in any other process than this one."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:
        if os.getpid() != self.pid:
            raise ImportError(f"import of {name} after the fork")


@pytest.fixture
def no_imports() -> Iterator[None]:
    finder: Any = _NoImports()
    sys.meta_path.insert(0, finder)
    yield
    sys.meta_path.remove(finder)


def test_nothing_is_imported_after_the_fork(host: Host, no_imports: None, tmp_path: Path) -> None:
    def change(config: Any) -> None:
        config["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
        config["process"]["oomScoreAdj"] = 100
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        config["linux"]["maskedPaths"] = ["/root", "/proc/keys"]
        config["linux"]["readonlyPaths"] = ["/etc"]
        config["linux"]["devices"] = [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]
        config["mounts"] += [
            {"destination": "/a/b", "type": "bind", "source": str(tmp_path), "options": ["rbind", "ro"]},
            {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
        ]

    running = host.start("sleep", "1000", change=change, user="kim:staff", groups=("audio",), terminal=True)
    assert running.exec("id", "-u", user="kim").out == "1000\n"
    assert running.exec("true").code == 0
    for args, user in ((["none"], ""), (["true"], "ghost")):
        with pytest.raises(sync.StartFailed) as caught:
            host.start(*args, user=user)
        assert "import" not in caught.value.message
        with pytest.raises(sync.StartFailed) as caught:
            running.exec(*args, user=user)
        assert "import" not in caught.value.message


class Parked:
    """A spare that waits for its plan."""

    def __init__(self) -> None:
        self.ctl, theirs = fd.seqpacket_pair()
        with theirs:
            assert spare.spawn(spare.stock_request("", UID_BASE), theirs, parent=False) == 0
        received = sync.receive_message(self.ctl)
        assert received is not None
        self.pid = received[0]["pid"]
        self.pidfd = received[1][0]
        assert sync.receive_message(self.ctl) == ({"m": "ready"}, [])

    def close(self) -> None:
        self.ctl.close()
        process.wait_pidfd(self.pidfd)
        os.close(self.pidfd)


@pytest.fixture
def parked() -> Iterator[Parked]:
    found = Parked()
    yield found
    found.close()


def test_a_spare_is_not_dumpable_and_holds_few_descriptors(parked: Parked) -> None:
    assert os.stat(f"/proc/{parked.pid}/environ").st_uid == 0
    assert os.stat(f"/proc/{parked.pid}/fd").st_uid == 0, "not owned by the ids it runs as"
    targets = [os.readlink(f"/proc/{parked.pid}/fd/{name}") for name in os.listdir(f"/proc/{parked.pid}/fd")]
    assert not [target for target in targets if "cgroup" in target or "pidfd" in target]
    assert len(targets) <= 12, targets
    status = Path(f"/proc/{parked.pid}/status").read_text()
    assert f"Uid:\t{UID_BASE}\t" in status


def test_a_spare_sees_nothing_of_the_host(parked: Parked) -> None:
    mounts = Path(f"/proc/{parked.pid}/mountinfo").read_text().splitlines()
    assert all(line.split()[4].startswith(("/proc", "/sys", "/dev")) or line.split()[4] == "/" for line in mounts)
    assert sorted(os.listdir(f"/proc/{parked.pid}/root")) == [".empty", "dev", "proc", "sys"]


def reaped() -> list[process.Exit]:
    """Every child that has ended, those that earlier tests left included."""
    found: list[process.Exit] = []
    try:
        while ended := process.wait_any():
            found.append(ended)
    except ChildProcessError:
        pass
    return found


def test_of_several_cloned_in_a_row_one_may_fail() -> None:
    reaped()
    requests = [spare.stock_request("", UID_BASE + 65536 * number) for number in range(3)]
    requests[1]["gid_maps"] = [[0, UID_BASE, 0]]
    pairs = [fd.seqpacket_pair() for _ in requests]
    spare.spawn_several(requests, [theirs for _, theirs in pairs], parent=False)
    for _, theirs in pairs:
        theirs.close()
    pidfds = []
    for number, (ctl, _) in enumerate(pairs):
        received = sync.receive_message(ctl)
        assert received is not None
        message, fds = received
        if number == 1:
            assert (message["m"], message["stage"]) == ("error", "id maps")
            assert sync.receive_message(ctl) is None
            continue
        pidfds += fds
        assert sync.receive_message(ctl) == ({"m": "ready"}, [])
        open_ones = [
            os.readlink(f"/proc/{message['pid']}/fd/{name}") for name in os.listdir(f"/proc/{message['pid']}/fd")
        ]
        assert sum(target.startswith("socket:") for target in open_ones) == 1, open_ones
        assert f"Uid:\t{requests[number]['uid']}\t" in Path(f"/proc/{message['pid']}/status").read_text()
    for ctl, _ in pairs:
        ctl.close()
    for pidfd in pidfds:
        ended = process.wait_pidfd(pidfd)
        assert ended is not None
        assert ended.code == 0
        os.close(pidfd)
    assert 9 in [ended.signal for ended in reaped()], "the one that failed is killed, and left for its parent to reap"


def test_a_plan_meets_a_spare(host: Host, parked: Parked) -> None:
    config = defaults.default_config(["sh", "-c", "id -u; hostname; touch /x"])
    plan = plan_launch(config, host.root(), user="0", seccomp="default")
    reader, writer = os.pipe()
    userns = os.open(f"/proc/{parked.pid}/ns/user", os.O_RDONLY)
    files = launch.assemble(plan, userns, UID_BASE)
    launch.apply_outside(plan["process"], parked.pid)
    launch.send_start(parked.ctl, plan, [0, writer, writer, *files], owner=(UID_BASE, UID_BASE))
    fd.close_quietly(userns, writer, *files)
    reply = launch.read_reply(parked.ctl)
    assert reply is None, reply
    with open(reader) as output:
        assert output.read() == "0\nbireme\n"
    assert (Path(plan["root"]["upper"]) / "x").stat().st_uid == 0


def test_a_program_cannot_reach_the_interpreter_by_proc(host: Host) -> None:
    """A process that enters the container is not dumpable: its /proc/PID/exe and memory are closed to root inside."""
    running = host.start("sleep", "1000")
    ours, theirs = fd.seqpacket_pair()
    target = process.pidfd_open(running.pid)
    with ours:
        with theirs:
            request: Any = {"cgroup": "", "namespaces": list(running.plan["namespaces"])}
            exec_stage.spawn_exec(request, theirs, target, parent=False)
        os.close(target)
        received = sync.receive_message(ours)
        assert received is not None
        child = received[1][0]
        script = "for p in /proc/[0-9]*; do readlink $p/exe; cat $p/environ > /dev/null && echo $p; done 2>/dev/null"
        lines = running.exec("sh", "-c", script).out.splitlines()
    assert not [line for line in lines if "python" in line]
    process.wait_pidfd(child)
    os.close(child)


@pytest.fixture
def cgroups() -> Iterator[CgroupManager]:
    manager = open_cgroups(f"bireme-test-{secrets.token_hex(3)}")
    yield manager
    for name in manager.list():
        manager.kill(name, 9)
        deadline = time.monotonic() + 30
        while not manager.remove(name):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    manager.close_subtree()


def test_a_container_and_its_execs_are_in_their_cgroup(host: Host, cgroups: CgroupManager) -> None:
    cgroups.create("one")
    running = host.start("sh", "-c", "sleep 1000; true", cgroups=cgroups, cgroup="one")
    outside = Path(f"/proc/{running.pid}/cgroup").read_text().splitlines()
    assert sum(line.endswith("/one") for line in outside) >= 1
    assert running.pid in cgroups.pids("one")
    result = running.exec("cat", "/proc/self/cgroup", "/proc/1/cgroup")
    assert result.err == ""
    inside = [line.split(":", 2) for line in result.out.splitlines()]
    ours = {line.split(":", 2)[1] for line in outside if line.endswith("/one")}
    assert {path for _, controller, path in inside if controller in ours} == {"/"}
    mounted = running.exec("sh", "-c", "grep -c cgroup /proc/mounts; ls /sys/fs/cgroup | wc -l")
    assert all(int(line) >= 1 for line in mounted.out.split())


def test_without_a_cgroup_namespace_the_hosts_view_is_bound(host: Host, cgroups: CgroupManager) -> None:
    def change(config: Any) -> None:
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "cgroup"]

    cgroups.create("two")
    result = host.run("cat", "/proc/self/cgroup", change=change, cgroups=cgroups, cgroup="two")
    assert any(line.endswith("/two") for line in result.out.splitlines())


def test_a_namespace_that_does_not_exist_is_an_error_of_the_stage(host: Host) -> None:
    def change(config: Any) -> None:
        for entry in config["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = "/proc/self/ns/none"

    with pytest.raises(sync.StartFailed) as caught:
        host.start("true", change=change)
    assert (caught.value.stage, caught.value.errno) == ("namespaces", 2)
