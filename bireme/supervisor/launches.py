"""Starting an instance: from a launch request to the moment its program runs.

    launch ---> claim a spare, or make a slot for it (cold) ---> its first process waits
           ---> limits, hard limits, root and binds assembled, `launch` journalled, start sent
           ---> console?, then the end of ctl: the program runs ---> journalled, answered
                 or error{stage, errno}: answered, everything taken back

A spare that dies under our hands (before its program) is replaced by the cold path, once. A container whose program
does not begin within a minute (its first process hangs in the kernel: a file system that does not answer) is killed
and refused. Containers and machines go the same way; what each does differently is its Maker.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Protocol

from bireme.errors import BiremeError, Conflict, Deadline, Invalid, Unavailable
from bireme.linux import fd as fdlib
from bireme.linux import process, tty
from bireme.runtime import sync
from bireme.supervisor.fate import LOOK_AGAIN_S, RAN, UNSURE, is_dead
from bireme.supervisor.nursery import as_failure, failure
from bireme.supervisor.output import Client, Output, hang_up
from bireme.supervisor.request import Launch
from bireme.supervisor.server import Answer, Caller
from bireme.supervisor.table import Instance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bireme.linux.poll import Loop
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.output import Outputs
    from bireme.supervisor.slots import Slot, Slots
    from bireme.supervisor.table import Table

_LIMIT_S = 60.0
_LAST_MESSAGES = 3
"""console, error, and the end: all a child can still have said."""


class Maker(Protocol):
    """What one kind of instance does its own way: containers.py, machines.py."""

    def slot(self, request: Launch) -> Slot:
        """A slot for this start alone."""
        ...

    def claim(self, request: Launch) -> Slot | None:
        """A spare that fits, if there is one; Invalid for a plan that cannot be one of this kind."""
        ...

    def when_ready(self, slot: Slot, done: Callable[[Slot, BiremeError | None], None]) -> None:
        """For a claimed spare that is still being built."""
        ...

    def spawn(self, request: Launch, slot: Slot, done: Callable[[Slot, BiremeError | None], None]) -> None:
        """Have the first process made for this plan; sets the request's owner."""
        ...

    def provide(self, request: Launch, slot: Slot) -> list[int]:
        """What the first process cannot get by itself; descriptors that go along, closed afterwards."""
        ...

    def send(self, request: Launch, slot: Slot, stdio: Sequence[int], files: Sequence[int]) -> None:
        """The `start` message."""
        ...

    def record(self, request: Launch) -> Mapping[str, Any]:
        """Fields of the journal's launch record: `namespaces`, and `machine` for one."""
        ...

    def verdict(self, request: Launch, slot: Slot, looks: int) -> str:
        """ctl has ended: RAN, DIED or UNSURE."""
        ...

    def died(self, request: Launch, slot: Slot) -> BiremeError:
        """Why it did not get so far; the slot is still there."""
        ...


class Launches:
    """All starts under way, by slot number, and clients that attached before the start."""

    def __init__(
        self,
        loop: Loop,
        keeper: KeeperLink,
        table: Table,
        slots: Slots,
        containers: Maker,
        machines: Maker,
        outputs: Outputs,
        null: int,
    ) -> None:
        self._loop = loop
        self._keeper = keeper
        self._table = table
        self._slots = slots
        self._containers = containers
        self._machines = machines
        self._outputs = outputs
        self._null = null
        self._under_way: dict[int, Launch] = {}
        self._ids: set[str] = set()
        self._early_clients: dict[str, list[Client]] = {}
        self.limit_s = _LIMIT_S
        """How long a container's first process may take from its plan to its program."""
        self._looking = False
        self.running: dict[int, Instance] = {}
        """Instances by slot number."""
        self.on_ended: Callable[[Instance, process.Exit], None] = lambda instance, ended: None

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def launch(self, caller: Caller, message: dict[str, Any], fds: list[int]) -> None:
        """The operation."""
        fdlib.close_quietly(*fds)
        request = Launch(caller, message)
        known = self._table.instances.get(request.id)
        if request.id in self._ids or (known is not None and known.ended is None):
            raise Conflict(f"instance {request.id} runs already", subject=request.id)
        if known is not None:
            self._table.gone(known)
        maker = self._maker(request)
        slot = maker.claim(request)
        self._ids.add(request.id)
        if slot is None:
            self._start_cold(request)
            return
        request.slot = slot
        self._under_way[slot.number] = request
        if slot.ready:
            self._begin(request)
        else:
            maker.when_ready(slot, lambda _slot, error: self._born(request, error))

    def _maker(self, request: Launch) -> Maker:
        return self._machines if "machine" in request.plan else self._containers

    def _start_cold(self, request: Launch) -> None:
        request.cold = True
        maker = self._maker(request)
        try:
            slot = request.slot = maker.slot(request)
            self._under_way[slot.number] = request
            maker.spawn(request, slot, lambda _slot, error: self._born(request, error))
        except (OSError, BiremeError) as error:
            self._fail(request, as_failure("cgroup", error))

    def _born(self, request: Launch, error: BiremeError | None) -> None:
        """Nothing of the plan has gone into a spare yet, so whatever killed it says nothing about the plan."""
        if error is None:
            self._begin(request)
        elif request.cold:
            self._fail(request, error)
        else:
            self._try_cold(request)

    def _try_cold(self, request: Launch) -> None:
        """The spare is dead: everything of it goes, the request stays."""
        slot = request.slot
        assert slot is not None
        self._under_way.pop(slot.number, None)
        request.ended = None
        request.sent_s = 0.0
        if request.instance is not None:
            self._table.gone(request.instance)
            request.instance = None
        self._dispose(slot)
        self._start_cold(request)

    def _begin(self, request: Launch) -> None:
        """The first process waits for its plan."""
        slot = request.slot
        assert slot is not None
        assert slot.ctl is not None
        if not request.cold:
            request.owner = (slot.uid_base, slot.uid_base)
        try:
            self._send_start(request, slot)
        except (OSError, BiremeError) as error:
            died = isinstance(error, BrokenPipeError | ConnectionResetError) or is_dead(slot.pidfd)
            if died and not request.cold:
                self._try_cold(request)
            else:
                self._fail(request, as_failure("start", error))
            return
        self._loop.add(slot.ctl.fileno(), lambda _mask: self._on_message(request))
        request.sent_s = time.monotonic()
        self._look_later()

    def _look_later(self) -> None:
        """One timer for all starts: most end within milliseconds."""
        if not self._looking:
            self._looking = True
            self._loop.call_later(self.limit_s / 4, self._look)

    def _look(self) -> None:
        self._looking = False
        before_s = time.monotonic() - self.limit_s
        for request in list(self._under_way.values()):
            if request.sent_s and request.sent_s <= before_s and "machine" not in request.plan:
                self._fail(request, self._overdue(request))
        if self._under_way:
            self._look_later()

    def _overdue(self, request: Launch) -> BiremeError:
        return Deadline(
            f"the program did not begin within {self.limit_s:.0f} s",
            subject=request.id,
            place="start",
            hint="a file system that it needs does not answer",
        )

    def _send_start(self, request: Launch, slot: Slot) -> None:
        maker = self._maker(request)
        self._slots.cgroups.apply(slot.cgroup, request.limits)
        files = maker.provide(request, slot)
        stdin_read = -1
        stdio: list[int] = []
        try:
            if request.terminal:
                self._slots.drop_pipes(slot)
            else:
                stdin_read = self._stdin(request, slot)
                stdio = [stdin_read if stdin_read >= 0 else self._null, slot.out_write, slot.err_write]
            self._write_down(request, slot)
            maker.send(request, slot, stdio, files)
        finally:
            fdlib.close_quietly(stdin_read, *files)
        fdlib.close_quietly(slot.out_write, slot.err_write)
        slot.out_write = slot.err_write = -1

    def _stdin(self, request: Launch, slot: Slot) -> int:
        """The reading end for the program; -1 for /dev/null."""
        if not request.open_stdin:
            return -1
        read, slot.stdin_write = os.pipe2(os.O_CLOEXEC)
        self._keeper.hold({slot.name("stdin"): slot.stdin_write})
        return read

    def _write_down(self, request: Launch, slot: Slot) -> None:
        record = {
            "slot": slot.number,
            "place": slot.place,
            "uid_base": request.owner[0],
            "terminal": request.terminal,
            "open_stdin": request.open_stdin,
            "stdin_once": request.stdin_once,
            "log": request.log,
            "pid": slot.pid,
            **self._maker(request).record(request),
        }
        request.instance = Instance(request.id, slot, record)
        self._table.launched(request.instance)

    def _on_message(self, request: Launch) -> None:
        slot = request.slot
        assert slot is not None
        if slot.ctl is None or request.instance is None:
            return
        try:
            received = sync.receive_message(slot.ctl)
        except BlockingIOError:
            return
        if received is None:
            self._loop.remove(slot.ctl.fileno())
            slot.ctl.close()
            slot.ctl = None
            self._at_end(request, slot)
            return
        message, fds = received
        if message["m"] == "console":
            slot.console = fds[0]
            self._keeper.hold({slot.name("console"): slot.console})
        elif message["m"] == "running":
            request.announced = True
        else:
            fdlib.close_quietly(*fds)
            self._loop.remove(slot.ctl.fileno())
            self._fail(request, failure(message))

    def _at_end(self, request: Launch, slot: Slot, looks: int = 0) -> None:
        """It runs, or was killed before."""
        if self._under_way.get(slot.number) is not request:
            return
        verdict = self._maker(request).verdict(request, slot, looks)
        if verdict == RAN:
            self._started(request, slot)
        elif verdict == UNSURE:
            self._loop.call_later(LOOK_AGAIN_S, lambda: self._at_end(request, slot, looks + 1))
        elif request.cold:
            self._fail(request, self._maker(request).died(request, slot))
        else:
            self._try_cold(request)

    def _started(self, request: Launch, slot: Slot) -> None:
        instance = request.instance
        assert instance is not None
        del self._under_way[slot.number]
        self._ids.discard(request.id)
        self.running[slot.number] = instance
        instance.cgroups = self._slots.cgroups.paths(slot.cgroup)
        self._table.started(instance, time.time_ns())
        instance.output = make_output(instance, slot)
        self._outputs.add(instance.output)
        for client in self._early_clients.pop(instance.id, ()):
            self._outputs.add_client(instance.output, client)
        request.caller.answer(Answer(_launched(instance)))
        if request.ended is not None:
            self._end(slot, request.ended)

    def _fail(self, request: Launch, error: BiremeError) -> None:
        """Take everything back and say why."""
        self._ids.discard(request.id)
        slot = request.slot
        if slot is not None:
            self._under_way.pop(slot.number, None)
            self._dispose(slot)
        if request.instance is not None:
            self._table.gone(request.instance)
        self.forget_clients(request.id)
        request.caller.refuse(error)

    def _dispose(self, slot: Slot) -> None:
        if slot.pidfd >= 0:
            process.pidfd_send_signal(slot.pidfd, 9)
        if slot.ctl is not None:
            self._loop.remove(slot.ctl.fileno())
        self._slots.dispose(slot)

    def on_exit(self, slot: Slot, ended: process.Exit) -> None:
        """The first process of a slot has ended, and is not reaped yet. What it said before is still to be read."""
        request = self._under_way.get(slot.number)
        if request is not None and request.instance is not None:
            request.ended = ended
            for _ in range(_LAST_MESSAGES):
                self._on_message(request)
            if slot.ctl is None:
                self._at_end(request, slot)
        self._end(slot, ended)

    def _end(self, slot: Slot, ended: process.Exit) -> None:
        instance = self.running.pop(slot.number, None)
        if instance is not None:
            self.on_ended(instance, ended)

    # --- clients

    def attach_early(self, identity: str, client: Client) -> None:
        """Remember a client for the start to come."""
        self._early_clients.setdefault(identity, []).append(client)

    def forget_clients(self, identity: str) -> None:
        for client in self._early_clients.pop(identity, ()):
            hang_up(client.fd)


def _launched(instance: Instance) -> dict[str, Any]:
    return {
        "pid": instance.pid,
        "started_at_ns": instance.started_at_ns,
        "slot": instance.slot_number,
        "cgroups": instance.cgroups,
        "uid_base": instance.uid_base,
        "control": instance.machine.get("control", ""),
    }


def make_output(instance: Instance, slot: Slot) -> Output:
    """The streams of a slot become an instance's output; they belong to it from now on."""
    if instance.terminal:
        sources = {"stdout": os.dup(slot.console)}
    else:
        sources = {"stdout": slot.out_read, "stderr": slot.err_read}
        slot.out_read = slot.err_read = -1
    return Output(f"slot/{slot.number}", slot.place, raw=instance.terminal, log=instance.log, sources=sources)


def resize(fd: int, message: Mapping[str, Any]) -> None:
    """The window of a terminal; -1 when there is none."""
    if fd < 0:
        raise Invalid("there is no terminal to resize", subject=str(message.get("id", "")))
    tty.set_size(fd, int(message["rows"]), int(message["cols"]))


def unavailable() -> Unavailable:
    return Unavailable("the supervisor is not configured yet", place="supervisor")
