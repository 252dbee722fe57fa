"""bireme-keeper: the process that must not die, so it does nearly nothing.

It starts the supervisor, keeps a duplicate of every descriptor whose closing would hurt an instance (pipes, terminal
masters, pidfds, attached clients, the listening socket), and is the subreaper: when the supervisor dies its children
become the keeper's, whose exits are remembered until a new supervisor has written them down.

    supervisor                                keeper
                    <---- fd NAME...  + descriptors       (everything held, at the start of a supervisor)
                    <---- exit PID CODE SIGNAL            (each one remembered, at the start and as they come)
                    <---- done
      ready         ---->                                 (reset of the restart back-off)
      hold NAME...  ----> + descriptors
      drop NAME...  ---->
      sync N        ---->
                    <---- synced N                        (what was said before is done)
      forget PID... ---->                                 (the exit is written down)
                    <---- stop                            (SIGTERM: end if nothing runs)
      end           ---->                                 (nothing runs, all is clean: do not restart me)

Messages are words separated by newlines, one SOCK_SEQPACKET message each; nothing else is parsed. If the keeper dies,
the supervisor executes this program in its own place, with its descriptors (`--adopt`): the process that is the
parent of the instances is then the keeper. Two locks see to it that there is one of each per run root, also meanwhile.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from importlib import import_module

from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.supervisor import program

_FDS_PER_MESSAGE = 64
_MAX_EXITS = 65536
_STEADY_S = 10.0
_MAX_DELAY_S = 5.0
_RECEIVE = 65536


class Keeper:
    """Held descriptors by name, remembered exits by pid, and one supervisor."""

    def __init__(self, run_root: str, held: dict[str, int]) -> None:
        self.run_root = run_root
        self.held = held
        self.exits: dict[int, process.Exit] = {}
        self.supervisor = 0
        self.control: socket.socket | None = None
        self.outbox: deque[tuple[bytes, list[int]]] = deque()
        self.started_s = 0.0
        self.failures = 0
        self.restart_at_s: float | None = None
        self.ending = False
        self.stop_wanted = False
        self.poll = select.epoll()
        self.wake, self.waker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.poll.register(self.wake.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until the supervisor has ended everything of this root."""
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.start_supervisor()
        self.reap()
        while self.supervisor or not self.ending:
            for fd, mask in self.poll.poll(self._wait_s()):
                if fd == self.wake.fileno():
                    self.wake.recv(4096)
                elif self.control is not None and fd == self.control.fileno():
                    self._on_control(mask)
            self.reap()
            if self.stop_wanted:
                self._ask_to_stop()
            if self.restart_at_s is not None and self.restart_at_s <= time.monotonic():
                self.start_supervisor()

    def _wait_s(self) -> float | None:
        return None if self.restart_at_s is None else max(self.restart_at_s - time.monotonic(), 0.0)

    def _on_signal(self, signum: int, _frame: object) -> None:
        if signum != signal.SIGCHLD:
            self.stop_wanted = True

    def start_supervisor(self) -> None:
        """Fork; everything held and remembered is queued for it.

        While nothing is held the fork itself becomes the supervisor: what the two have in common is then in memory
        once (3 MiB). Later it executes afresh, since no descriptor of an instance may be open in the zygote.
        """
        self.restart_at_s = None
        self.started_s = time.monotonic()
        ours, theirs = fdlib.seqpacket_pair()
        try:
            pid = process.fork()
        except OSError as error:
            program.log("keeper", f"no new supervisor yet: {error}")
            self.restart_at_s = time.monotonic() + _MAX_DELAY_S
            ours.close()
            theirs.close()
            return
        if pid == 0:
            self._become_supervisor(theirs)
        theirs.close()
        ours.setblocking(False)
        self.supervisor = pid
        self.control = ours
        self.poll.register(ours.fileno(), select.EPOLLIN)
        names = list(self.held)
        for at in range(0, len(names), _FDS_PER_MESSAGE):
            part = names[at : at + _FDS_PER_MESSAGE]
            self.send("\n".join(["fd", *part]), [self.held[name] for name in part])
        for ended in self.exits.values():
            self._send_exit(ended)
        self.send("done")

    def _become_supervisor(self, control: socket.socket) -> None:
        code = 127
        try:
            program.forget_signals()
            if self.held:
                os.set_inheritable(control.fileno(), True)
                program.execute("main", "--run-root", self.run_root, "--keeper-fd", str(control.fileno()))
            fdlib.close_all_but([control.fileno()])
            control.setblocking(True)
            process.set_title(f"bireme-supervisor --run-root {self.run_root}")
            import_module("bireme.supervisor.main").run(self.run_root, control.detach())
            code = 0
        except BaseException as error:
            program.log_traceback("supervisor", f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)

    def send(self, text: str, fds: list[int] | None = None) -> None:
        """Queue a message: the keeper never waits for the supervisor."""
        self.outbox.append((text.encode(), fds or []))
        self._flush()

    def _send_exit(self, ended: process.Exit) -> None:
        self.send(f"exit\n{ended.pid}\n{ended.code}\n{ended.signal}")

    def _flush(self) -> None:
        if self.control is None:
            self.outbox.clear()
            return
        while self.outbox:
            data, fds = self.outbox[0]
            try:
                fdlib.send_fds(self.control, data, fds)
            except BlockingIOError:
                self.poll.modify(self.control.fileno(), select.EPOLLIN | select.EPOLLOUT)
                return
            except OSError:
                self.outbox.clear()
                return
            self.outbox.popleft()
        self.poll.modify(self.control.fileno(), select.EPOLLIN)

    def _on_control(self, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._flush()
        if mask & (select.EPOLLIN | select.EPOLLHUP) and not self.receive():
            self._close_control()

    def _close_control(self) -> None:
        if self.control is not None:
            self.poll.unregister(self.control.fileno())
            self.control.close()
            self.control = None

    def receive(self) -> bool:
        """Take in everything the supervisor has sent; False at the end of its life."""
        while self.control is not None:
            try:
                data, fds = fdlib.recv_fds(self.control, _RECEIVE)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    return False
                program.log("keeper", "no room for more descriptors: some are not held")
                continue
            if not data:
                return False
            self.obey(data.decode("utf-8", "replace").split("\n"), fds)
        return True

    def obey(self, words: list[str], fds: list[int]) -> None:
        """One message of the supervisor."""
        verb, *rest = words
        if verb == "hold" and len(rest) == len(fds):
            for name, fd in zip(rest, fds, strict=True):
                self._drop(name)
                self.held[name] = fd
            return
        fdlib.close_quietly(*fds)
        if verb == "drop":
            for name in rest:
                self._drop(name)
        elif verb == "sync":
            self.send("\n".join(["synced", *rest]))
        elif verb == "forget":
            for pid in rest:
                self.exits.pop(int(pid), None)
        elif verb == "ready":
            self.failures = 0
        elif verb == "end":
            self.ending = True
        else:
            program.log("keeper", f"unknown message {verb!r}")

    def _drop(self, name: str) -> None:
        fd = self.held.pop(name, -1)
        if fd >= 0:
            os.close(fd)

    def reap(self) -> None:
        """Remember every child that has ended, then let the kernel forget it."""
        while True:
            try:
                ended = process.wait_any(keep=True)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.pid == self.supervisor:
                self._supervisor_ended(ended)
            else:
                self.exits[ended.pid] = ended
                if len(self.exits) > _MAX_EXITS:
                    del self.exits[next(iter(self.exits))]
                self._send_exit(ended)
            process.wait_pid(ended.pid, block=False)

    def _supervisor_ended(self, ended: process.Exit) -> None:
        self.receive()
        self._close_control()
        self.outbox.clear()
        self.supervisor = 0
        if self.ending:
            return
        steady = time.monotonic() - self.started_s > _STEADY_S
        self.failures = 0 if steady else self.failures + 1
        delay_s = 0.0 if self.failures <= 1 else min(0.05 * 2 ** (self.failures - 2), _MAX_DELAY_S)
        program.log("keeper", f"supervisor {ended.pid} ended with {ended.code}, a new one follows in {delay_s} s")
        self.restart_at_s = time.monotonic() + delay_s

    def _ask_to_stop(self) -> None:
        self.stop_wanted = False
        if self.supervisor:
            self.send("stop")
        elif self.held:
            program.log("keeper", "asked to end while there is no supervisor to say that nothing runs: refused")
        else:
            self.ending = True
            self.restart_at_s = None


def adopted_descriptors(table: int) -> dict[str, int]:
    """The descriptors a dying supervisor's successor inherits: lines of `number name` in a memfd."""
    held = {}
    with open(table, "rb") as file:
        file.seek(0)
        for line in file.read().decode().splitlines():
            number, _, name = line.partition(" ")
            os.set_inheritable(int(number), False)
            held[name] = int(number)
    return held


def take_lock(path: str, *, wait: bool) -> int:
    """The open lock, or -1 when another process has it. A lock on a file that was unlinked meanwhile does not count."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not fdlib.lock_file(lock, block=wait):
            os.close(lock)
            return -1
        try:
            if os.stat(path).st_ino == os.fstat(lock).st_ino:
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)


def is_locked(path: str) -> bool:
    """Whether a process has this lock. (A supervisor without a keeper is about to become one: nobody else may.)"""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not fdlib.lock_file(lock)
    finally:
        os.close(lock)


def main() -> None:
    """Console script: `bireme-keeper --run-root R`; stays in the foreground."""
    options = program.parse_arguments("keeper", sys.argv[1:], ("run-root", "adopt", "lock-fd", "sealed"))
    run_root = os.path.realpath(options.get("run-root", "/run/bireme"))
    if "sealed" not in options:
        program.seal_mounts_if_possible()
        program.execute("keeper", "--run-root", run_root, "--sealed", "yes")
    process.set_name("bireme-keeper")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    program.make_run_root(run_root)
    if take_lock(os.path.join(run_root, "keeper.lock"), wait="adopt" in options) < 0:
        program.log("keeper", f"another keeper serves {run_root}")
        sys.exit(3)
    if "lock-fd" in options:
        os.close(int(options["lock-fd"]))
    elif is_locked(os.path.join(run_root, "supervisor.lock")):
        program.log("keeper", f"the supervisor of {run_root} lives and takes the keeper's place")
        sys.exit(3)
    pid_path = os.path.join(run_root, "keeper.pid")
    program.write_pid(pid_path)
    process.set_subreaper()
    held = adopted_descriptors(int(options["adopt"])) if "adopt" in options else {}
    gc.collect()
    gc.freeze()
    Keeper(run_root, held).run()
    for name in ("keeper.lock", "keeper.pid"):
        os.unlink(os.path.join(run_root, name))


if __name__ == "__main__":
    main()
