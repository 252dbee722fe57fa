"""The link put together: what happens from the agent's hello to the machine's end.

    booting --- hello, configure, ok{pid} ---> running --- exited, output delivered ---> ended
       `--- no hello in time, error, agent lost: failed{stage...} to main ---------------^

`paused` lies over running: the machine stands still, so nobody's time runs out. Main alone ends the machine; the link
says why (running, failed, ended) and that the agent may shut down.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bireme.errors import BiremeError, Conflict, Unavailable
from bireme.vmm.link.control import ControlServer
from bireme.vmm.link.execs import Execs
from bireme.vmm.link.mainline import MainLine
from bireme.vmm.link.processes import FIRST, Processes
from bireme.vmm.link.session import GuestFailed, Session
from bireme.wire import agent, vmcontrol
from bireme.wire.agent import Kind
from bireme.wire.fields import Value

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from bireme.linux.poll import Loop
    from bireme.vmm.link.contract import Transport
    from bireme.vmm.link.control import Operation, Request
    from bireme.vmm.link.processes import Process
    from bireme.wire.agent import GuestConfig


class LinkFiles(NamedTuple):
    """What main hands over, all owned by the link afterwards.

    `stdio`: stdin, stdout and stderr of the first process, or the slave of its pty alone. stdin is closed at once when
    the configuration says that there is none.
    """

    main: socket.socket
    control: socket.socket
    stdio: tuple[int, ...]

    def fds(self) -> list[int]:
        """Descriptors that the process must keep."""
        return [self.main.fileno(), self.control.fileno(), *self.stdio]


class Link:
    """One machine's link; lives in the loop that also runs `transport`."""

    def __init__(
        self, loop: Loop, transport: Transport, files: LinkFiles, guest: GuestConfig, *, boot_timeout_s: float
    ) -> None:
        self._loop = loop
        self._guest = guest
        self._main = MainLine(loop, files.main)
        self._session = Session(loop, self._on_hello, self._on_exited, self._on_lost)
        self._processes = Processes(loop, self._on_end)
        self._execs = Execs(self._session, self._processes, self._broadcast, self._check_running)
        self._control = ControlServer(loop, files.control, self._operations())
        self._state = "booting"
        self._paused = False
        self._boot_timeout_s = boot_timeout_s
        self._boot_timer = loop.call_later(boot_timeout_s, self._on_boot_timeout)
        self._first = self._make_first(files.stdio)
        transport.listen(agent.CONTROL_PORT, self._session.accept)
        transport.listen(agent.STREAM_PORT, self._processes.accept)

    def _make_first(self, stdio: tuple[int, ...]) -> Process:
        names = vmcontrol.stream_names(terminal=self._guest["process"]["terminal"], stdin=self._guest["stdin"])
        if len(stdio) > len(names):
            os.close(stdio[0])
            stdio = stdio[1:]
        return self._processes.new(names, stdio)

    # From the agent.

    def _on_hello(self, _fields: dict[str, Any]) -> None:
        fields = agent.configure_fields(
            self._guest,
            self._first.tokens,
            version=self._session.hello["version"],
            clock_ns=time.time_ns(),
            entropy=os.urandom(agent.ENTROPY_BYTES),
        )
        self._restart_boot_timer()
        try:
            self._session.ask(Kind.CONFIGURE, fields, self._on_configured)
        except BiremeError as error:
            self._fail("agent", 0, error.subject, str(error))

    def _on_configured(self, result: dict[str, Any] | BiremeError) -> None:
        self._boot_timer.cancel()
        if isinstance(result, GuestFailed):
            self._fail(result.stage, result.errno, result.subject, result.message)
        elif isinstance(result, BiremeError):
            self._fail("agent", errno.ETIMEDOUT, "", str(result))
        elif self._state == "booting":
            self._state = "running"
            self._processes.started(self._first, result.get("pid", 0))
            self._main.tell(m="running", pid=self._first.pid)

    def _on_exited(self, number: int, code: int, signum: int) -> None:
        process = self._processes.get(number)
        if process is None or not process.runs:
            self._session.dropped(f"the end of process {number}, which does not run")
            return
        process.exited(code, signum)

    def _on_lost(self, reason: str) -> None:
        if self._first.code >= 0:
            self._first.tell()
        else:
            self._fail("agent", errno.ECONNRESET, "", reason)

    def _on_boot_timeout(self) -> None:
        if self._state != "booting":
            return
        if self._paused:
            self._restart_boot_timer()
            return
        what = "did not finish its configuration" if self._session.hello else "did not answer"
        reason = f"the machine's agent {what} within {self._boot_timeout_s:g} s"
        self._fail("agent", errno.ETIMEDOUT, "", reason)

    def _restart_boot_timer(self) -> None:
        self._boot_timer.cancel()
        self._boot_timer = self._loop.call_later(self._boot_timeout_s, self._on_boot_timeout)

    def _on_end(self, process: Process) -> None:
        if process.number != FIRST:
            self._execs.ended(process)
            return
        if self._state == "running":
            self._state = "ended"
            lost = {"lost": process.lost} if process.lost else {}
            self._main.tell(m="ended", code=process.code, signal=process.signal, **lost)
            self._shut_down()

    def _shut_down(self) -> None:
        try:
            self._session.tell(Kind.SHUTDOWN)
        except BiremeError:
            return

    def _fail(self, stage: str, number: int, subject: str, message: str) -> None:
        if self._state == "ended":
            return
        self._state = "ended"
        self._main.tell(m="failed", stage=stage, errno=number, subject=subject, message=message)
        self._shut_down()

    # From clients.

    def _operations(self) -> Mapping[str, Operation]:
        return {
            "hello": self._hello,
            "exec": self._execs.start,
            "exec_signal": self._exec_signal,
            "exec_resize": self._exec_resize,
            "exec_acknowledge": self._exec_acknowledge,
            "signal": self._signal,
            "resize": self._resize,
            "pause": self._pause,
            "resume": self._resume,
            "processes": self._list,
            "stats": self._stats,
            "explain": self._explain,
            "ping": lambda _request, _message, _fds: {},
        }

    def _broadcast(self, event: Mapping[str, Any]) -> None:
        self._control.broadcast(event)

    def _check_running(self) -> None:
        if self._paused:
            raise Conflict("the machine is paused")
        if self._state != "running":
            raise Conflict(f"the machine is not running: {self._state}")

    def _hello(self, request: Request, message: dict[str, Any], _fds: list[int]) -> None:
        version = vmcontrol.agreed_version(message.get("version"))
        request.client.greeted = True
        rows = self._execs.rows()
        request.ok(version=version, state="paused" if self._paused else self._state, execs=rows)
        for row in rows:
            if row["code"] >= 0:
                request.client.send(vmcontrol.exec_exited(row))

    def _ask(self, request: Request, kind: Kind, **fields: Any) -> None:
        """A question whose answer holds nothing."""
        self._check_running()
        self._session.ask(kind, fields, lambda result: request.answer(_bare(result)))

    def _exec_signal(self, request: Request, message: dict[str, Any], _fds: list[int]) -> None:
        process = self._execs.find(message["exec_id"])
        self._ask(request, Kind.SIGNAL, number=process.number, signum=int(message["number"]))

    def _exec_resize(self, request: Request, message: dict[str, Any], _fds: list[int]) -> None:
        process = self._execs.find(message["exec_id"])
        self._ask(request, Kind.RESIZE, number=process.number, **_size(message))

    def _exec_acknowledge(self, _request: Request, message: dict[str, Any], _fds: list[int]) -> Mapping[str, Any]:
        self._execs.acknowledge(message["exec_id"])
        return {}

    def _signal(self, request: Request, message: dict[str, Any], _fds: list[int]) -> None:
        everyone = bool(message.get("all"))
        self._ask(request, Kind.SIGNAL, number=FIRST, signum=int(message["number"]), all=everyone)

    def _resize(self, request: Request, message: dict[str, Any], _fds: list[int]) -> None:
        self._ask(request, Kind.RESIZE, number=FIRST, **_size(message))

    def _list(self, request: Request, _message: dict[str, Any], _fds: list[int]) -> None:
        def answered(result: dict[str, Any] | BiremeError) -> None:
            if not isinstance(result, BiremeError):
                rows = [_only(row, vmcontrol.ProcessRow) for row in result.get("processes", [])]
                result = {"processes": rows, "truncated": bool(result.get("truncated"))}
            request.answer(result)

        self._check_running()
        self._session.ask(Kind.PROCESSES, {}, answered)

    def _stats(self, request: Request, _message: dict[str, Any], _fds: list[int]) -> None:
        def answered(result: dict[str, Any] | BiremeError) -> None:
            request.answer(result if isinstance(result, BiremeError) else _only(result, vmcontrol.GuestStats))

        self._check_running()
        self._session.ask(Kind.STATS, {}, answered)

    def _pause(self, request: Request, _message: dict[str, Any], _fds: list[int]) -> None:
        self._check_running()
        self._set_paused(True)

        def answered(result: dict[str, Any] | BiremeError) -> None:
            if isinstance(result, BiremeError):
                self._set_paused(False)
            request.answer(result)

        self._main.ask("pause", answered)

    def _resume(self, request: Request, _message: dict[str, Any], _fds: list[int]) -> None:
        if not self._paused:
            raise Conflict("the machine is not paused")

        def answered(result: dict[str, Any] | BiremeError) -> None:
            if not isinstance(result, BiremeError):
                self._set_paused(False)
                self._set_clock()
            request.answer(result)

        self._main.ask("resume", answered)

    def _set_paused(self, paused: bool) -> None:
        self._paused = self._session.paused = paused

    def _set_clock(self) -> None:
        """The guest's clock may have stood still with its processors."""
        try:
            self._session.ask(Kind.CLOCK, {"clock_ns": time.time_ns()}, lambda _result: None)
        except Unavailable:
            return

    def _explain(self, request: Request, _message: dict[str, Any], _fds: list[int]) -> None:
        def answered(result: dict[str, Any] | BiremeError) -> None:
            machine = {"error": str(result)} if isinstance(result, BiremeError) else result
            request.ok(machine=machine, link=self.describe(), agent=self._session.describe())

        self._main.ask("describe", answered)

    def close(self) -> None:
        """Close everything: for programs that go on without it."""
        self._boot_timer.cancel()
        self._control.close()
        self._session.close()
        self._processes.close()
        self._main.close()

    def describe(self) -> dict[str, Any]:
        """For `explain`."""
        return {
            "state": self._state,
            "paused": self._paused,
            "clients": len(self._control.clients),
            **self._processes.describe(),
        }


def _bare(result: dict[str, Any] | BiremeError) -> dict[str, Any] | BiremeError:
    return result if isinstance(result, BiremeError) else {}


def _only(said: Mapping[str, Any], shape: type) -> dict[str, Any]:
    """Of what the agent said the fields of a row; what it left out is 0 or ""."""
    kinds = shape.__annotations__
    return {name: said.get(name, "" if agent.FIELDS[name].value is Value.TEXT else 0) for name in kinds}


def _size(message: Mapping[str, Any]) -> dict[str, int]:
    return {"rows": int(message["rows"]), "columns": int(message["cols"])}
