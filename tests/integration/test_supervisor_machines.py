"""Machines under the supervisor, with a monitor that runs host processes: starts, ends, reasons, kills, leftovers."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bireme.errors import Unsupported
from tests.support.machines import FAKE, launch_machine, machine_files, machine_request
from tests.support.supervised import Rig, alive, comm, read_frames, read_stream, wait_until
from tests.support.supervision import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, monitor=FAKE)
    made.start()
    yield made
    made.close()
    assert not machine_files(made)
    assert not (made.run_root / "machines").exists()


def test_no_template_before_the_first_machine(rig: Rig) -> None:
    client = rig.clients[0]
    rig.launch(client, "true")
    assert not rig.helper("machines")
    identity = launch_machine(rig, client, "true")
    assert client.exited(identity)["kind"] == "machine"
    assert comm(rig.helper("machines")) == "bireme-machines"


@pytest.mark.parametrize(("args", "code", "number"), [(("true",), 0, 0), (("false",), 1, 0)])
def test_exit_codes(rig: Rig, args: tuple[str, ...], code: int, number: int) -> None:
    client = rig.clients[0]
    event = client.exited(launch_machine(rig, client, *args))
    assert (event["code"], event["signal"], event["error"]) == (code, number, "")


def test_a_signal_that_only_the_report_knows(rig: Rig) -> None:
    client = rig.clients[0]
    event = client.exited(launch_machine(rig, client, "sh", "-c", "kill -15 $$"))
    assert (event["code"], event["signal"], event["error"]) == (143, 15, "")


def test_output_reaches_the_log_and_clients(rig: Rig) -> None:
    client = rig.clients[0]
    identity = rig.name()
    _, fds = client.call_fds("attach", id=identity, stdout=True, stderr=True)
    launch_machine(rig, client, "sh", "-c", "echo out; echo err >&2", identity=identity)
    client.exited(identity)
    assert read_frames(fds[0]) == {1: b"out\n", 2: b"err\n"}
    assert (rig.output(identity), rig.output(identity, "stderr")) == ("out\n", "err\n")


def test_stdin(rig: Rig) -> None:
    client = rig.clients[0]
    identity = launch_machine(rig, client, "cat", open_stdin=True, stdin_once=True)
    _, fds = client.call_fds("stdin", id=identity)
    os.write(fds[0], b"hello\n")
    os.close(fds[0])
    client.exited(identity)
    assert rig.output(identity) == "hello\n"


def test_a_terminal(rig: Rig) -> None:
    client = rig.clients[0]
    identity = rig.name()
    _, fds = client.call_fds("attach", id=identity, stdout=True, stderr=True)
    launch_machine(rig, client, "tty", terminal=True, identity=identity)
    client.exited(identity)
    assert b"/dev/pts/" in read_stream(fds[0])


@pytest.mark.parametrize(
    ("args", "word", "stage", "number"),
    [(("absent",), "", "exec", 2), (("/etc/passwd",), "", "exec", 13), (("true",), "refuse", "boot", 0)],
)
def test_what_does_not_start(rig: Rig, args: tuple[str, ...], word: str, stage: str, number: int) -> None:
    client = rig.clients[0]
    with pytest.raises(Failure) as caught:
        launch_machine(rig, client, *args, word=word)
    assert (caught.value.stage, caught.value.errno) == (stage, number)
    assert client.call("list")["instances"] == []
    wait_until(lambda: not rig.cgroups() or not machine_files(rig), "the slot to go")


def test_taps_of_machines_have_names_of_their_own(rig: Rig) -> None:
    client = rig.clients[0]
    wire = {"bridge": "", "tap": "", "mac": "02:00:00:00:00:01", "mtu": 1500}
    names: list[str] = []
    for _ in range(2):
        request = machine_request(rig, rig.name(), "sleep", "100")
        request["plan"]["machine"]["interfaces"] = [dict(wire) for _ in range(9)]
        client.call("launch", **request)
        names += client.call("explain", id=request["id"])["network"]["host_interfaces"].values()
    assert len(set(names)) == len(names) == 18


def test_more_interfaces_than_have_names_are_refused(rig: Rig) -> None:
    client = rig.clients[0]
    request = machine_request(rig, rig.name(), "true")
    request["plan"]["machine"]["interfaces"] = [{} for _ in range(37)]
    with pytest.raises(Failure, match="at most 36 network interfaces, not 37"):
        client.call("launch", **request)
    assert client.call("list")["instances"] == []


def test_a_monitor_that_dies_before_it_runs(rig: Rig) -> None:
    client = rig.clients[0]
    with pytest.raises(Failure, match="killed before the guest's program ran"):
        launch_machine(rig, client, "true", word="die")


def test_a_crash_has_its_reason(rig: Rig) -> None:
    client = rig.clients[0]
    event = client.exited(launch_machine(rig, client, "sleep", "100", word="crash"))
    assert (event["code"], event["error"]) == (255, "the guest died of a triple fault")


def test_a_killed_monitor_has_its_reason_and_one_we_kill_has_none(rig: Rig) -> None:
    client = rig.clients[0]
    asked, attacked = (launch_machine(rig, client, "sleep", "100") for _ in range(2))
    client.call("signal", id=asked, signum=9, all=False)
    event = client.exited(asked)
    assert (event["code"], event["signal"], event["error"]) == (137, 9, "")
    row = next(row for row in client.call("list")["instances"] if row["id"] == attacked)
    os.kill(row["pid"], signal.SIGKILL)
    event = client.exited(attacked)
    assert (event["code"], event["error"]) == (137, "the machine's monitor was killed by signal 9")


def test_a_boot_blocks_nobody(rig: Rig) -> None:
    client, other = rig.clients[0], rig.connect()
    rid = client.send("launch", **machine_request(rig, rig.name(), "true", word="hang"))
    other.exited(rig.launch(other, "true"))
    other.exited(launch_machine(rig, other, "true"))
    hanging = [pid for pid in _monitors(rig) if alive(pid)]
    assert len(hanging) == 1
    os.kill(hanging[0], signal.SIGKILL)
    with pytest.raises(Failure):
        client.answer(rid)


def _monitors(rig: Rig) -> list[int]:
    children = Path(f"/proc/{rig.pid('supervisor')}/task/{rig.pid('supervisor')}/children").read_text().split()
    return [int(pid) for pid in children if comm(int(pid)) == "bireme-vmm"]


def test_a_killed_template_is_replaced(rig: Rig) -> None:
    client = rig.clients[0]
    running = launch_machine(rig, client, "sleep", "100")
    old = rig.helper("machines")
    os.kill(old, signal.SIGKILL)
    client.exited(launch_machine(rig, client, "true"))
    assert rig.helper("machines") not in (0, old)
    assert [row["state"] for row in client.call("list")["instances"] if row["id"] == running] == ["running"]


@pytest.mark.parametrize("victim", ["supervisor", "keeper"])
def test_machines_survive_a_killed_parent(rig: Rig, victim: str) -> None:
    client = rig.clients[0]
    sleeping = launch_machine(rig, client, "sleep", "100")
    talking = launch_machine(rig, client, "sh", "-c", "read line; echo got $line; exit 7", open_stdin=True)
    before = {row["id"]: row for row in client.call("list")["instances"]}
    old = rig.pid("supervisor")
    os.kill(rig.pid(victim), signal.SIGKILL)
    wait_until(lambda: rig.pid("supervisor") != old and rig.helper("supervisor"), "another supervisor")
    client = rig.connect()
    rows = {row["id"]: row for row in client.call("list")["instances"]}
    assert rows[sleeping]["kind"] == "machine"
    assert rows[sleeping]["control"] == before[sleeping]["control"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.connect(rows[sleeping]["control"])
    _, fds = client.call_fds("stdin", id=talking)
    os.write(fds[0], b"it\n")
    os.close(fds[0])
    event = client.exited(talking)
    assert (event["code"], event["error"]) == (7, "")
    assert rig.output(talking) == "got it\n"
    client.exited(launch_machine(rig, client, "true"))


def test_a_start_that_a_killed_supervisor_leaves_is_ended(rig: Rig) -> None:
    client = rig.clients[0]
    client.send("launch", **machine_request(rig, rig.name(), "sleep", "100", word="hang"))
    wait_until(lambda: machine_files(rig), "the monitor to bind its socket")
    monitors = _monitors(rig)
    os.kill(rig.pid("supervisor"), signal.SIGKILL)
    client = rig.connect()
    wait_until(lambda: not any(alive(pid) for pid in monitors), "the half-started machine to end")
    assert client.call("list")["instances"] == []
    wait_until(lambda: not machine_files(rig), "its files to go")


def test_a_limit_counts_and_counters_are_there(rig: Rig) -> None:
    client = rig.clients[0]
    limits = {"memory": {"limit": 192 << 20, "swap": 192 << 20}, "pids": {"limit": 64}}
    identity = launch_machine(rig, client, "sleep", "100", limits=limits)
    stats = client.call("stats", id=identity)
    assert (stats["memory_limit_bytes"], stats["pids_limit"], stats["networks"]) == (192 << 20, 64, {})
    assert stats["pids"] >= 2
    explained = client.call("explain", id=identity)
    assert explained["kind"] == "machine"
    assert {row["name"] for row in explained["processes"]} >= {"bireme-vmm", "sleep"}
    assert all(row["seccomp"] == "off" for row in explained["processes"])


def test_an_exec_does_not_go_this_way(rig: Rig) -> None:
    client = rig.clients[0]
    identity = launch_machine(rig, client, "sleep", "100")
    with pytest.raises(Failure) as caught:
        rig.exec(client, identity, "true")
    assert isinstance(caught.value.error, Unsupported)
