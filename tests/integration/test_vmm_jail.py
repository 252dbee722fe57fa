"""The jail as the kernel sees it: what is left to a process inside, and what happens when it wants more."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bireme.errors import Conflict, Invalid
from bireme.linux.kvm import uapi
from bireme.linux.process import CloneFlags, fork
from bireme.vmm import jail
from bireme.vmm.allowlist import ALLOWED
from tests.support.jailed import UID, jailed

pytestmark = pytest.mark.needs_root
KINDS = sorted(ALLOWED)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("kind", KINDS)
def test_no_privilege_is_left(kind: str) -> None:
    seen: dict[str, str] = {}
    answer, ended = jailed(kind, lambda: 1, before=lambda pid: seen.update(status_of(pid)))
    assert (answer, ended.code) == (1, 0)
    assert seen["Uid"].split() == seen["Gid"].split() == [str(UID)] * 4
    assert seen["Groups"] == ""
    assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_no_network_and_limits(kind: str) -> None:
    found: dict[str, object] = {}

    def look(pid: int) -> None:
        process = Path(f"/proc/{pid}")
        found["mounts"] = (process / "mountinfo").read_text().splitlines()
        found["entries"] = list((process / "root").iterdir())
        found["links"] = [line.split(":")[0].strip() for line in (process / "net/dev").read_text().splitlines()[2:]]
        found["limits"] = (process / "limits").read_text()
        found["owner"] = (process / "environ").stat().st_uid
        found["same"] = [
            name
            for name in ("mnt", "net", "ipc", "uts")
            if (process / "ns" / name).readlink() == Path(f"/proc/self/ns/{name}").readlink()
        ]

    jailed(kind, lambda: 1, before=look)
    mounts = found["mounts"]
    assert isinstance(mounts, list)
    assert len(mounts) == 1
    assert " / / ro,nosuid,nodev,noexec" in mounts[0]
    assert found["entries"] == []
    assert found["links"] == ["lo"]
    assert found["same"] == []
    assert found["owner"] == 0, "dumpable: its user may look into it"
    assert ["core", "file", "size", "0", "0"] in [line.split()[1:6] for line in str(found["limits"]).splitlines()]


def test_only_named_descriptors_stay_open() -> None:
    reader, writer = os.pipe()
    found: list[str] = []
    jailed("net", lambda: 1, [reader], lambda pid: found.extend(sorted(os.listdir(f"/proc/{pid}/fd"), key=int)))
    assert {"0", "1", "2", str(reader)} <= set(found)
    assert str(writer) not in found
    assert len(found) == 6
    os.close(reader)
    os.close(writer)


def open_file() -> object:
    return os.open("/", os.O_RDONLY)


def execute() -> object:
    return os.execv("/bin/true", ["true"])


def make_socket() -> object:
    return socket.socket()


def map_code() -> object:
    return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)


def kill_parent() -> object:
    return os.kill(os.getppid(), 0)


def ask_kvm() -> object:
    from bireme.linux.ioctl import ioctl

    return ioctl(0, uapi.KVM_CREATE_VM)


FORBIDDEN = [open_file, execute, make_socket, map_code, kill_parent, ask_kvm, fork, os.getuid]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wish", FORBIDDEN, ids=lambda wish: wish.__name__)
def test_what_is_not_allowed_kills(kind: str, wish: Callable[[], object]) -> None:
    answer, ended = jailed(kind, wish)
    assert answer is None
    assert ended.signal == signal.SIGSYS


def test_a_thread_that_breaks_out_takes_the_process_along() -> None:
    def body() -> int:
        thread = threading.Thread(target=os.getuid)
        thread.start()
        thread.join()
        return 1

    answer, ended = jailed("vmm", body)
    assert answer is None
    assert ended.signal == signal.SIGSYS


COUNT = 12
"""More stacks at once than libc keeps of threads that ended."""


def test_main_may_start_threads() -> None:
    def body() -> int:
        together = threading.Barrier(COUNT)
        threads = [threading.Thread(target=together.wait) for _ in range(COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return together.n_waiting

    assert jailed("vmm", body)[0] == 0


def test_an_import_inside_fails_and_kills_nobody() -> None:
    def body() -> str:
        try:
            import wave
        except ImportError as error:
            return type(error).__name__
        return wave.__name__

    assert jailed("block", body)[0] == "ModuleNotFoundError"


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(Invalid, match="no such kind"):
        jail.enter("gpu", UID, [])
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    try:
        with pytest.raises(Conflict, match="threads: a jail is entered before"):
            jail.enter("block", UID, [])
    finally:
        gate.set()
        thread.join()


def test_namespaces_that_main_left_are_shared() -> None:
    """A machine has one empty network, not five: that is what the order leave_host, fork, enter is for."""

    def net(pid: int | str) -> str:
        return os.readlink(f"/proc/{pid}/ns/net")

    def body() -> None:
        host = net("self")
        jail.leave_host(CloneFlags.CLONE_NEWNET)
        main, seen = net("self"), set[str]()
        for kind in ("block", "net"):
            jailed(kind, lambda: 1, before=lambda pid: seen.add(net(pid)))
        os._exit(0 if seen == {main} and main != host else 9)

    pid = fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
