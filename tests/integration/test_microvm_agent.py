"""The agent as what it is: process 1 of a machine with a kernel of its own. Without a machine: test_agent.py."""

from __future__ import annotations

import hashlib
import time

import pytest

from tests.support.daemon import RunningEngine
from tests.support.microvms import explain, start_machine, wait_exited
from tests.support.pace import patience

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_kvm_linux]


@pytest.fixture
def engine(machine_engine: RunningEngine) -> RunningEngine:
    return machine_engine


@pytest.fixture
def machine(sleeper: str) -> str:
    return sleeper


def inside(engine: RunningEngine, name: str, script: str, **more: object) -> str:
    done = engine.bireme("exec", *(["-i"] if more else []), name, "sh", "-c", script, timeout=patience(60), **more)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_first_process_is_the_image_s(engine: RunningEngine, machine: str) -> None:
    assert inside(engine, machine, "cat /proc/1/comm; echo $PPID") == "sleep\n0\n"
    assert "agent" not in inside(engine, machine, "ps")


def test_the_guest_s_clock_is_the_host_s(engine: RunningEngine, machine: str) -> None:
    before = time.time()
    told = int(inside(engine, machine, "date +%s"))
    assert int(before) - 1 <= told <= time.time() + 1


def test_there_is_entropy_from_the_beginning(engine: RunningEngine, machine: str) -> None:
    assert int(inside(engine, machine, "cat /proc/sys/kernel/random/entropy_avail")) >= 256


def test_devices_and_mounts_are_a_container_s(engine: RunningEngine, machine: str) -> None:
    nodes = inside(engine, machine, "ls /dev").split()
    assert set(nodes) >= {"null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "fd", "stdin", "ptmx"}
    assert not [name for name in nodes if name.startswith(("vd", "kmsg", "mem"))]
    targets = inside(engine, machine, "awk '{print $5}' /proc/self/mountinfo").split()
    assert "/etc/hosts" in targets
    assert not [target for target in targets if "bireme" in target or "files" in target]


def test_a_lot_of_input_and_output(engine: RunningEngine, machine: str) -> None:
    text = "".join(f"{number:07d}\n" for number in range(200_000))
    told = inside(engine, machine, "tee /tmp/copy; sha256sum < /tmp/copy >&2", input=text)
    assert hashlib.sha256(told.encode()).digest() == hashlib.sha256(text.encode()).digest()


def test_many_execs(engine: RunningEngine, machine: str) -> None:
    for number in range(12):
        assert inside(engine, machine, f"echo {number}") == f"{number}\n"
    streams = explain(engine, machine)["link"]["processes"]
    assert len(streams) <= 2


def test_nobody_inside_can_kill_the_agent(engine: RunningEngine, machine: str) -> None:
    engine.bireme("exec", machine, "sh", "-c", "kill -9 -1")
    assert inside(engine, machine, "echo alive; cat /proc/1/comm") == "alive\nsleep\n"


def test_a_kernel_that_panics_ends_its_machine_alone(engine: RunningEngine, machine: str) -> None:
    script = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"
    name = start_machine(engine, "-m", "192m", "busybox", "sh", "-c", f"sleep 1; {script}", name="panics")
    state = wait_exited(engine, name)
    assert state["ExitCode"] == 255
    engine.bireme("rm", name)
    assert inside(engine, machine, "echo alive") == "alive\n"
