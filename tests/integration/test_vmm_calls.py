"""The allow lists against what the processes do: nothing is missing, and nothing stands there for nothing.

One recorded run of the tests that drive devices in processes of their own, of machines in this host's KVM, and of an
interpreter that needs memory and time. See tests/support/recorder.py for how calls are recorded.
"""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bireme.linux import fd as fdlib
from bireme.linux import tty
from bireme.linux.poll import Loop
from bireme.linux.process import fork
from bireme.linux.tty import open_terminal
from bireme.vmm import jail
from bireme.vmm.allowlist import ALLOWED
from bireme.vmm.assembly import Assembly
from bireme.vmm.machine import Machine
from bireme.vmm.registers import Entry
from bireme.vmm.virtio.rng import RngPath, rng_device
from tests.source.tree import ROOT
from tests.support import require
from tests.support.fakeagent import FakeAgent
from tests.support.guestconfig import guest_config
from tests.support.jailed import UID, jailed
from tests.support.linked import Linked
from tests.support.pace import patience
from tests.support.recorder import RecordedThread
from tests.unit.vmm.link import test_link

pytestmark = pytest.mark.needs_root
ROOMS = ("tests/unit/vmm/virtio", "tests/integration/test_vmm_calls.py", "tests/integration/test_vmm_jail.py")
SELECTED = "(process or interpreter or may_start_threads) and not breaks_out"
RECORDED = "BIREME_RECORDED"
PLACE = 0x1000


class Recording:
    def __init__(self, found: dict[str, object]) -> None:
        used, missing = found["used"], found["missing"]
        assert isinstance(used, dict)
        assert isinstance(missing, list)
        self.used: dict[str, list[int]] = used
        self.missing: list[str] = missing


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    output = tmp_path_factory.mktemp("recording") / "calls.json"
    argv = [sys.executable, "-m", "tests.support.recorder", str(output), "-q", *ROOMS, "-k", SELECTED]
    environment = os.environ | {RECORDED: "1"}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience(100), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Recording(json.loads(output.read_text()))


@pytest.mark.skipif(RECORDED in os.environ, reason="this is the recorded run")
def test_nothing_is_missing(recording: Recording) -> None:
    assert recording.missing == []


@pytest.mark.skipif(RECORDED in os.environ, reason="this is the recorded run")
@pytest.mark.parametrize("kind", sorted(ALLOWED))
def test_every_entry_is_needed(recording: Recording, kind: str) -> None:
    if kind == "vmm":
        require.require("kvm")
    used = recording.used[kind]
    idle = [entry for at, entry in enumerate(ALLOWED[kind]) if at not in used and not entry.rare]
    assert idle == []


@pytest.mark.skipif(RECORDED in os.environ, reason="this is the recorded run")
@pytest.mark.parametrize("kind", sorted(ALLOWED))
def test_rare_is_what_the_recorded_run_does_not_need(recording: Recording, kind: str) -> None:
    used = recording.used[kind]
    assert [entry for at, entry in enumerate(ALLOWED[kind]) if at in used and entry.rare] == []


def _work_of_an_interpreter() -> int:
    """Small objects and large ones, made, grown and given back."""
    small = [(n, str(n)) for n in range(60_000)]
    middle = [bytes(2000) for _ in range(1000)]
    large = bytearray(1 << 20)
    for _ in range(30):
        large += bytes(1 << 19)
    del small, middle, large
    os.close(0)
    return 1


@pytest.mark.parametrize("kind", sorted(ALLOWED))
def test_an_interpreter_finds_what_it_needs(kind: str) -> None:
    assert jailed(kind, _work_of_an_interpreter)[0] == 1


@pytest.mark.skipif(RECORDED not in os.environ, reason="for the recorded run")
@pytest.mark.parametrize(
    "name",
    [
        *("a_life", "an_exec", "a_second_control_connection_is_refused", "clients_are_bounded"),
        "output_that_nobody_reads_outlives_the_machine",
    ],
)
def test_the_link_process(tmp_path: Path, name: str) -> None:
    """Tests of the link, with its loop in a thread that is recorded."""

    def live() -> None:
        with Linked(tmp_path, guest_config(stdin=True)) as bench:
            bench.loop.run_once = RecordedThread("link", bench.loop.run_once)  # type: ignore[method-assign]
            test = getattr(test_link, f"test_{name}")
            parameters = inspect.signature(test).parameters
            test(bench, *([FakeAgent(bench)] if "fake" in parameters else []))

    assert in_a_fork(live) == 0


def test_files_and_terminals_of_the_link_process() -> None:
    terminal = open_terminal("/dev/ptmx")
    ours, theirs = socket.socketpair()

    def body() -> int:
        with os.fdopen(fdlib.sealed_memfd("answer", b"x" * 100_000)) as file:
            fdlib.send_fds(theirs, b"!", [file.fileno()])
            tty.make_raw(terminal.slave)
            tty.set_size(terminal.slave, 40, 100)
            return len(fdlib.read_sealed(file.fileno(), 200_000))

    assert jailed("link", body, [terminal.slave, theirs.fileno()])[0] == 100_000
    assert tty.get_size(terminal.master) == (40, 100)
    for fd in (terminal.master, terminal.slave):
        os.close(fd)
    ours.close()
    theirs.close()


def test_random_numbers_of_the_net_process() -> None:
    assert jailed("net", lambda: len(os.urandom(64)))[0] == 64


@pytest.mark.needs_kvm
@pytest.mark.skipif(RECORDED not in os.environ, reason="for the recorded run")
def test_the_main_process() -> None:
    """Two vCPUs in real mode and a device process: a pause, a question, an end by kicks."""

    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()

    def live() -> None:
        machine = Machine(1 << 20, 2, debug_exit=True)
        assembly = Assembly(machine, lambda kind: lambda keep: jail.enter(kind, UID, keep))
        assembly.add("entropy", [rng_device(RngPath())])
        loop = Loop()
        assembly.start()
        machine.memory.write(PLACE, bytes.fromhex("e4 80 eb fc"))  # in al, 0x80; again
        machine.enter_at(*(Entry("real", {"rip": PLACE, "rsp": 0xF000}) for _ in range(2)))
        assembly.wait_ready()
        fds = [ours.fileno(), theirs.fileno(), reader, writer]
        jail.enter("vmm", UID, [2, *machine.fds(), *assembly.fds(), loop.fileno(), *fds])
        assembly.watch(loop)
        machine.run()
        loop.call_later(0.2, loop.stop)
        loop.run()
        assembly.pause()
        assembly.resume()
        assert assembly.describe()["processes"][0]["name"] == "entropy"
        ours.sendall(b"!")
        theirs.recv(1)
        os.write(writer, b"!")
        os.read(reader, 1)
        assembly.close()

    assert in_a_fork(live) == 0
    for end in (ours, theirs):
        end.close()
    for fd in (reader, writer):
        os.close(fd)


def in_a_fork(body: Callable[[], None]) -> int:
    """The exit code of a process that does this."""
    pid = fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
