"""The link process as a machine has it: forked, jailed, with its vsock device, and a guest that the test plays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bireme.linux.tty import open_terminal
from bireme.wire.agent import TOKEN_BYTES, Kind
from tests.support.agents import pipes
from tests.support.fakeagent import HELLO
from tests.support.guestconfig import guest_config, process
from tests.support.linked import drain
from tests.support.vsockagent import Socket, VsockAgent

pytestmark = pytest.mark.needs_root


class Machine(VsockAgent):
    """With pipes for the first process's streams."""

    def __init__(self, directory: Path) -> None:
        stdin, self.stdin = os.pipe()
        (self.stdout, self.stderr), writing = pipes(2)
        super().__init__(directory, guest_config(stdin=True), (stdin, *writing))
        for fd in (stdin, *writing):
            os.close(fd)
        self.say(Kind.HELLO, **HELLO)
        rid, fields = self.hear(Kind.CONFIGURE)
        self.first = self.streams(fields)
        self.say(Kind.OK, rid, pid=1)
        self.until(self.main_said)

    def close(self) -> None:
        super().close()
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.close()


def test_streams_through_the_link_process(machine: Machine) -> None:
    sent = os.urandom(700_000)
    os.write(machine.stdin, b"typed")
    machine.until(lambda: machine.first["stdin"].received == b"typed")
    os.close(machine.stdin)
    machine.stdin = os.open(os.devnull, os.O_RDONLY)
    machine.until(lambda: machine.first["stdin"].ended)
    output = bytearray()
    rest = [sent]

    def step() -> bool:
        stream = machine.first["stdout"]
        count = min(stream.room, 30000)
        machine.send(stream, rest[0][:count])
        rest[0] = rest[0][count:]
        output.extend(drain(machine.stdout))
        return len(output) == len(sent)

    machine.until(step)
    assert output == sent
    machine.send(machine.first["stderr"], b"last")
    for name in ("stdout", "stderr"):
        machine.shut(machine.first[name])
    machine.say(Kind.EXITED, number=0, code=3, signal=0)
    machine.until(lambda: len(machine.main_said()) == 2)
    assert machine.main_said()[1] == {"m": "ended", "code": 3, "signal": 0}
    assert drain(machine.stderr) == b"last"
    machine.hear(Kind.SHUTDOWN)


def test_a_reader_that_rests_stops_the_guest_in_the_link_process(machine: Machine) -> None:
    stream = machine.first["stdout"]

    def fill() -> bool:
        machine.send(stream, b"x" * min(stream.room, 30000))
        return not stream.room

    machine.until(fill)
    assert stream.sent < 1 << 20
    total = []

    def empty() -> bool:
        total.append(len(drain(machine.stdout)))
        return sum(total) == stream.sent - TOKEN_BYTES

    machine.until(empty)
    machine.until(lambda: stream.room)


def test_output_that_nobody_reads_leaves_the_link_process(machine: Machine) -> None:
    stream = machine.first["stdout"]

    def fill() -> bool:
        machine.send(stream, b"x" * min(stream.room, 30000))
        return not stream.room

    machine.until(fill)
    machine.say(Kind.EXITED, number=0, code=3, signal=0)
    machine.until(lambda: stream.room)
    for name in ("stdout", "stderr"):
        machine.shut(machine.first[name])
    machine.until(lambda: len(machine.main_said()) == 2)
    assert machine.main_said()[1] == {"m": "ended", "code": 3, "signal": 0}
    assert drain(machine.stdout) == b"x" * (stream.sent - TOKEN_BYTES)


def test_an_exec_with_a_terminal_in_the_link_process(machine: Machine) -> None:
    client = machine.client()
    machine.ask(client, "hello", version=1)
    assert machine.answer(client)["ok"]["state"] == "running"
    terminal = open_terminal("/dev/ptmx")
    machine.ask(client, "exec", [terminal.slave], exec_id="t", process=process(["sh"], terminal=True), stdin=True)
    rid, fields = machine.hear(Kind.EXEC)
    os.close(terminal.slave)
    console = machine.streams(fields)["console"]
    machine.say(Kind.OK, rid, pid=9)
    assert machine.answer(client)["ok"] == {"pid": 9}
    os.write(terminal.master, b"typed\n")
    machine.until(lambda: console.received == b"typed\n")
    machine.send(console, b"shown\n")
    os.set_blocking(terminal.master, False)
    output = bytearray()

    def shown() -> bool:
        output.extend(drain(terminal.master))
        return output == b"shown\n"

    machine.until(shown)
    os.close(terminal.master)
    machine.until(lambda: console.closed)
    client.close()


def test_messages_longer_than_a_packet_in_the_link_process(machine: Machine) -> None:
    client = machine.client()
    machine.ask(client, "hello", version=1)
    machine.answer(client)
    _, writing = pipes(2)
    env = [f"V{number}=" + "x" * 1000 for number in range(300)]
    machine.ask(client, "exec", writing, exec_id="long", process=process(["sh"], env=env), stdin=False)
    rid, fields = machine.hear(Kind.EXEC)
    assert fields["process"]["env"] == env
    machine.say(Kind.ERROR, rid, stage="exec", errno=2, subject="sh", message="no")
    assert machine.answer(client)["error"]["errno"] == 2
    machine.ask(client, "processes")
    rid, _ = machine.hear(Kind.PROCESSES)
    rows: list[dict[str, Any]] = [row(number) for number in range(1000)]
    machine.say(Kind.OK, rid, processes=rows, truncated=0)
    assert machine.answer(client)["ok"] == {"processes": rows, "truncated": False}
    for fd in writing:
        os.close(fd)
    client.close()


def row(number: int) -> dict[str, Any]:
    return {
        "pid": number,
        "ppid": 0,
        "uid": 0,
        "command": "x" * 100,
        "started_at_ns": 0,
        "cpu_ns": 0,
        "tty": "",
    }


def test_what_is_no_stream_ends_no_link_process(machine: Machine, tmp_path: Path) -> None:
    client = machine.client()
    machine.ask(client, "hello", version=1)
    machine.answer(client)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    machine.ask(client, "exec", [file], exec_id="t", process=process(["sh"], terminal=True), stdin=True)
    assert "no stream" in machine.answer(client)["error"]["message"]
    machine.ask(client, "exec", [file, file], exec_id="f", process=process(["sh"]), stdin=False)
    rid, fields = machine.hear(Kind.EXEC)
    streams: dict[str, Socket] = machine.streams(fields)
    machine.say(Kind.OK, rid, pid=9)
    machine.answer(client)
    machine.send(streams["stdout"], b"into a file")
    machine.until(lambda: (tmp_path / "file").read_bytes() == b"into a file")
    os.close(file)
    client.close()


def test_the_device_is_reset_under_the_link_process(machine: Machine) -> None:
    machine.driver.start()
    machine.until(lambda: len(machine.main_said()) == 2)
    assert machine.main_said()[1]["message"] == "the agent's connection broke"


def test_pause_holds_the_link_process_off_the_guest(machine: Machine) -> None:
    machine.worker.pause()
    os.write(machine.stdin, b"late")
    for _ in range(50):
        machine.turn()
    assert machine.first["stdin"].received == b""
    machine.worker.resume()
    machine.until(lambda: machine.first["stdin"].received == b"late")
