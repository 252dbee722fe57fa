"""A machine's first process with a guest of a few instructions: everything from the plan to the jail and the report.

The guest is 32-bit code behind a PVH entry, which this host's KVM can run even where Linux cannot. It has no agent, so
every machine here ends with a reason.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.kernelfile import PT_LOAD, Part, elf, pvh_note
from tests.support.machines import machine_files, machine_request
from tests.support.pace import eventually
from tests.support.supervised import Rig, children, comm
from tests.support.supervision import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_kvm]

ENTRY = 0x100000
HALTED = b"\xf4\xeb\xfd"
"""hlt, and again."""
CRASH = b"\x0f\x01\x1d\x00\x00\x00\x00\x0f\x0b"
"""lidt of what lies at 0, then an undefined instruction: a triple fault."""
DEVICES = {"bireme-block", "bireme-link", "bireme-entropy"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.start()
    yield made
    made.close()
    assert not machine_files(made)


def request(rig: Rig, code: bytes, *, boot_timeout_s: float = 60.0) -> Any:
    """A launch of a machine with one disk, random numbers and a console."""
    kernel, disk = rig.directory / "kernel", rig.directory / "disk"
    kernel.write_bytes(elf([pvh_note(ENTRY), Part(PT_LOAD, ENTRY, code)]))
    disk.write_bytes(bytes(1 << 20))
    made = machine_request(rig, rig.name(), "true", boot_timeout_s=boot_timeout_s)
    machine = made["plan"]["machine"]
    machine["kernel"] = {"path": str(kernel), "format": "vmlinux"}
    machine["disks"] = [{"path": str(disk), "read_only": False, "serial": "one"}]
    machine["console"] = True
    return made


def failure(rig: Rig, made: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        rig.clients[0].call("launch", **made)
    return caught.value


def test_an_agent_that_never_answers(rig: Rig) -> None:
    caught = failure(rig, request(rig, HALTED, boot_timeout_s=0.5))
    assert caught.stage == "agent"
    assert "did not answer within" in str(caught)


def test_a_guest_that_crashes(rig: Rig) -> None:
    caught = failure(rig, request(rig, CRASH))
    assert caught.stage == "boot"
    assert "triple" in str(caught)


@pytest.mark.parametrize(
    ("change", "stage", "words"),
    [
        ({"kernel": {"path": "/nowhere", "format": "vmlinux"}}, "kernel", "/nowhere"),
        ({"kernel": {"path": "/etc/passwd", "format": "vmlinux"}}, "kernel", "not a kernel"),
        ({"disks": [{"path": "/nowhere", "read_only": True, "serial": "x"}]}, "disk", "/nowhere"),
        ({"initrd": ["/nowhere"]}, "kernel", "/nowhere"),
        ({"interfaces": [{"bridge": "nobridge", "tap": "", "mac": "02:00:00:00:00:01", "mtu": 1500}]}, "network", "no"),
        ({"vcpus": 100000}, "memory", "vCPUs"),
    ],
)
def test_a_plan_that_cannot_be_carried_out(rig: Rig, change: dict[str, Any], stage: str, words: str) -> None:
    made = request(rig, HALTED)
    made["plan"]["machine"].update(change)
    caught = failure(rig, made)
    assert caught.stage == stage
    assert words in str(caught)


def processes(rig: Rig) -> dict[str, int]:
    """By name, of the only machine there is."""
    mains = [pid for pid in children(rig.pid("supervisor")) if comm(pid) == "bireme-vmm"]
    return {comm(pid): pid for main in mains for pid in (main, *children(main))}


@pytest.mark.parametrize("victim", sorted(DEVICES))
def test_a_device_process_that_is_killed(rig: Rig, victim: str) -> None:
    client = rig.clients[0]
    rid = client.send("launch", **request(rig, HALTED))
    eventually(lambda: set(processes(rig)) >= {*DEVICES, "bireme-vmm"}, within_s=30)
    eventually(lambda: jailed(processes(rig)["bireme-vmm"]), within_s=30)
    os.kill(processes(rig)[victim], signal.SIGKILL)
    with pytest.raises(Failure) as caught:
        client.answer(rid)
    assert victim.removeprefix("bireme-") in str(caught.value)


def jailed(pid: int) -> bool:
    return "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text()


def test_what_a_running_monitor_has(rig: Rig) -> None:
    client = rig.clients[0]
    rid = client.send("launch", **request(rig, HALTED))
    eventually(lambda: set(processes(rig)) >= {*DEVICES, "bireme-vmm"}, within_s=30)
    everyone = processes(rig)
    eventually(lambda: all(jailed(pid) for pid in everyone.values()), within_s=30)
    for pid in everyone.values():
        status = dict(
            line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
        assert status["Uid"].split()[0] not in ("0", "")
        assert os.listdir(f"/proc/{pid}/root") == []
        for kind in ("mnt", "net", "ipc", "uts", "pid"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    os.kill(everyone["bireme-vmm"], signal.SIGKILL)
    with pytest.raises(Failure, match="killed before"):
        client.answer(rid)
    # the answer comes before the supervisor reaps it
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everyone.values()), within_s=30)
