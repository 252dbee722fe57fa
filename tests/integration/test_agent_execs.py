"""Processes beside the first one, and what the control socket says of a machine: the real agent without a machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bireme.linux.tty import Terminal, open_terminal
from bireme.wire import vmcontrol
from tests.support.agents import machine, pipes, sh
from tests.support.guestconfig import guest_config, process
from tests.support.linked import Client, Linked, drain
from tests.support.rootfs import make_busybox_root

pytestmark = pytest.mark.needs_root


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Linked]:
    """A machine whose first process sleeps."""
    root = tmp_path / "root"
    make_busybox_root(str(root))
    with machine(tmp_path, root, guest_config(process=sh("trap 'exit 0' TERM; while :; do sleep 0.1; done"))) as bench:
        bench.until(lambda: bench.said("running"))
        yield bench


class Run:
    """One exec without a terminal."""

    def __init__(self, bench: Linked, client: Client, exec_id: str, script: str, *, stdin: bool = False) -> None:
        self.bench = bench
        reading, writing = pipes(2)
        fds = writing
        self.stdin = -1
        if stdin:
            theirs, self.stdin = os.pipe()
            fds = [theirs, *writing]
        self.reading = reading
        self.exec_id = exec_id
        self.client = client
        self.pid = client.ok("exec", fds, exec_id=exec_id, process=sh(script), stdin=stdin)["pid"]
        for fd in fds:
            os.close(fd)

    def ended(self) -> dict[str, Any] | None:
        return next((event for event in self.client.events if event["exec_id"] == self.exec_id), None)

    def wait(self) -> tuple[int, str, str]:
        self.bench.until(self.ended)
        event = self.ended()
        assert event is not None
        output, errors = (drain(fd).decode() for fd in self.reading)
        self.close()
        return event["code"], output, errors

    def close(self) -> None:
        for fd in [*self.reading, self.stdin]:
            if fd >= 0:
                os.close(fd)
        self.reading, self.stdin = [], -1


def test_output_and_status(bench: Linked) -> None:
    run = Run(bench, bench.client(), "one", "echo out; echo err >&2; exit 3")
    assert run.pid > 1
    assert run.wait() == (3, "out\n", "err\n")


def test_input(bench: Linked) -> None:
    run = Run(bench, bench.client(), "one", "cat; echo end", stdin=True)
    os.write(run.stdin, b"hello ")
    os.close(run.stdin)
    run.stdin = -1
    assert run.wait() == (0, "hello end\n", "")


def test_it_is_in_the_namespaces_of_the_first_process(bench: Linked) -> None:
    script = "hostname; cat /proc/1/comm; echo $PPID; for n in mnt pid ipc uts; do cmp -s /proc/1/ns/$n /x; done; "
    script += (
        "for n in mnt pid ipc uts; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n; done"
    )
    assert Run(bench, bench.client(), "one", script).wait() == (0, "guest\nsh\n0\n", "")


def test_many_at_once(bench: Linked) -> None:
    client = bench.client()
    runs = [Run(bench, client, f"e{number}", f"echo {number}; exit {number}") for number in range(40)]
    assert [run.wait() for run in runs] == [(number, f"{number}\n", "") for number in range(40)]


def test_background_processes_do_not_hold_the_end(bench: Linked) -> None:
    run = Run(bench, bench.client(), "one", "sleep 600 & echo started")
    assert run.wait() == (0, "started\n", "")


def test_signals(bench: Linked) -> None:
    client = bench.client()
    run = Run(bench, client, "one", "trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done")
    bench.until(lambda: os.read(run.reading[0], 10) if _readable(run.reading[0]) else b"")
    assert client.ok("exec_signal", exec_id="one", number=signal.SIGUSR1) == {}
    assert run.wait()[0] == 5
    run = Run(bench, client, "two", "kill -9 $$")
    bench.until(run.ended)
    event = run.ended()
    assert event is not None
    assert (event["code"], event["signal"]) == (137, 9)
    run.close()
    reply = client.call("exec_signal", exec_id="two", number=9)
    assert reply["error"]["message"] == "no such process"


def _readable(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


def test_ends_are_kept_until_they_are_acknowledged(bench: Linked) -> None:
    client = bench.client()
    run = Run(bench, client, "one", "exit 8")
    bench.until(run.ended)
    client.close()
    bench.clients.remove(client)
    second = Client(bench)
    bench.clients.append(second)
    rows = second.ok("hello", version=vmcontrol.VERSION)["execs"]
    assert [(row["exec_id"], row["code"], row["pid"]) for row in rows] == [("one", 8, run.pid)]
    bench.until(lambda: second.events)
    assert second.events == [run.ended()]
    assert second.ok("exec_acknowledge", exec_id="one") == {}
    assert second.ok("exec_acknowledge", exec_id="one") == {}
    assert bench.client().ok("hello", version=vmcontrol.VERSION)["execs"] == []
    run.close()


def test_an_exec_goes_on_without_its_client(bench: Linked) -> None:
    client = bench.client()
    run = Run(bench, client, "one", "while :; do echo line || exit 9; done")
    client.close()
    bench.clients.remove(client)
    run.close()
    second = bench.client()
    streams = bench.link.describe
    bench.until(lambda: streams()["processes"][1]["streams"]["stdout"]["nowhere"])
    assert second.ok("exec_signal", exec_id="one", number=15) == {}
    bench.until(lambda: second.events)
    assert second.events[0]["signal"] == 15


def test_with_a_terminal(bench: Linked) -> None:
    client = bench.client()
    terminal = open_terminal("/dev/ptmx")
    os.set_blocking(terminal.master, False)
    what = process(["sh", "-c", "stty size; read x; stty size; echo $x; tty"], terminal=True, rows=20, columns=70)
    client.ok("exec", [terminal.slave], exec_id="t", process=what, stdin=True)
    os.close(terminal.slave)
    output = bytearray()

    def has(text: bytes) -> bool:
        output.extend(drain(terminal.master))
        return text in output

    bench.until(lambda: has(b"20 70\r\n"))
    assert client.ok("exec_resize", exec_id="t", rows=50, cols=132) == {}
    os.write(terminal.master, b"typed\n")
    bench.until(lambda: client.events)
    has(b"")
    assert bytes(output) == b"20 70\r\ntyped\r\n50 132\r\ntyped\r\n/dev/pts/0\r\n"
    _close(terminal)


def _close(terminal: Terminal) -> None:
    os.close(terminal.master)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exec_id": ""}, "is not a name"),
        ({"process": None}, "without a process"),
        ({"process": {"args": ["x"]}}, "malformed 'exec'"),
        ({"process": process([])}, "no command specified"),
        ({"process": process(["a\0"])}, "without NUL"),
        ({"stdin": True}, "needs the descriptors"),
    ],
)
def test_execs_that_are_refused(bench: Linked, changes: dict[str, Any], text: str) -> None:
    client = bench.client()
    _, writing = pipes(2)
    fields: dict[str, Any] = {"exec_id": "e", "process": sh("true"), "stdin": False}
    reply = client.call("exec", writing, **(fields | changes))
    assert text in reply["error"]["message"]
    for fd in writing:
        os.close(fd)
    assert client.ok("ping") == {}
    assert bench.link.describe()["processes"][1:] == []


def test_a_name_is_used_once(bench: Linked) -> None:
    client = bench.client()
    run = Run(bench, client, "one", "sleep 60")
    _, writing = pipes(2)
    reply = client.call("exec", writing, exec_id="one", process=sh("true"), stdin=False)
    assert reply["error"]["kind"] == "conflict"
    for fd in writing:
        os.close(fd)
    run.close()


def test_execs_end_with_the_first_process(bench: Linked) -> None:
    client = bench.client()
    run = Run(bench, client, "one", "sleep 600")
    client.ok("signal", number=9)
    bench.until(lambda: bench.said("ended"))
    _, writing = pipes(2)
    reply = client.call("exec", writing, exec_id="two", process=sh("true"), stdin=False)
    assert reply["error"]["kind"] == "conflict"
    for fd in writing:
        os.close(fd)
    run.close()


def test_processes(bench: Linked) -> None:
    client = bench.client()
    run = Run(bench, client, "one", "exec sleep 601")
    bench.until(lambda: any(row["command"] == "sleep 601" for row in client.ok("processes")["processes"]))
    rows = {row["pid"]: row for row in client.ok("processes")["processes"]}
    assert rows[1]["command"].startswith("sh -c trap")
    assert (rows[1]["ppid"], rows[1]["uid"], rows[1]["tty"]) == (0, 0, "")
    assert rows[run.pid]["command"] == "sleep 601"
    assert all(row["started_at_ns"] > 1_500_000_000_000_000_000 and row["cpu_ns"] >= 0 for row in rows.values())
    assert not any("agent" in row["command"] for row in rows.values())
    run.close()


def test_stats(bench: Linked) -> None:
    stats = bench.client().ok("stats")
    assert set(stats) == set(vmcontrol.GuestStats.__annotations__)
    assert stats["pids"] >= 1
    assert 0 < stats["memory_available_bytes"] <= stats["memory_total_bytes"]


def test_signal_to_all(bench: Linked) -> None:
    client = bench.client()
    run = Run(bench, client, "one", "exec sleep 600")
    assert client.ok("signal", number=signal.SIGUSR1, all=True) == {}
    assert run.wait()[0] == 128 + signal.SIGUSR1
    assert bench.said("ended") is None


def test_pause_and_resume_are_main_s(bench: Linked) -> None:
    client = bench.client()
    assert client.ok("pause") == {}
    assert bench.client().ok("hello", version=1)["state"] == "paused"
    for op, fields in (("pause", {}), ("signal", {"number": 15}), ("processes", {})):
        assert client.call(op, **fields)["error"]["message"] == "the machine is paused"
    assert client.ok("resume") == {}
    assert client.call("resume")["error"]["message"] == "the machine is not paused"
    assert [message["m"] for message in bench.messages] == ["running", "pause", "resume"]


def test_explain(bench: Linked) -> None:
    found = bench.client().ok("explain")
    assert found["machine"] == {"vcpus": 1}
    assert found["link"]["state"] == "running"
    assert found["agent"]["software"] == "bireme-agent 1"
    assert found["agent"]["dropped"] == 0
