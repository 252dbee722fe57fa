"""A supervisor that starts where another one died: the journal says what was, the keeper hands over what is left.

journal: started, not exited    the process is adopted (its pidfd was held, so no pid can be mistaken)
journal: launched, not started  nobody was told that it runs: it is ended
journal: exited                 reported again until acknowledged; unread output is still read
keeper: descriptors of others   spares and half-made slots: killed, closed
keeper: exits                   of adopted processes, in the order they come
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError
from bireme.linux import process
from bireme.linux.libc import SyscallError
from bireme.supervisor import program
from bireme.supervisor.launches import make_output
from bireme.supervisor.output import Client
from bireme.supervisor.slots import Slot
from bireme.supervisor.table import Exec, Instance

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.supervisor.children import Children
    from bireme.supervisor.execs import Execs
    from bireme.supervisor.journal import Record
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.launches import Launches
    from bireme.supervisor.operations import Operations
    from bireme.supervisor.output import Outputs
    from bireme.supervisor.relaying import Relaying
    from bireme.supervisor.slots import Slots
    from bireme.supervisor.table import Table


class Past:
    """What the records say, oldest first."""

    def __init__(self, records: list[Record], relaying: Relaying, held: dict[str, int]) -> None:
        self.config: dict[str, Any] = {}
        self.parents: dict[str, list[str]] = {}
        self.instances: dict[str, Instance] = {}
        self.execs: dict[str, Exec] = {}
        self.highest_slot = 0
        for record in records:
            self._read(record, relaying, held)

    def _read(self, record: Record, relaying: Relaying, held: dict[str, int]) -> None:
        kind = record["t"]
        if kind == "config":
            self.config = record["config"]
        elif kind == "parents":
            self.parents = record["made"]
        elif kind == "launch":
            self.instances[record["id"]] = Instance(record["id"], None, record)
            self.highest_slot = max(self.highest_slot, record["slot"])
            for identity in record.get("joins", {}).get("ids", ()):
                if (target := self.instances.get(identity)) is not None:
                    target.joined = True
        elif kind == "ports":
            relaying.adopt(record, held)
        elif kind == "gone":
            self.instances.pop(record["id"], None)
        elif kind == "exec":
            exec_ = Exec(record["exec_id"], record["id"], record["pid"], terminal=record["terminal"])
            self.execs[exec_.id] = exec_
        elif kind == "exec_gone":
            self.execs.pop(record["exec_id"], None)
        elif kind == "exec_exited":
            self._exec_exited(record)
        else:
            self._change(self.instances.get(record["id"]), record)

    def _change(self, instance: Instance | None, record: Record) -> None:
        if instance is None:
            return
        if record["t"] == "started":
            instance.started_at_ns = record["at_ns"]
        elif record["t"] == "exited":
            instance.ended = process.Exit(instance.pid, record["code"], record["signal"])
            instance.oom_killed = record["oom"]
            instance.error = record.get("error", "")
            instance.at_ns = record["at_ns"]

    def _exec_exited(self, record: Record) -> None:
        exec_ = self.execs.get(record["exec_id"])
        if exec_ is not None:
            exec_.ended = process.Exit(exec_.pid, record["code"], record["signal"])
            exec_.at_ns = record["at_ns"]


class Recovery:
    """Brings the past back to life; `held` is what the keeper handed over."""

    def __init__(
        self,
        past: Past,
        held: dict[str, int],
        used: set[str],
        keeper: KeeperLink,
        children: Children,
        table: Table,
        slots: Slots,
        launches: Launches,
        execs: Execs,
        outputs: Outputs,
        operations: Operations,
    ) -> None:
        self._past = past
        self._held = held
        self._used = used
        self._keeper = keeper
        self._children = children
        self._table = table
        self._slots = slots
        self._launches = launches
        self._execs = execs
        self._outputs = outputs
        self._operations = operations

    def run(self, exits: list[process.Exit]) -> None:
        """In this order: what lives is watched before the exits are told, what nobody knows goes last."""
        self._slots.pass_number(self._past.highest_slot)
        for instance in list(self._past.instances.values()):
            _guarded(instance.id, lambda instance=instance: self._instance(instance))  # type: ignore[misc]
        for exec_ in list(self._past.execs.values()):
            _guarded(exec_.id, lambda exec_=exec_: self._exec(exec_))  # type: ignore[misc]
        for ended in exits:
            _guarded(str(ended.pid), lambda ended=ended: self._children.on_orphan(ended))  # type: ignore[misc]
        _guarded("descriptors", self._drop_unused)
        _guarded("cgroups", self._remove_leftovers)
        if self._table.execs:
            self._execs.unclaim_later()

    def _remove_leftovers(self) -> None:
        if self._slots.configured:
            self._slots.remove_leftovers(slot.cgroup for instance in self._table if (slot := instance.slot) is not None)

    def _take(self, name: str) -> int:
        self._used.add(name)
        return self._held.get(name, -1)

    def _slot(self, instance: Instance) -> Slot:
        slot = Slot(instance.slot_number, instance.place, "", instance.uid_base)
        slot.cgroup = instance.cgroup
        slot.pid = instance.pid
        slot.pidfd = self._take(slot.name("pidfd"))
        slot.console = self._take(slot.name("console"))
        slot.stdin_write = self._take(slot.name("stdin"))
        slot.out_read = self._take(slot.name("stdout"))
        slot.err_read = self._take(slot.name("stderr"))
        slot.files = tuple(instance.machine[what] for what in ("control", "report") if what in instance.machine)
        self._slots.claim(slot)
        slot.range_place = instance.joins.get("place", -1)
        if slot.range_place >= 0:
            self._slots.places.claim(slot.range_place)
        return slot

    def _instance(self, instance: Instance) -> None:
        slot = self._slot(instance)
        instance.slot = slot
        if not instance.started_at_ns:
            if slot.pidfd >= 0:
                process.pidfd_send_signal(slot.pidfd, signal.SIGKILL)
            self._table.instances[instance.id] = instance
            self._table.gone(instance)
            self._slots.dispose(slot)
            return
        self._table.instances[instance.id] = instance
        self._resume_output(instance, slot)
        if instance.ended is not None:
            self._operations.finish(instance)
            return
        if slot.pidfd < 0 and not self._find_again(instance, slot):
            self._operations.ended(instance, process.Exit(instance.pid, 255, 0))
            return
        self._launches.running[slot.number] = instance
        self._children.adopt(instance.pid, slot.pidfd, lambda ended: self._launches.on_exit(slot, ended))
        if self._slots.configured:
            self._read_cgroup(instance, slot)

    def _read_cgroup(self, instance: Instance, slot: Slot) -> None:
        try:
            instance.cgroups = self._slots.cgroups.paths(slot.cgroup)
            instance.paused = self._slots.cgroups.frozen(slot.cgroup)
        except BiremeError as error:
            program.log("supervisor", f"cgroup {slot.cgroup} of {instance.id}: {error}")

    def _find_again(self, instance: Instance, slot: Slot) -> bool:
        """Its pidfd never reached the keeper: the pid counts if it is still in the instance's cgroup."""
        try:
            if instance.pid not in self._slots.cgroups.pids(slot.cgroup):
                return False
            slot.pidfd = process.pidfd_open(instance.pid)
        except (BiremeError, SyscallError):
            return False
        self._keeper.hold({slot.name("pidfd"): slot.pidfd})
        return True

    def _resume_output(self, instance: Instance, slot: Slot) -> None:
        missing = slot.console < 0 if instance.terminal else slot.out_read < 0 or slot.err_read < 0
        if missing:
            return
        output = make_output(instance, slot)
        instance.output = output
        prefix = slot.name("client/")
        for name in [name for name in self._held if name.startswith(prefix)]:
            number, _, wants = name.removeprefix(prefix).partition("/")
            output.clients[int(number)] = Client(self._take(name), wants[:1] == "1", wants[1:] == "1")
            output.next_client = max(output.next_client, int(number) + 1)
        self._outputs.resume(output)

    def _exec(self, exec_: Exec) -> None:
        self._table.execs[exec_.id] = exec_
        exec_.pidfd = self._take(exec_.name("pidfd"))
        exec_.console = self._take(exec_.name("console"))
        exec_.streams = {stream: fd for stream in ("stdout", "stderr") if (fd := self._take(exec_.name(stream))) >= 0}
        if exec_.ended is None and exec_.pidfd < 0:
            self._execs.ended(exec_, process.Exit(exec_.pid, 255, 0))
        elif exec_.ended is None:
            self._execs.adopt(exec_)

    def _drop_unused(self) -> None:
        """Descriptors nobody claims: a pidfd among them is a spare, or an instance that never started."""
        unused = [name for name in self._held if name not in self._used]
        for name in unused:
            fd = self._held[name]
            if name.endswith("/pidfd"):
                process.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
            if name.startswith("slot/"):
                self._slots.pass_number(int(name.split("/")[1]))
        self._keeper.drop(unused)


def _guarded(subject: str, step: Callable[[], object]) -> None:
    """What cannot be recovered must not keep the rest from being recovered, start after start."""
    try:
        step()
    except Exception as error:
        program.log_traceback("supervisor", f"{subject} is not recovered: {type(error).__name__}: {error}")
