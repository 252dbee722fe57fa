"""The engine against a machine that lies: nothing it says on its control socket raises anything but our errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.drivers.microvm.control import MAX_STRANGE, MachineControl
from bireme.drivers.microvm.execs import ExecTable
from bireme.drivers.microvm.inside import exec_status, process_rows
from bireme.errors import BiremeError, Conflict, Deadline, Invalid
from bireme.instance.spec import ExecId
from bireme.linux import fd as fdlib
from tests.support.machines import process

Answer = Callable[[dict[str, Any]], "list[bytes]"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


class Liar:
    """Listens on a control socket, answers hello, and everything else as the test says."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind(str(path))
        self.listener.listen()
        self.answer = answer
        self.clients: list[socket.socket] = []
        asyncio.get_running_loop().add_reader(self.listener.fileno(), self._accept)

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        client.setblocking(False)
        self.clients.append(client)
        asyncio.get_running_loop().add_reader(client.fileno(), self._read, client)

    def _read(self, client: socket.socket) -> None:
        data, fds = fdlib.recv_fds(client)
        fdlib.close_quietly(*fds)
        if not data:
            asyncio.get_running_loop().remove_reader(client.fileno())
            return
        message = json.loads(data)
        for packet in hello(message) if message["op"] == "hello" else self.answer(message):
            with contextlib.suppress(OSError):
                client.send(packet)

    def close(self) -> None:
        for sock in (self.listener, *self.clients):
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()


def hello(message: dict[str, Any]) -> list[bytes]:
    return [json.dumps({"rid": message["rid"], "ok": {"version": 1, "state": "running", "execs": []}}).encode()]


def ok(message: dict[str, Any], fields: object) -> list[bytes]:
    return [json.dumps({"rid": message["rid"], "ok": fields}).encode()]


@contextlib.asynccontextmanager
async def talking(path: Path, answer: Answer, events: list[Any]) -> AsyncIterator[MachineControl]:
    liar = Liar(path, answer)
    control = MachineControl("m" * 64, str(path), lambda _control, event: bool(events.append(event)), patience_s=0.2)
    try:
        yield control
    finally:
        control.close()
        liar.close()


def drive(tmp_path: Path, answer: Answer, scenario: Callable[[MachineControl, list[Any]], Awaitable[None]]) -> None:
    async def main() -> None:
        events: list[Any] = []
        async with talking(tmp_path / "control", answer, events) as control:
            await scenario(control, events)

    asyncio.run(main())


@pytest.mark.parametrize(
    "packet",
    [
        b"not json",
        b"[]",
        b"@17",
        b"@x",
        b"[" * 90_000,
        b'{"rid": [], "ok": {}}',
        b'{"rid": {}, "error": 5}',
        b'{"rid": 99, "ok": {}}',
        b'{"rid": true, "ok": {}}',
    ],
)
def test_nonsense_is_no_answer(tmp_path: Path, packet: bytes) -> None:
    async def scenario(control: MachineControl, events: list[Any]) -> None:
        with pytest.raises(BiremeError):
            await control.call("ping")

    drive(tmp_path, lambda message: [packet], scenario)


@pytest.mark.parametrize(
    "error",
    [5, [], {"kind": []}, {"errno": "x"}, {"message": {}, "errno": 3, "stage": []}, {"kind": "invalid", "errno": None}],
)
def test_nonsense_as_an_error(tmp_path: Path, error: object) -> None:
    def answer(message: dict[str, Any]) -> list[bytes]:
        return [json.dumps({"rid": message["rid"], "error": error}).encode()]

    async def scenario(control: MachineControl, events: list[Any]) -> None:
        with pytest.raises(BiremeError):
            await control.call("ping")

    drive(tmp_path, answer, scenario)


@pytest.mark.parametrize("fields", [[], 5, "x", None])
def test_an_answer_without_fields_is_empty(tmp_path: Path, fields: object) -> None:
    async def scenario(control: MachineControl, events: list[Any]) -> None:
        assert await control.call("ping") == {}

    drive(tmp_path, lambda message: ok(message, fields), scenario)


def test_silence_and_the_end(tmp_path: Path) -> None:
    async def scenario(control: MachineControl, events: list[Any]) -> None:
        with pytest.raises(Deadline):
            await control.call("ping")
        control.close()
        with pytest.raises(Conflict):
            await control.call("ping")

    drive(tmp_path, lambda message: [], scenario)


def test_one_that_only_talks_is_hung_up_on(tmp_path: Path) -> None:
    flood = [json.dumps({"event": "exec_exited", "exec_id": n}).encode() for n in range(100)]

    async def ping_on(control: MachineControl) -> None:
        for _ in range(200):
            await control.call("ping")

    async def scenario(control: MachineControl, events: list[Any]) -> None:
        with pytest.raises(BiremeError):
            await ping_on(control)
        assert MAX_STRANGE < len(events) <= MAX_STRANGE + 200

    drive(tmp_path, lambda message: [*flood, *ok(message, {})], scenario)


def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path) -> None:
    async def scenario(control: MachineControl, events: list[Any]) -> None:
        await control.call("ping")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await control.call("ping")
        assert len(os.listdir("/proc/self/fd")) == before

    async def main() -> None:
        path = tmp_path / "control"
        liar = Liar(path, lambda message: [])

        def answer(message: dict[str, Any]) -> list[bytes]:
            fdlib.send_fds(liar.clients[0], ok(message, {})[0], [0, 0, 0])
            return []

        liar.answer = answer
        control = MachineControl("m", str(path), lambda _control, _event: True, patience_s=5)
        try:
            await scenario(control, [])
        finally:
            control.close()
            liar.close()

    asyncio.run(main())


@given(JSON)
def test_processes_are_rows_or_invalid(given_rows: Any) -> None:
    try:
        rows = process_rows(given_rows)
    except Invalid:
        return
    assert all(row.pid >= 0 and isinstance(row.command, str) for row in rows)


@given(st.lists(st.dictionaries(st.sampled_from(["pid", "uid", "command", "tty", "cpu_ns"]), JSON), max_size=3))
def test_rows_with_anything_in_them(rows: Any) -> None:
    with contextlib.suppress(Invalid):
        process_rows(rows)


@given(code=JSON, signal=JSON, at_ns=JSON)
def test_the_end_of_an_exec_is_numbers(code: Any, signal: Any, at_ns: Any) -> None:
    status = exec_status({"code": code, "signal": signal, "at_ns": at_ns})
    assert status is None or (0 <= status.code <= 255 and 0 <= status.signal < 128)


def test_an_exec_whose_answer_has_no_pid(tmp_path: Path) -> None:
    async def scenario(control: MachineControl, events: list[Any]) -> None:
        started = await ExecTable().start(control, ExecId("e"), process("true"), False)  # type: ignore[arg-type]
        assert started.pid == 0
        fdlib.close_quietly(started.streams.stdout, started.streams.stderr)

    drive(tmp_path, lambda message: ok(message, {"pid": "x"}), scenario)
