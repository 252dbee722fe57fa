"""Execs by the names that clients give them; their ends are kept until a client acknowledges them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError, Conflict, NotFound, Unavailable
from bireme.wire import agent, vmcontrol
from bireme.wire.agent import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.vmm.link.control import Request
    from bireme.vmm.link.processes import Process, Processes
    from bireme.vmm.link.session import Session

MAX_EXECS = 256
"""Running and unacknowledged ones; the agent has no more places either."""


class Execs:
    """`broadcast(event)` tells the clients; `ready()` raises when the machine cannot execute anything now."""

    def __init__(
        self,
        session: Session,
        processes: Processes,
        broadcast: Callable[[vmcontrol.ExecExited], None],
        ready: Callable[[], None],
    ) -> None:
        self._session = session
        self._processes = processes
        self._broadcast = broadcast
        self._ready = ready
        self._by_name: dict[str, Process] = {}
        self._names: dict[int, str] = {}

    def start(self, request: Request, message: dict[str, Any], fds: list[int]) -> None:
        """Operation `exec`."""
        names = vmcontrol.check_exec(message, len(fds))  # type: ignore[arg-type]
        identity = message["exec_id"]
        self._ready()
        if identity in self._by_name:
            raise Conflict(f"exec {identity} runs already", subject=identity)
        if len(self._by_name) >= MAX_EXECS:
            raise Unavailable(f"{MAX_EXECS} execs run or are not acknowledged", subject=identity)
        taken, fds[:] = list(fds), []
        process = self._processes.new(names, taken)
        try:
            fields = agent.exec_fields(process.number, message["process"], process.tokens)
            self._session.ask(Kind.EXEC, fields, lambda result: self._answered(request, identity, process, result))
        except BaseException:
            self._processes.abandon(process)
            raise
        self._by_name[identity] = process
        self._names[process.number] = identity

    def _answered(
        self, request: Request, identity: str, process: Process, result: dict[str, Any] | BiremeError
    ) -> None:
        if isinstance(result, BiremeError):
            self._processes.abandon(process)
            self._forget(identity)
            request.fail(result)
            return
        pid = result.get("pid", 0)
        self._processes.started(process, pid)
        request.ok(pid=pid)

    def _forget(self, identity: str) -> None:
        process = self._by_name.pop(identity)
        del self._names[process.number]

    def ended(self, process: Process) -> None:
        """An exec's end may be told."""
        row = self._row(process)
        if row is not None:
            self._broadcast(vmcontrol.exec_exited(row))

    def find(self, identity: object) -> Process:
        """A running or ended exec; NotFound."""
        process = self._by_name.get(identity) if isinstance(identity, str) else None
        if process is None:
            raise NotFound(f"no exec {identity!r}", subject=str(identity))
        return process

    def acknowledge(self, identity: object) -> None:
        """Forget an exec that has ended; unknown ones were acknowledged before."""
        process = self._by_name.get(identity) if isinstance(identity, str) else None
        if process is None:
            return
        if not process.told:
            raise Conflict(f"exec {identity} runs", subject=str(identity))
        self._forget(str(identity))
        self._processes.drop(process)

    def rows(self) -> list[vmcontrol.ExecRow]:
        """All of them, for hello."""
        return [row for process in self._by_name.values() if process.runs and (row := self._row(process)) is not None]

    def _row(self, process: Process) -> vmcontrol.ExecRow | None:
        identity = self._names.get(process.number)
        if identity is None:
            return None
        return {
            "exec_id": identity,
            "pid": process.pid,
            "terminal": process.terminal,
            "code": process.code if process.told else -1,
            "signal": process.signal if process.told else 0,
            "at_ns": process.at_ns if process.told else 0,
        }
