"""Who has ended, and who wants to know.

Instances, execs, spares and helpers are our children (the zygote clones with CLONE_PARENT), so one way serves them all:
a pidfd says that one has ended; look without reaping, tell whoever watches (who writes it down), then reap. To wait for
any child would look at every one of a thousand. That is done once a second at most, after a SIGCHLD, for those nobody
watches.

Processes that a predecessor of ours started belong to the keeper now: it reports their exits, and their pidfd says that
one is due. Should that keeper have died as well, the process belongs to init, and the kernel is asked: a zombie shows
its status in /proc/PID/stat until init reaps it, and from Linux 6.15 on the pidfd knows it afterwards
(PIDFD_GET_INFO). What neither knows is reported as UNKNOWN.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bireme.linux import process
from bireme.supervisor import program

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.linux.poll import Loop
    from bireme.supervisor.keeperlink import KeeperLink

UNKNOWN = 255
_SWEEP_AFTER_S = 1.0
_KEEPER_PATIENCE_S = 2.0


class Children:
    """Watchers by pid."""

    def __init__(self, loop: Loop, keeper: KeeperLink) -> None:
        self._loop = loop
        self._keeper = keeper
        self._watchers: dict[int, Callable[[process.Exit], object]] = {}
        self._adopted: dict[int, int] = {}
        self._pidfds: dict[int, int] = {}
        self._sweeping = False
        keeper.on_exit = self.on_orphan

    def watch(self, pid: int, callback: Callable[[process.Exit], object]) -> None:
        """Call back once, before `pid` is reaped. Must be set up before the loop turns again."""
        self._watchers[pid] = callback
        try:
            pidfd = process.pidfd_open(pid)
        except OSError as error:
            program.log("supervisor", f"the end of process {pid} may be seen a second late: {error}")
            return
        self._pidfds[pid] = pidfd
        self._loop.add(pidfd, lambda _mask: self._on_end(pid))

    def adopt(self, pid: int, pidfd: int, callback: Callable[[process.Exit], object]) -> None:
        """As `watch`, for a process whose parent is the keeper. The pidfd stays the caller's."""
        self._watchers[pid] = callback
        self._adopted[pid] = pidfd
        self._loop.add(pidfd, lambda _mask: self._on_pidfd(pid, pidfd))

    def child_ended(self) -> None:
        """A SIGCHLD came: it may be of one that nobody watches."""
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(_SWEEP_AFTER_S, self.reap)

    def reap(self) -> None:
        """Everything that has ended by now."""
        self._sweeping = False
        while True:
            try:
                ended = process.wait_any(keep=True)
            except ChildProcessError:
                return
            if ended is None:
                return
            self._reap(ended)

    def _on_end(self, pid: int) -> None:
        ended = process.wait_pid(pid, block=False, keep=True)
        if ended is not None:
            self._reap(ended)

    def _reap(self, ended: process.Exit) -> None:
        pidfd = self._pidfds.pop(ended.pid, -1)
        if pidfd >= 0:
            self._loop.remove(pidfd)
            os.close(pidfd)
        try:
            self._tell(ended)
        finally:
            process.wait_pid(ended.pid, block=False)

    def on_orphan(self, ended: process.Exit) -> None:
        """The keeper reaped one."""
        pidfd = self._adopted.pop(ended.pid, -1)
        if pidfd >= 0:
            self._loop.remove(pidfd)
        self._tell(ended)
        self._keeper.forget(ended.pid)

    def _tell(self, ended: process.Exit) -> None:
        watcher = self._watchers.pop(ended.pid, None)
        if watcher is not None:
            watcher(ended)

    def _on_pidfd(self, pid: int, pidfd: int) -> None:
        self._loop.remove(pidfd)
        if pid in self._adopted:
            seen = zombie_exit(pid)
            self._loop.call_later(_KEEPER_PATIENCE_S, lambda: self._ask_kernel(pid, pidfd, seen))

    def _ask_kernel(self, pid: int, pidfd: int, seen: process.Exit | None) -> None:
        if pid not in self._adopted:
            return
        del self._adopted[pid]
        info = process.pidfd_info(pidfd)
        ended = seen or zombie_exit(pid) or (info.exit if info is not None else None)
        if ended is None:
            program.log("supervisor", f"the exit code of process {pid} is lost")
            ended = process.Exit(pid, UNKNOWN, 0)
        self._tell(process.Exit(pid, ended.code, ended.signal))


def zombie_exit(pid: int) -> process.Exit | None:
    """How a process ended that nobody has reaped yet; proc_pid_stat(5), field 52. None when it is no zombie."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = os.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        os.close(fd)
    if len(fields) < 50 or fields[0] != b"Z":
        return None
    return process.status_to_exit(pid, int(fields[49]))
