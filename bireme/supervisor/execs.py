"""One more process in a running instance. Its streams belong to the client; the supervisor keeps duplicates.

They keep the process from a SIGPIPE when the client dies, and are read to nowhere (by the logger) once nobody claims
them: a client that greets us names the execs it still reads, and one that is gone for a few seconds reads none. The
writing end of stdin is the client's alone, so its death is an end of input.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any, cast

from bireme.errors import BiremeError, Conflict, Internal, Invalid, Unavailable, Unsupported
from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.runtime import launch as starter
from bireme.runtime import sync
from bireme.runtime.parked import send_enter, suits
from bireme.supervisor.fate import LOOK_AGAIN_S, RAN, UNSURE, fate
from bireme.supervisor.launches import resize
from bireme.supervisor.nursery import as_failure, failure
from bireme.supervisor.output import Output
from bireme.supervisor.parking import Parked, Parking
from bireme.supervisor.server import Answer, Caller
from bireme.supervisor.table import Exec

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from bireme.linux.poll import Loop
    from bireme.runtime.plan import ExecPlan
    from bireme.supervisor.children import Children
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.output import Outputs
    from bireme.supervisor.server import Client, Server
    from bireme.supervisor.service import Service
    from bireme.supervisor.slots import Slots
    from bireme.supervisor.table import Instance, Table

_UNCLAIMED_S = 3.0
_MAX_TRIES = 10


class Start:
    """One exec under way. `ours` go to the client, `theirs` to the process."""

    __slots__ = (
        "caller",
        "ctl",
        "ended",
        "exec",
        "instance",
        "ours",
        "parked",
        "pidfd",
        "plan",
        "spawning",
        "theirs",
        "tries",
        "wants_stdin",
    )

    def __init__(self, caller: Caller, instance: Instance, pidfd: int, message: Mapping[str, Any]) -> None:
        self.caller = caller
        self.instance = instance
        self.pidfd = pidfd
        self.plan = cast("ExecPlan", message["plan"])
        self.exec = Exec(message["exec_id"], instance.id, 0, terminal=bool(message.get("terminal")))
        self.wants_stdin = bool(message.get("stdin"))
        self.ours: list[int] = []
        self.theirs: list[int] = []
        self.ctl: socket.socket | None = None
        self.tries = 0
        self.parked: Parked | None = None
        """What starts the program, unless it is a clone of the zygote."""
        self.spawning = False
        self.ended: process.Exit | None = None

    def close(self) -> None:
        fdlib.close_quietly(*self.ours, *self.theirs)
        self.ours.clear()
        self.theirs.clear()


class Execs:
    """Starts, ends, claims."""

    def __init__(
        self,
        loop: Loop,
        keeper: KeeperLink,
        children: Children,
        table: Table,
        slots: Slots,
        zygote: Service,
        outputs: Outputs,
        server: Server,
        null: int,
    ) -> None:
        self._loop = loop
        self._keeper = keeper
        self._children = children
        self._table = table
        self._slots = slots
        self._zygote = zygote
        self._outputs = outputs
        self._server = server
        self._null = null
        self._parking = Parking(loop, children, zygote)
        self._under_way: dict[str, Start] = {}
        self._waiting: list[Start] = []
        self._owners: dict[str, Client] = {}
        self._drains: dict[str, Output] = {}

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def operations(self) -> dict[str, Callable[[Caller, dict[str, Any], list[int]], Any]]:
        return {
            "exec": self.exec,
            "exec_resize": self.resize,
            "exec_signal": self.signal,
            "exec_drain": self.drain,
            "exec_acknowledge": self.acknowledge,
        }

    def exec(self, caller: Caller, message: dict[str, Any], fds: list[int]) -> None:
        """The operation."""
        fdlib.close_quietly(*fds)
        instance, slot = self._table.find_running(message["id"])
        if instance.machine:
            raise Unsupported("an exec in a machine goes over its control socket", subject=instance.id)
        if instance.paused:
            raise Conflict(f"Container {instance.id} is paused, unpause the container before exec", subject=instance.id)
        identity = message["exec_id"]
        if not isinstance(identity, str) or not identity or "/" in identity or "\n" in identity:
            raise Invalid(f"exec_id {identity!r} is not a name", subject="exec_id")
        if identity in self._table.execs or identity in self._under_way:
            raise Conflict(f"exec {identity} runs already", subject=identity)
        start = Start(caller, instance, slot.pidfd, message)
        if not start.exec.terminal:
            self._make_pipes(start)
        self._under_way[identity] = start
        if not self._enter(start, slot.cgroup):
            self._ask(start, slot.cgroup)

    def _enter(self, start: Start, cgroup: str) -> bool:
        """Have a parked process do it; False when there is none for this."""
        parked = self._parking.take() if suits(start.plan) else None
        if parked is None:
            return False
        joins: list[int] = []
        try:
            joins += self._slots.cgroups.procs_fds(cgroup)
            starter.apply_outside(start.plan, parked.pid)
            starter.own_streams(start.theirs, self._owner(start))
            send_enter(parked.ctl, start.instance.namespaces, start.plan, start.pidfd, joins, start.theirs)
        except (OSError, BiremeError):
            parked.ctl.close()
            return False  # what is wrong with the request the other way finds too
        finally:
            fdlib.close_quietly(*joins)
        start.parked, start.ctl = parked, parked.ctl
        start.tries += 1
        parked.on_end = lambda: self._parked_ended(start)
        self._loop.add(parked.ctl.fileno(), lambda _mask: self._on_message(start))
        return True

    def _owner(self, start: Start) -> tuple[int, int]:
        return start.instance.uid_base, start.instance.uid_base

    def _make_pipes(self, start: Start) -> None:
        if start.wants_stdin:
            stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
        else:
            stdin_read, stdin_write = os.dup(self._null), os.dup(self._null)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        start.ours += [stdin_write, out_read, err_read]
        start.theirs += [stdin_read, out_write, err_write]

    def _ask(self, start: Start, cgroup: str) -> None:
        ours, theirs = fdlib.seqpacket_pair()
        ours.setblocking(False)
        start.ctl = ours
        start.tries += 1
        request = {"cgroup": cgroup, "namespaces": start.instance.namespaces}
        with theirs:
            sent = self._zygote.send({"op": "exec", "request": request}, [theirs.fileno(), start.pidfd])
        if sent:
            self._loop.add(ours.fileno(), lambda _mask: self._on_message(start))
        else:
            ours.close()
            start.ctl = None
            self._waiting.append(start)

    def zygote_started(self) -> None:
        """Starts that a dead zygote took along are asked for again, and those it had only half begun."""
        waiting, self._waiting = self._waiting, []
        for start in list(self._under_way.values()):
            self._on_message(start)
            if start.ctl is not None and not start.exec.pid:
                self._hang_up(start)
                waiting.append(start)
        for start in waiting:
            slot = start.instance.slot
            if slot is None or slot.pidfd < 0:
                self._fail(start, Conflict(f"container {start.instance.id} is not running", subject=start.instance.id))
            else:
                self._ask(start, slot.cgroup)

    def _on_message(self, start: Start) -> None:
        if start.ctl is None:
            return
        try:
            received = sync.receive_message(start.ctl)
        except BlockingIOError:
            return
        if received is None:
            self._hang_up(start)
            if start.exec.pid:
                self._at_end(start)
            else:
                self._lost(start)
            return
        message, fds = received
        kind = message["m"]
        try:
            if kind == "child" and start.parked is not None:
                self._on_spawned(start, message["pid"])
            elif kind == "child":
                self._on_child(start, message["pid"], fds[0])
            elif kind == "spawning":
                start.spawning = True
            elif kind == "console":
                start.exec.console = fds[0]
                start.ours.append(os.dup(fds[0]))
            else:
                fdlib.close_quietly(*fds)
                self._refused(start, message)
        except (OSError, BiremeError) as error:
            self._fail(start, as_failure("start", error))

    def _refused(self, start: Start, message: dict[str, Any]) -> None:
        if start.parked is not None and message.get("errno") == errno.EAGAIN:
            # it counted against the limit of processes itself
            start.spawning = False
            self._hang_up(start)
            self._lost(start)
        else:
            self._fail(start, failure(message))

    def _on_child(self, start: Start, pid: int, pidfd: int) -> None:
        self._children.watch(pid, lambda ended: self._on_exit(start, ended))
        starter.apply_outside(start.plan, pid)
        self._record(start, pid, pidfd)
        assert start.ctl is not None
        starter.send_start(start.ctl, start.plan, start.theirs, owner=self._owner(start) if start.theirs else None)
        fdlib.close_quietly(*start.theirs)
        start.theirs.clear()

    def _on_spawned(self, start: Start, pid: int) -> None:
        """It runs already. Our child it is when the parked one is gone: see `_parked_ended`."""
        self._record(start, pid, process.pidfd_open(pid))
        fdlib.close_quietly(*start.theirs)
        start.theirs.clear()
        self._hang_up(start)
        self._started(start)

    def _record(self, start: Start, pid: int, pidfd: int) -> None:
        exec_ = start.exec
        exec_.pid = pid
        exec_.pidfd = pidfd
        if not exec_.terminal:
            exec_.streams = {"stdout": os.dup(start.ours[1]), "stderr": os.dup(start.ours[2])}
        self._hold(exec_)
        self._table.exec_started(exec_)

    def _parked_ended(self, start: Start) -> None:
        for _ in range(3):
            self._on_message(start)
        if start.exec.pid:
            self._children.watch(start.exec.pid, lambda ended: self._on_exit(start, ended))

    def _hold(self, exec_: Exec) -> None:
        held = {exec_.name(what): fd for what, fd in exec_.streams.items()}
        if exec_.console >= 0:
            held[exec_.name("console")] = exec_.console
        held[exec_.name("pidfd")] = exec_.pidfd
        self._keeper.hold(held)

    def _hang_up(self, start: Start) -> None:
        if start.ctl is not None:
            self._loop.remove(start.ctl.fileno())
            start.ctl.close()
            start.ctl = None

    def _at_end(self, start: Start, looks: int = 0) -> None:
        """It runs, or was killed before."""
        exec_ = start.exec
        if self._under_way.get(exec_.id) is not start:
            return
        verdict = fate(exec_.pid, exec_.pidfd, start.ended, looks)
        if verdict == UNSURE:
            self._loop.call_later(LOOK_AGAIN_S, lambda: self._at_end(start, looks + 1))
        elif verdict == RAN:
            self._started(start)
        else:
            self._fail(start, Internal("the process was killed before it ran", subject=exec_.id, place="start"))

    def _started(self, start: Start) -> None:
        exec_ = start.exec
        del self._under_way[exec_.id]
        if exec_.console >= 0:
            self._hold(exec_)
        self._owners[exec_.id] = start.caller.client
        exec_.running = True
        start.caller.answer(Answer({"pid": exec_.pid}, tuple(start.ours), tuple(start.ours)))
        start.ours.clear()
        self._parking.wish()
        if start.ended is not None:
            self.ended(exec_, start.ended)

    def _lost(self, start: Start) -> None:
        """Neither a child nor an error: the zygote died with our request, or who should start it was killed. When the
        program may have been started it is not started again."""
        slot = start.instance.slot
        start.parked = None
        if start.spawning or start.tries >= _MAX_TRIES or slot is None:
            self._fail(start, Unavailable("the process was killed before it had started", subject=start.exec.id))
        elif self._zygote.running:
            self._ask(start, slot.cgroup)
        else:
            self._waiting.append(start)

    def _fail(self, start: Start, error: BiremeError) -> None:
        exec_ = start.exec
        self._hang_up(start)
        start.close()
        self._under_way.pop(exec_.id, None)
        if exec_.pidfd >= 0:
            process.pidfd_send_signal(exec_.pidfd, 9)
        self._table.exec_gone(exec_)
        self._close(exec_)
        start.caller.refuse(error)

    def _on_exit(self, start: Start, ended: process.Exit) -> None:
        """Not reaped yet; what it said before is still to be read."""
        if self._under_way.get(start.exec.id) is start:
            start.ended = ended
            for _ in range(3):
                self._on_message(start)
            if start.ctl is None:
                self._at_end(start)
        elif start.exec.running:
            self.ended(start.exec, ended)

    def ended(self, exec_: Exec, ended: process.Exit) -> None:
        """Write it down, tell whoever wants to know."""
        exec_.running = False
        self._table.exec_exited(exec_, ended, time.time_ns())
        self._close(exec_)
        if exec_.claimed:
            self._server.broadcast(exec_.exit_event())
        else:
            self._table.exec_gone(exec_)

    def _close(self, exec_: Exec) -> None:
        self._owners.pop(exec_.id, None)
        self._keeper.drop([exec_.name(what) for what in ("stdout", "stderr", "console", "pidfd")])
        fdlib.close_quietly(*exec_.streams.values(), exec_.console, exec_.pidfd)
        exec_.streams.clear()
        exec_.console = exec_.pidfd = -1

    # --- claims

    def greeted(self, client: Client, claimed: list[str]) -> None:
        """A client says which execs it reads; nobody else does, so the others are read to nowhere."""
        for exec_ in list(self._table.execs.values()):
            if exec_.id in claimed:
                exec_.claimed = True
                self._owners[exec_.id] = client
            elif self._owners.get(exec_.id) not in self._server.clients:
                self._unclaim(exec_)

    def disconnected(self, client: Client) -> None:
        """A client is gone; it has a moment to come back."""
        if client in self._owners.values():
            self.unclaim_later()

    def unclaim_later(self) -> None:
        self._loop.call_later(_UNCLAIMED_S, self._unclaim_orphans)

    def _unclaim_orphans(self) -> None:
        for exec_ in list(self._table.execs.values()):
            if self._owners.get(exec_.id) not in self._server.clients:
                self._unclaim(exec_)

    def _unclaim(self, exec_: Exec) -> None:
        exec_.claimed = False
        if exec_.ended is not None:
            self._table.exec_gone(exec_)
            return
        self._drain(exec_)

    def _drain(self, exec_: Exec) -> None:
        if exec_.id in self._drains or not (exec_.streams or exec_.console >= 0):
            return
        sources = {"stdout": os.dup(exec_.console)} if exec_.console >= 0 else dict(exec_.streams)
        exec_.streams.clear()
        output = Output(f"exec/{exec_.id}", 0, raw=exec_.console >= 0, log={}, sources=sources)
        self._drains[exec_.id] = output
        output.on_drained = lambda: self._drained(exec_.id)
        self._outputs.add(output)

    def _drained(self, identity: str) -> None:
        self._drains.pop(identity, None)

    def drain(self, _caller: Caller, message: dict[str, Any], fds: list[int]) -> Mapping[str, Any]:
        """The client does not read the streams (any more), but wants to know the end."""
        fdlib.close_quietly(*fds)
        self._drain(self._table.find_exec(message["exec_id"]))
        return {}

    # --- the rest

    def resize(self, _caller: Caller, message: dict[str, Any], fds: list[int]) -> Mapping[str, Any]:
        fdlib.close_quietly(*fds)
        resize(self._table.find_exec(message["exec_id"]).console, message)
        return {}

    def signal(self, _caller: Caller, message: dict[str, Any], fds: list[int]) -> Mapping[str, Any]:
        fdlib.close_quietly(*fds)
        exec_ = self._table.find_exec(message["exec_id"])
        if exec_.pidfd < 0 or not process.pidfd_send_signal(exec_.pidfd, int(message["signum"])):
            raise Conflict(f"exec {exec_.id} is not running", subject=exec_.id)
        return {}

    def acknowledge(self, _caller: Caller, message: dict[str, Any], fds: list[int]) -> Mapping[str, Any]:
        fdlib.close_quietly(*fds)
        exec_ = self._table.execs.get(message["exec_id"])
        if exec_ is not None and exec_.ended is not None:
            self._table.exec_gone(exec_)
        return {}

    def adopt(self, exec_: Exec) -> None:
        """One of a predecessor's that still runs; nobody claims it yet."""
        exec_.running = True
        self._children.adopt(exec_.pid, exec_.pidfd, lambda ended: self.ended(exec_, ended))
