"""Machines through the engine: the verbs, the console, limits, the network, and what a killed process does to them.

A boot takes ten seconds of an emulated processor: what needs no Linux inside is tested in test_vmm_child.py,
test_supervisor_machines.py and test_driver_microvm.py, exec and exit codes in test_microvm_driver.py.
"""

from __future__ import annotations

import os
import signal
import urllib.request

import pytest

from tests.support.daemon import RunningEngine
from tests.support.microvms import (
    DEVICE_PROCESSES,
    add_generic_kernel,
    explain,
    inspect,
    process_of,
    release,
    remains,
    start_machine,
    wait_exited,
)
from tests.support.pace import eventually, patience

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_kvm_linux]


@pytest.fixture
def engine(machine_engine: RunningEngine) -> RunningEngine:
    return machine_engine


@pytest.fixture(scope="module")
def web(machine_engine: RunningEngine) -> str:
    """A machine that serves a page on a published port."""
    page = "mkdir /www && echo hello > /www/index.html && exec httpd -f -p 80 -h /www"
    return start_machine(machine_engine, "-p", "0:80", "busybox", "sh", "-c", page, name="web")


@pytest.fixture(scope="module")
def generic(machine_engine: RunningEngine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A machine with the other kernel of Debian."""
    add_generic_kernel(machine_engine, tmp_path_factory.mktemp("generic"))
    options = ("--kernel", "generic", "--cpus", "2", "-m", "192m")
    return start_machine(machine_engine, *options, "busybox", "sleep", "100000", name="generic")


@pytest.fixture(scope="module")
def plain(machine_engine: RunningEngine) -> str:
    return start_machine(machine_engine, "busybox", "sleep", "100000", name="plain")


def run(engine: RunningEngine, *arguments: str, **more: object) -> tuple[int, str, str]:
    done = engine.bireme("run", "--rm", "--isolation", "microvm", *arguments, timeout=patience(120), **more)
    return done.returncode, done.stdout, done.stderr


def test_kernel_exit_code_streams_and_environment(engine: RunningEngine) -> None:
    script = "read line; echo $WORD $line; echo err >&2; hostname; uname -r; exit 7"
    found = run(engine, "-i", "-e", "WORD=out", "--hostname", "here", "busybox", "sh", "-c", script, input="in\n")
    assert found == (7, f"out in\nhere\n{release()}\n", "err\n")


def test_verbs(engine: RunningEngine, sleeper: str) -> None:
    done = engine.bireme("exec", "-i", sleeper, "sh", "-c", "cat; exit 3", input="hello\n")
    assert (done.returncode, done.stdout) == (3, "hello\n")
    assert "sleep 100000" in engine.bireme("top", sleeper).stdout
    assert engine.bireme("pause", sleeper).returncode == 0
    assert inspect(engine, sleeper)["State"]["Status"] == "paused"
    assert engine.bireme("unpause", sleeper).returncode == 0
    assert engine.bireme("exec", sleeper, "nproc").stdout == "4\n"
    assert sleeper in engine.bireme("stats", "--no-stream", sleeper).stdout


def test_memory_is_the_guests(engine: RunningEngine, sleeper: str) -> None:
    total = int(engine.bireme("exec", sleeper, "sh", "-c", "grep MemTotal /proc/meminfo").stdout.split()[1])
    assert 120 << 10 < total < 192 << 10


def test_explain(engine: RunningEngine, sleeper: str) -> None:
    found = explain(engine, sleeper)
    machine = found["machine"]
    assert machine["memory_bytes"] == 192 << 20
    assert len(machine["vcpus"]) == 4
    assert {row["name"] for row in machine["devices"]} >= {"disk0", "disk1", "net0", "rng", "console"}
    assert {row["name"] for row in found["jail"]} == {"bireme-vmm", *DEVICE_PROCESSES}
    for row in found["jail"]:
        assert (row["capabilities"], row["seccomp"], row["no_new_privs"]) == (0, "filter", True)
        assert row["uid"] >= 0x10000
        assert {"ipc", "mnt", "net", "pid", "uts"} <= set(row["namespaces"].split())
    assert engine.bireme("explain", sleeper).returncode == 0


def test_stop_takes_the_stop_signal_and_the_disk_keeps_what_was_written(engine: RunningEngine) -> None:
    script = (
        "cat /kept && exit; echo more > /kept; trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    )
    name = start_machine(engine, "busybox", "sh", "-c", script)
    eventually(lambda: engine.bireme("logs", name).stdout == "ready\n", within_s=30, every_s=0.2)
    assert engine.bireme("stop", "-t", "60", name, timeout=patience(120)).returncode == 0
    assert inspect(engine, name)["State"]["ExitCode"] == 5
    assert engine.bireme("logs", name).stdout == "ready\nbye\n"
    assert engine.bireme("start", "-a", name, timeout=patience(120)).stdout == "more\n"
    engine.bireme("rm", name)


def test_a_published_port(engine: RunningEngine, web: str) -> None:
    address = engine.bireme("port", web, "80/tcp").stdout.splitlines()[0].replace("0.0.0.0", "127.0.0.1")

    def fetched() -> bytes:
        try:
            with urllib.request.urlopen(f"http://{address}/", timeout=patience(5)) as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    assert eventually(fetched, within_s=30, every_s=0.2) == b"hello\n"


def test_the_generic_kernel(engine: RunningEngine, generic: str) -> None:
    assert engine.bireme("exec", generic, "uname", "-r").stdout == release("generic") + "\n" != release() + "\n"
    assert engine.bireme("exec", generic, "nproc").stdout == "2\n"
    assert "generic*" not in engine.bireme("kernel", "ls").stdout


@pytest.mark.parametrize(
    ("victim", "machine"), [("bireme-vmm", "plain"), ("bireme-block", "generic"), ("bireme-net", "web")]
)
def test_a_killed_process_ends_its_machine_alone(
    engine: RunningEngine, sleeper: str, victim: str, machine: str, request: pytest.FixtureRequest
) -> None:
    """A device that is gone cannot be given back: its driver in the guest has requests under way."""
    name = request.getfixturevalue(machine)
    os.kill(process_of(engine, name, victim), signal.SIGKILL)
    state = wait_exited(engine, name)
    kind = victim.removeprefix("bireme-")
    if kind == "vmm":
        assert (state["ExitCode"], state["Error"]) == (137, "the machine's monitor was killed by signal 9")
    else:
        assert state["ExitCode"] == 255
        assert f"device process {kind}" in state["Error"]
    assert engine.bireme("exec", sleeper, "echo", "there").stdout == "there\n"
    assert engine.bireme("rm", name).returncode == 0


@pytest.mark.parametrize("victim", ["biremed", "bireme-supervisor", "bireme-keeper"])
def test_machines_outlive_the_engine(engine: RunningEngine, sleeper: str, victim: str) -> None:
    engine.kill(victim)
    if victim == "biremed":
        engine.start()

    def answers() -> bool:
        return engine.bireme("exec", sleeper, "echo", "there").stdout == "there\n"

    eventually(answers, within_s=30, every_s=0.2)


def test_an_engine_whose_programs_were_killed_starts_machines(engine: RunningEngine) -> None:
    assert run(engine, "busybox", "echo", "new")[1] == "new\n"


def test_nothing_is_left(engine: RunningEngine, sleeper: str) -> None:
    assert engine.bireme("rm", "-f", sleeper, timeout=patience(60)).returncode == 0
    eventually(lambda: not remains(engine), within_s=20)
