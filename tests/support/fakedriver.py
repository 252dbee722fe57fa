"""An in-memory driver: passes the same contract suite as the real ones and lets engine tests run without a kernel.

A command's first word decides what it does: `true`, `false`, `sleep` (until signalled), `exit N`, `missing`,
`forbidden`, `echo WORDS`, `cat` (copies stdin to stdout). Anything else runs until it is signalled.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time

from bireme.errors import Conflict, NotFound
from bireme.instance.driver import (
    Adopted,
    ExecStarted,
    ExitStatus,
    OnExit,
    Placement,
    ProcessRow,
    Started,
    StartError,
    Stat,
    Streams,
)
from bireme.instance.spec import ExecId, InstanceId, InstanceSpec, ProcessSpec

_FATAL = {1, 2, 3, 6, 9, 15}


class _Process:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started_at_ns = time.time_ns()
        self.exit: ExitStatus | None = None
        self.paused = False
        self.settled = False
        self.size = (0, 0)
        self.stdin_open = True


class FakeDriver:
    """Driver with Exec, Console, Pause, Stats and Processes."""

    name = "container"
    mounts_volumes = True

    def __init__(self) -> None:
        self._pid = 1000
        self._running: dict[str, _Process] = {}
        self._sinks: dict[str, list[int]] = {}
        self._execs: dict[str, asyncio.Future[ExitStatus]] = {}
        self._on_exit: OnExit | None = None
        self.deleted: list[str] = []

    def watch(self, on_exit: OnExit) -> None:
        self._on_exit = on_exit

    async def create(self, placement: Placement) -> None:
        return None

    async def start(self, placement: Placement) -> Started:
        held = self._running.get(placement.id)
        if held is not None and held.exit is None:
            raise Conflict(f"instance {placement.id} is running already")
        _refuse(placement.spec.process.args)
        process = self._running[placement.id] = self._new()
        asyncio.get_running_loop().call_soon(self._play, placement.id, placement.spec.process.args)
        return Started(pid=process.pid, started_at_ns=process.started_at_ns)

    def _new(self) -> _Process:
        self._pid += 1
        return _Process(self._pid)

    def _play(self, identity: InstanceId, args: tuple[str, ...]) -> None:
        if args[0] == "echo":
            self.emit(identity, (" ".join(args[1:]) + "\n").encode())
        if (code := _ends_with(args)) is not None:
            self.end(identity, code)

    def emit(self, identity: str, data: bytes) -> None:
        """Write to the sinks as the instance's stdout."""
        for fd in self._sinks.get(identity, ()):
            os.write(fd, struct.pack(">BxxxI", 1, len(data)) + data)

    def end(self, identity: str, code: int, signal: int = 0) -> None:
        """Let the first process end."""
        process = self._running.get(identity)
        if process is None or process.exit is not None:
            return
        process.exit = ExitStatus(code=code, signal=signal, finished_at_ns=time.time_ns())
        for fd in self._sinks.pop(identity, ()):
            os.close(fd)
        if self._on_exit is not None:
            self._on_exit(InstanceId(identity), process.exit)

    async def signal(self, instance: InstanceId, number: int) -> None:
        self._live(instance)
        if number in _FATAL:
            self.end(instance, 128 + number, number)

    async def settle(self, instance: InstanceId) -> None:
        process = self._running.get(instance)
        if process is not None and process.exit is not None:
            process.settled = True

    async def delete(self, instance: InstanceId) -> None:
        process = self._running.get(instance)
        if process is not None and process.exit is None:
            raise Conflict(f"instance {instance} is running")
        self._running.pop(instance, None)
        for fd in self._sinks.pop(instance, ()):
            os.close(fd)
        self.deleted.append(instance)

    async def adopt(self) -> list[Adopted]:
        found = []
        for identity, process in self._running.items():
            if process.exit is not None and process.settled:
                continue
            found.append(
                Adopted(
                    id=InstanceId(identity),
                    running=process.exit is None,
                    pid=process.pid,
                    started_at_ns=process.started_at_ns,
                    paused=process.paused,
                    exit=process.exit,
                )
            )
        return found

    async def exec(
        self, instance: InstanceId, spec: InstanceSpec, exec_id: ExecId, process: ProcessSpec, stdin: bool
    ) -> ExecStarted:
        self._live(instance)
        _refuse(process.args)
        out, out_w = os.pipe()
        err, err_w = os.pipe()
        if process.args[0] == "echo":
            os.write(out_w, (" ".join(process.args[1:]) + "\n").encode())
        os.close(out_w)
        os.close(err_w)
        done: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        if process.args[0] != "sleep":
            done.set_result(ExitStatus(code=_ends_with(process.args) or 0, finished_at_ns=time.time_ns()))
        self._execs[exec_id] = done
        return ExecStarted(pid=self._new().pid, streams=Streams(stdout=out, stderr=err))

    async def exec_wait(self, exec_id: ExecId) -> ExitStatus:
        if exec_id not in self._execs:
            raise NotFound(f"no exec {exec_id}")
        return await asyncio.shield(self._execs[exec_id])

    async def exec_detach(self, exec_id: ExecId, streams: Streams) -> None:
        for fd in (streams.stdin, streams.stdout, streams.stderr, streams.console):
            if fd >= 0:
                os.close(fd)

    async def exec_resize(self, exec_id: ExecId, rows: int, columns: int) -> None:
        if exec_id not in self._execs:
            raise NotFound(f"no exec {exec_id}")

    async def exec_signal(self, exec_id: ExecId, number: int) -> None:
        done = self._execs.get(exec_id)
        if done is None:
            raise NotFound(f"no exec {exec_id}")
        if done.done():
            raise Conflict(f"exec {exec_id} is not running")
        done.set_result(ExitStatus(code=128 + number, signal=number, finished_at_ns=time.time_ns()))

    async def attach(self, instance: InstanceId, *, stdout: bool, stderr: bool) -> int:
        reader, writer = os.pipe()
        self._sinks.setdefault(instance, []).append(writer)
        return reader

    async def stdin(self, instance: InstanceId) -> int:
        self._live(instance)
        reader, writer = os.pipe()
        os.close(reader)
        return writer

    async def close_stdin(self, instance: InstanceId) -> None:
        self._live(instance).stdin_open = False

    async def resize(self, instance: InstanceId, rows: int, columns: int) -> None:
        self._live(instance).size = (rows, columns)

    async def pause(self, instance: InstanceId) -> None:
        self._live(instance).paused = True

    async def resume(self, instance: InstanceId) -> None:
        self._live(instance).paused = False

    async def stats(self, instance: InstanceId) -> Stat:
        self._live(instance)
        return Stat(read_at_ns=time.time_ns(), memory_bytes=4096, pids=1)

    async def processes(self, instance: InstanceId) -> list[ProcessRow]:
        process = self._live(instance)
        return [ProcessRow(pid=process.pid, ppid=1, uid=0, command="fake", started_at_ns=process.started_at_ns)]

    def _live(self, instance: str) -> _Process:
        process = self._running.get(instance)
        if process is None:
            raise NotFound(f"no instance {instance}")
        if process.exit is not None:
            raise Conflict(f"instance {instance} is not running")
        return process


def _refuse(args: tuple[str, ...]) -> None:
    if args[0] == "missing":
        raise StartError('exec: "missing": executable file not found in $PATH', 127)
    if args[0] == "forbidden":
        raise StartError('exec: "forbidden": permission denied', 126)


def _ends_with(args: tuple[str, ...]) -> int | None:
    match args:
        case ("true" | "echo", *_):
            return 0
        case ("false", *_):
            return 1
        case ("exit", code):
            return int(code)
        case _:
            return None
