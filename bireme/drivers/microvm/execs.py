"""Processes the engine runs inside machines: their streams are made here, their ends come over the control socket."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bireme.drivers.microvm.control import MachineControl
from bireme.drivers.microvm.inside import exec_status
from bireme.drivers.supervised.channel import LaunchRefused
from bireme.drivers.supervised.link import start_error
from bireme.errors import Conflict, NotFound
from bireme.instance.driver import ExecStarted, ExitStatus, Streams
from bireme.instance.spec import ExecId, InstanceId
from bireme.linux.fd import close_quietly
from bireme.linux.tty import make_raw, open_terminal, set_size
from bireme.wire.agent import Process

_DRAIN_BYTES = 65536
KILLED = 137


class _Run(NamedTuple):
    control: MachineControl
    ending: asyncio.Future[ExitStatus]


class ExecTable:
    """Execs that somebody waits for, by id."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def control(self, exec_id: ExecId) -> MachineControl:
        run = self._runs.get(exec_id)
        if run is None:
            raise NotFound(f"no exec {exec_id}", subject=exec_id)
        return run.control

    async def start(self, control: MachineControl, exec_id: ExecId, process: Process, stdin: bool) -> ExecStarted:
        """Run it. The machine's ends of its streams are closed here once it has them."""
        ours, theirs = _make_streams(process, stdin)
        self._runs[exec_id] = _Run(control, asyncio.get_running_loop().create_future())
        try:
            answer = await control.call("exec", theirs, exec_id=exec_id, process=process, stdin=stdin)
        except BaseException as error:
            del self._runs[exec_id]
            close_quietly(ours.stdin, ours.stdout, ours.stderr, ours.console)
            if isinstance(error, LaunchRefused):
                raise start_error(error, process["args"][0]) from error
            raise
        finally:
            close_quietly(*theirs)
        pid = answer.get("pid")
        return ExecStarted(pid=pid if isinstance(pid, int) else 0, streams=ours)

    def ended(self, exec_id: str, message: Mapping[str, Any]) -> bool:
        """An event; False when nobody waits for this exec, or it makes no sense."""
        run, status = self._runs.get(exec_id), exec_status(message)
        if run is None or status is None:
            return False
        if not run.ending.done():
            run.ending.set_result(status)
        return True

    def instance_ended(self, identity: InstanceId, at_ns: int) -> None:
        """All that ran in it were killed with it."""
        for run in self._runs.values():
            if run.control.identity == identity and not run.ending.done():
                status = ExitStatus(code=KILLED, signal=9, finished_at_ns=at_ns or time.time_ns())
                run.ending.set_result(status)

    async def wait(self, exec_id: ExecId) -> ExitStatus:
        run = self._runs.get(exec_id)
        if run is None:
            raise NotFound(f"no exec {exec_id}", subject=exec_id)
        status = await run.control.follow(run.ending)
        if self._runs.pop(exec_id, None) is not None:
            try:
                await run.control.post("exec_acknowledge", exec_id=exec_id)
            except Conflict:
                pass
        return status

    def detach(self, streams: Streams) -> None:
        """The process goes on. Pipes whose reader is gone are read to nowhere by the machine, but a terminal whose
        other side is closed hangs up: it is kept, and what comes is dropped."""
        close_quietly(streams.stdin, streams.stdout, streams.stderr)
        if streams.console >= 0:
            os.set_blocking(streams.console, False)
            asyncio.get_running_loop().add_reader(streams.console, _drop, streams.console)


def _drop(console: int) -> None:
    try:
        if os.read(console, _DRAIN_BYTES):
            return
    except BlockingIOError:
        return
    except OSError:
        pass
    asyncio.get_running_loop().remove_reader(console)
    os.close(console)


def _make_streams(process: Process, stdin: bool) -> tuple[Streams, Sequence[int]]:
    """Our ends, and the machine's in the order of wire/vmcontrol."""
    if process["terminal"]:
        terminal = open_terminal("/dev/ptmx")
        make_raw(terminal.slave)
        if process["rows"] and process["columns"]:
            set_size(terminal.master, process["rows"], process["columns"])
        return Streams(console=terminal.master), [terminal.slave]
    made: list[int] = []
    try:
        out = os.pipe2(os.O_CLOEXEC)
        made += out
        err = os.pipe2(os.O_CLOEXEC)
        made += err
        if not stdin:
            return Streams(stdout=out[0], stderr=err[0]), [out[1], err[1]]
        given = os.pipe2(os.O_CLOEXEC)
    except BaseException:
        close_quietly(*made)
        raise
    return Streams(stdin=given[1], stdout=out[0], stderr=err[0]), [given[0], out[1], err[1]]
