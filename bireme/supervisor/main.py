"""bireme-supervisor: the parent of every instance.

    keeper -- supervisor -+- zygote .. spares, instances (CLONE_PARENT: children of the supervisor)
                          +- machine template (once there was a machine) .. machines (likewise children of ours)
                          +- logger
                          `- relay (once a port needs it)

One thread, one epoll loop; nothing here waits for anything but the kernel. It is put together in `Supervisor`, in the
order that matters: zygote and logger (forked while no instance is known), descriptors from the keeper, then the past,
then the socket. Idle work (spares, tear-down, journal) happens after 5 ms without an event.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from bireme.errors import Conflict, Invalid
from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.linux.cgroup import open_cgroups
from bireme.linux.cgroup.parents import Parents
from bireme.linux.poll import Loop
from bireme.supervisor import logger, program, relay, zygote
from bireme.supervisor.children import Children
from bireme.supervisor.containers import Containers
from bireme.supervisor.ending import Ending
from bireme.supervisor.execs import Execs
from bireme.supervisor.journal import Journal
from bireme.supervisor.keeperlink import KeeperLink
from bireme.supervisor.launches import Launches
from bireme.supervisor.ledger import Ledger
from bireme.supervisor.machines import Machines
from bireme.supervisor.nursery import Nursery, Pool
from bireme.supervisor.operations import Operations
from bireme.supervisor.output import Outputs
from bireme.supervisor.recovery import Past, Recovery
from bireme.supervisor.relaying import Relaying
from bireme.supervisor.server import Caller, Server
from bireme.supervisor.service import Service
from bireme.supervisor.slots import UID_BASE, Slots
from bireme.supervisor.succession import Succession
from bireme.supervisor.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bireme.runtime.plan import Interface

_BACKLOG = 64
_QUIET_S = 0.005
_RETRY_S = 0.05
_COLLECT_AFTER = 2000


class Supervisor:
    """Everything, wired."""

    def __init__(self, run_root: str, keeper_fd: int, lock: int) -> None:
        self.run_root = run_root
        self.loop = Loop(on_error=_on_error)
        self.keeper = KeeperLink(keeper_fd)
        self.children = Children(self.loop, self.keeper)
        self._start_helpers()
        self.handover = self.keeper.receive_handover()
        self.used: set[str] = set()
        self.null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.journal = Journal(self._path("journal"))
        self.table = Table(self.journal)
        self.outputs = Outputs(self.loop, self.keeper, self.logger, self._ledger())
        self.relaying = Relaying(self.keeper, self.journal, self.relay)
        self.slots = Slots(self.keeper)
        self.server = Server(self.loop, self._listener())
        self.nursery = Nursery(self.loop, self.keeper, self.children, self.zygote)
        self.pool = Pool(self.loop, self.nursery, self.slots)
        self.machines = Machines(run_root, self.loop, self.keeper, self.children, self.slots)
        containers = Containers(self.table, self.slots, self.nursery, self.pool)
        self.launches = Launches(
            self.loop, self.keeper, self.table, self.slots, containers, self.machines, self.outputs, self.null
        )
        self.nursery.on_exit = self.machines.nursery.on_exit = self.launches.on_exit
        self.execs = Execs(
            self.loop,
            self.keeper,
            self.children,
            self.table,
            self.slots,
            self.zygote,
            self.outputs,
            self.server,
            self.null,
        )
        self.operations = Operations(
            self.keeper, self.table, self.slots, self.launches, self.execs, self.outputs, self.server
        )
        self.ending = Ending(self)
        self.succession = Succession(self.loop, run_root, lock, lambda: self.keeper.held, self._busy, self._flush)
        self._turns = 0
        self._retrying = False

    def _path(self, name: str) -> str:
        return os.path.join(self.run_root, name)

    def _taken(self, name: str) -> int:
        """A descriptor of our own that the keeper had, or -1."""
        self.used.add(name)
        return self.handover.fds.get(name, -1)

    def _start_helpers(self) -> None:
        """First of all: their memory then knows of no instance, and no descriptor of one is open in them."""
        void, lock = self._path("void"), self._path("logger.lock")
        os.makedirs(void, 0o500, exist_ok=True)

        def run_logger(control: socket.socket) -> None:
            logger.run(control, lock, void)

        def run_relay(control: socket.socket) -> None:
            relay.run(control, void)

        loop, children = self.loop, self.children
        self.zygote = Service("zygote", self.run_root, loop, children, zygote.run, zygote.replace)
        self.logger = Service("logger", self.run_root, loop, children, run_logger)
        self.relay = Service("relay", self.run_root, loop, children, run_relay, outlives=True)
        gc.collect()
        gc.freeze()
        gc.disable()
        forked = [(helper, *helper.fork()) for helper in (self.zygote, self.logger)]
        for helper, pid, control in forked:
            helper.attend(pid, control)

    def _ledger(self) -> tuple[int, int, int]:
        """The logger's memory: the ledger and both ends of the stage, a predecessor's if there was one."""
        names = ("log/ledger", "log/stage/read", "log/stage/write")
        kept = [self._taken(name) for name in names]
        if min(kept) >= 0:
            return kept[0], kept[1], kept[2]
        ledger = Ledger.create()
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.keeper.hold(dict(zip(names, (ledger, read, write), strict=True)))
        return ledger, read, write

    def _listener(self) -> socket.socket:
        """The socket survives us with the keeper, so that nobody who connects meanwhile is refused."""
        fd = self._taken("listen")
        if fd >= 0:
            return socket.socket(fileno=fd)
        sock = fdlib.seqpacket_listener(self._path("supervisor.sock"), _BACKLOG)
        self.keeper.hold({"listen": sock.fileno()})
        return sock

    def start(self) -> None:
        """Bring back the past, then open the door."""
        self.zygote.on_started = self._zygote_started
        self._watch_signals()
        self.loop.add(self.keeper.fileno(), self.keeper.on_readable)
        self.keeper.on_stop = self.ending.wish
        self._recover()
        self._register()
        self.server.on_disconnect = self.execs.disconnected
        self.server.start()
        self.loop.set_idle(self._idle, _QUIET_S)
        self.keeper.on_lost = self.succession.begin
        self.keeper.ready()
        if self.keeper.lost:
            self.succession.begin()

    def _recover(self) -> None:
        held = self.handover.fds
        past = Past(self.journal.replay(), self.relaying, held)
        self.used |= self.relaying.held_names()
        self.table.parents = past.parents
        if past.config:
            try:
                self._apply(past.config)
            except Exception as error:
                program.log_traceback("supervisor", f"the configuration of before cannot be applied: {error}")
        recovery = Recovery(
            past,
            held,
            self.used,
            self.keeper,
            self.children,
            self.table,
            self.slots,
            self.launches,
            self.execs,
            self.outputs,
            self.operations,
        )
        recovery.run(self.handover.exits)
        self.machines.sweep({path for instance in self.table if instance.slot for path in instance.slot.files})
        self.outputs.begin()
        self.relaying.resend()
        self.handover.fds.clear()

    def _register(self) -> None:
        self.server.register(self.operations.operations())
        self.server.register(self.execs.operations())
        self.server.register(self.relaying.operations())
        self.server.register({"launch": self._launch, "configure": self._configure, "shutdown": self.ending.shutdown})

    def _launch(self, caller: Caller, message: dict[str, Any], fds: list[int]) -> None:
        if self.ending.begun:
            raise Conflict("the supervisor is shutting down")
        self.launches.launch(caller, message, fds)

    def _configure(self, _caller: Caller, message: dict[str, Any], fds: list[int]) -> Mapping[str, Any]:
        fdlib.close_quietly(*fds)
        config = {key: value for key, value in message.items() if key not in ("rid", "op")}
        if config != self.table.config:
            first = not self.slots.configured
            self._apply(config)
            if first:
                self.slots.remove_leftovers(instance.cgroup for instance in self.table)
            self.table.configured(config)
        return {}

    def _apply(self, config: Mapping[str, Any]) -> None:
        subtree = config["cgroup_subtree"]
        if not isinstance(subtree, str) or not subtree:
            raise Invalid("configure without a cgroup subtree", subject="cgroup_subtree")
        if not self.slots.configured:
            cgroups = Parents(open_cgroups(subtree, favordynmods=bool(config.get("favordynmods"))))
            cgroups.made, cgroups.on_parent = self.table.parents, self.table.parents_changed
            self.slots.configure(cgroups, int(config.get("userns_base") or UID_BASE), subtree.rpartition("/")[2])
            self.zygote.send({"op": "configure", "subtree": subtree})
        elif subtree != self.table.config.get("cgroup_subtree", subtree):
            raise Conflict("the cgroup subtree cannot change while the supervisor runs", subject=subtree)
        self.table.config = dict(config)
        self.launches.limit_s = float(config.get("start_limit_s") or self.launches.limit_s)
        self.nursery.tag = subtree.rpartition("-")[2][:6]
        self.machines.configure(subtree, self.nursery.tag)
        self.pool.configure(config.get("spares") or {}, _stock_interface(config.get("bridge")))
        self.loop.wake_idle()

    def _zygote_started(self) -> None:
        if self.slots.configured:
            self.zygote.send({"op": "configure", "subtree": self.table.config["cgroup_subtree"]})
        self.nursery.zygote_started()
        self.execs.zygote_started()

    def _watch_signals(self) -> None:
        wake, waker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._wake, self._waker = wake, waker
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda _signum, _frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.loop.add(wake.fileno(), self._on_signals)
        self.loop.call_soon(self.children.reap)

    def _on_signals(self, _mask: int) -> None:
        caught = set(self._wake.recv(4096))
        self.children.child_ended()
        if caught & {signal.SIGTERM, signal.SIGINT}:
            self.ending.wish()

    def _busy(self) -> bool:
        return bool(self.launches.under_way or self.execs.under_way)

    def _flush(self) -> None:
        self.journal.flush()

    def _idle(self) -> bool:
        """One piece of work that nobody waits for; True when there is more."""
        self.keeper.flush()
        if self.pool.refill() or self.slots.tidy():
            return True
        self.table.tidy(self.relaying.records)
        if self.slots.stuck and not self._retrying:
            self._retrying = True
            self.loop.call_later(_RETRY_S, self._retry)
        self._turns += 1
        if self._turns >= _COLLECT_AFTER:
            self._turns = 0
            gc.collect()
        return False

    def _retry(self) -> None:
        self._retrying = False
        if self.slots.retry():
            self.loop.wake_idle()


def _stock_interface(bridge: Mapping[str, Any] | None) -> Interface | None:
    """What a spare for the default bridge has before it gets an address."""
    if not bridge:
        return None
    return {
        "name": "eth0",
        "bridge": str(bridge["name"]),
        "address": "",
        "prefix_len": 0,
        "gateway": "",
        "mac": "",
        "mtu": int(bridge.get("mtu") or 1500),
    }


def _on_error(error: BaseException) -> None:
    """A callback failed: a bug of ours, which must not end the instances' supervisor."""
    program.log_traceback("supervisor", f"{type(error).__name__}: {error}")


def take_lock(path: str) -> int:
    """One supervisor per run root; waits for a predecessor's last moments."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fdlib.lock_file(lock, block=True)
    return lock


def run(run_root: str, keeper_fd: int) -> None:
    """The program, until all has ended."""
    process.set_name("bireme-supervisor")
    lock = take_lock(os.path.join(run_root, "supervisor.lock"))
    program.write_pid(os.path.join(run_root, "supervisor.pid"))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0o022)
    process.set_subreaper()
    supervisor = Supervisor(run_root, keeper_fd, lock)
    supervisor.start()
    supervisor.loop.run()


def main() -> None:
    """Started by the keeper: `--run-root R --keeper-fd N`."""
    options = program.parse_arguments("supervisor", sys.argv[1:], ("run-root", "keeper-fd"))
    if "keeper-fd" not in options:
        program.log("supervisor", "is started by bireme-keeper, not by hand")
        sys.exit(2)
    run(options["run-root"], int(options["keeper-fd"]))


if __name__ == "__main__":
    main()
