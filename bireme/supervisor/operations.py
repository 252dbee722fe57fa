"""What a client may ask about an instance, and what happens when one ends."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError, Conflict
from bireme.linux import fd as fdlib
from bireme.linux import namespaces, process
from bireme.linux.cgroup import limits_from_resources
from bireme.supervisor import joining
from bireme.supervisor.explain import explain
from bireme.supervisor.launches import resize
from bireme.supervisor.machines import tap_counters, tell_end
from bireme.supervisor.output import Client as OutputClient
from bireme.supervisor.server import Answer, Caller
from bireme.wire import supervision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bireme.supervisor.execs import Execs
    from bireme.supervisor.keeperlink import KeeperLink
    from bireme.supervisor.launches import Launches
    from bireme.supervisor.output import Outputs
    from bireme.supervisor.server import Server
    from bireme.supervisor.slots import Slot, Slots
    from bireme.supervisor.table import Instance, Table

_FREEZE_S = 3.0
_NOTHING: Mapping[str, Any] = {}


class Operations:
    """The operations on instances. None of them takes descriptors."""

    def __init__(
        self,
        keeper: KeeperLink,
        table: Table,
        slots: Slots,
        launches: Launches,
        execs: Execs,
        outputs: Outputs,
        server: Server,
    ) -> None:
        self._keeper = keeper
        self._table = table
        self._slots = slots
        self._launches = launches
        self._execs = execs
        self._outputs = outputs
        self._server = server
        launches.on_ended = self.ended

    def operations(self) -> dict[str, Callable[[Caller, dict[str, Any], list[int]], Any]]:
        found = {
            "hello": self._hello,
            "ping": lambda caller, message: _NOTHING,
            "list": lambda caller, message: {"instances": self._rows()},
            "acknowledge": self._acknowledge,
            "signal": self._signal,
            "pause": self._pause,
            "resume": self._resume,
            "update": self._update,
            "resize": self._resize,
            "attach": self._attach,
            "stdin": self._stdin,
            "close_stdin": self._close_stdin,
            "delete": self._delete,
            "explain": self._explain,
            "stats": self._stats,
            "processes": self._processes,
            "namespaces": self._namespaces,
        }
        return {name: _without_fds(operation) for name, operation in found.items()}

    # --- the end of an instance

    def ended(self, instance: Instance, ended: process.Exit) -> None:
        """Its first process has ended and is not reaped yet: write it down, then wait for its output."""
        slot = instance.slot
        if slot is not None:
            try:
                instance.oom_killed = self._slots.cgroups.oom_kills(slot.cgroup) > 0
            except BiremeError:
                pass
        instance.paused = False
        if instance.machine:
            ended = tell_end(instance, ended, killed=instance.killed)
        self._table.exited(instance, ended, time.time_ns())
        if slot is not None and ("pid" not in instance.namespaces or instance.joins):
            self._slots.kill_all(slot)
        joining.left(instance)
        self.finish(instance)

    def finish(self, instance: Instance) -> None:
        """Report an instance that has ended, once its output is where it belongs."""
        if instance.output is None:
            self._report(instance)
        else:
            self._outputs.finish(instance.output, lambda: self._report(instance))

    def _report(self, instance: Instance) -> None:
        """Everything it said is kept: tell, and let go of its slot."""
        instance.reported = True
        self._server.broadcast(instance.exit_event())
        slot, instance.slot = instance.slot, None
        if slot is None:
            return
        output = instance.output
        if output is None or output.drained:
            self._slots.dispose(slot)
        else:
            output.on_drained = lambda: self._slots.places.give_back(slot.place)
            self._slots.dispose(slot, keep_place=True)

    # --- operations

    def _hello(self, caller: Caller, message: dict[str, Any]) -> Mapping[str, Any] | None:
        version = supervision.agreed_version(message.get("version"))
        caller.client.greeted = True
        claimed = message.get("execs") or []
        self._execs.greeted(caller.client, claimed)
        execs = [exec_.row() for exec_ in self._table.execs.values()]
        caller.answer(Answer({"version": version, "pid": os.getpid(), "instances": self._rows(), "execs": execs}))
        for instance in self._table:
            if instance.reported:
                caller.client.send(instance.exit_event())
        for exec_ in self._table.execs.values():
            if exec_.ended is not None and exec_.claimed:
                caller.client.send(exec_.exit_event())
        return None

    def _rows(self) -> list[supervision.InstanceRow]:
        return [i.row() for i in self._table if i.started_at_ns]

    def _acknowledge(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        instance = self._table.find(message["id"])
        if instance.ended is None:
            raise Conflict(f"instance {instance.id} has not ended", subject=instance.id)
        self._table.gone(instance)
        return _NOTHING

    def _signal(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        instance, slot = self._table.find_running(message["id"])
        number = int(message["signum"])
        if message.get("all"):
            self._slots.cgroups.kill(slot.cgroup, number, wait_s=0.0)
        elif not process.pidfd_send_signal(slot.pidfd, number):
            raise Conflict(f"container {instance.id} is not running", subject=instance.id)
        if number == signal.SIGKILL:
            instance.killed = True
        if number == signal.SIGKILL and instance.paused:
            self._slots.cgroups.thaw(slot.cgroup)
            instance.paused = False
        return _NOTHING

    def _pause(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        instance, slot = self._table.find_running(message["id"])
        if instance.paused:
            raise Conflict(f"Container {instance.id} is already paused", subject=instance.id)
        self._slots.cgroups.freeze(slot.cgroup, timeout_s=_FREEZE_S)
        instance.paused = True
        return _NOTHING

    def _resume(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        instance, slot = self._table.find_running(message["id"])
        if not instance.paused:
            raise Conflict(f"Container {instance.id} is not paused", subject=instance.id)
        self._slots.cgroups.thaw(slot.cgroup)
        instance.paused = False
        return _NOTHING

    def _update(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        _, slot = self._table.find_running(message["id"])
        self._slots.cgroups.apply(slot.cgroup, limits_from_resources(message["limits"]))
        return _NOTHING

    def _resize(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        _, slot = self._table.find_running(message["id"])
        resize(slot.console, message)
        return _NOTHING

    def _attach(self, _caller: Caller, message: dict[str, Any]) -> Answer:
        """A running instance, one whose start is under way or still to come; one that ended gives the end at once."""
        identity = message["id"]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        client = OutputClient(ours.detach(), bool(message.get("stdout")), bool(message.get("stderr")))
        instance = self._table.instances.get(identity)
        if instance is not None and instance.output is not None and instance.ended is None:
            self._outputs.add_client(instance.output, client)
        else:
            self._launches.attach_early(identity, client)
        stream = theirs.detach()
        return Answer(_NOTHING, (stream,), (stream,))

    def _stdin(self, _caller: Caller, message: dict[str, Any]) -> Answer:
        """With stdin_once the first client gets the only writing end: its end, or its death, is the end of input."""
        instance, slot = self._table.find_running(message["id"])
        fd = slot.console if instance.terminal else slot.stdin_write
        if fd < 0:
            raise Conflict(f"stdin of container {instance.id} is not open", subject=instance.id)
        if instance.terminal or not instance.stdin_once:
            return Answer(_NOTHING, (fd,))
        self._let_go_of_stdin(slot)
        return Answer(_NOTHING, (fd,), (fd,))

    def _close_stdin(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        instance, slot = self._table.find_running(message["id"])
        if not instance.terminal and slot.stdin_write >= 0:
            fd = slot.stdin_write
            self._let_go_of_stdin(slot)
            os.close(fd)
        return _NOTHING

    def _let_go_of_stdin(self, slot: Slot) -> None:
        """Whoever has a duplicate decides now when the instance reads the end."""
        slot.stdin_write = -1
        self._keeper.drop([slot.name("stdin")])
        self._keeper.flush()

    def _delete(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        """Idempotent: one that is not known has nothing left."""
        identity = message["id"]
        self._launches.forget_clients(identity)
        instance = self._table.instances.get(identity)
        if instance is not None:
            if instance.ended is None:
                raise Conflict(f"container {identity} is running", subject=identity)
            self._table.gone(instance)
        return _NOTHING

    def _explain(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        instance, slot = self._table.find_running(message["id"])
        return explain(instance, slot, self._slots.cgroups)

    def _stats(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        instance, slot = self._table.find_running(message["id"])
        counters = self._slots.cgroups.stats(slot.cgroup)._asdict()
        if instance.machine:
            counters["networks"] = tap_counters(instance.machine["taps"], network_counters(os.getpid()))
        else:
            counters["networks"] = network_counters(instance.pid) if "net" in instance.namespaces else {}
        return counters

    def _processes(self, _caller: Caller, message: dict[str, Any]) -> Mapping[str, Any]:
        _, slot = self._table.find_running(message["id"])
        return {"pids": self._slots.cgroups.pids(slot.cgroup)}

    def _namespaces(self, _caller: Caller, message: dict[str, Any]) -> Answer:
        """Nobody else reaps the first process, so its pid is nobody else's while the table has it as running."""
        instance, _ = self._table.find_running(message["id"])
        fds: list[int] = []
        try:
            fds.extend(namespaces.open_namespace(instance.pid, kind) for kind in ("mnt", "user"))
        except OSError as error:
            fdlib.close_quietly(*fds)
            raise Conflict(f"container {instance.id} is not running", subject=instance.id) from error
        return Answer(_NOTHING, tuple(fds), tuple(fds))


def _without_fds(
    operation: Callable[[Caller, dict[str, Any]], Any],
) -> Callable[[Caller, dict[str, Any], list[int]], Any]:
    def run(caller: Caller, message: dict[str, Any], fds: list[int]) -> Any:
        fdlib.close_quietly(*fds)
        return operation(caller, message)

    return run


_COUNTERS = (
    "rx_bytes",
    "rx_packets",
    "rx_errors",
    "rx_dropped",
    *("",) * 4,
    "tx_bytes",
    "tx_packets",
    "tx_errors",
    "tx_dropped",
)


def network_counters(pid: int) -> dict[str, dict[str, int]]:
    """By interface, loopback left out; proc_pid_net(5), as seen in the process's network namespace."""
    try:
        with open(f"/proc/{pid}/net/dev") as file:
            lines = file.readlines()[2:]
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        values = rest.split()
        if name.strip() != "lo":
            found[name.strip()] = {key: int(value) for key, value in zip(_COUNTERS, values, strict=False) if key}
    return found
