"""A helper process of the supervisor: started as a fork, talked to over a socket, replaced when it dies."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from bireme.linux import fd as fdlib
from bireme.linux import process
from bireme.supervisor import program
from bireme.wire import supervision

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

    from bireme.linux.poll import Loop
    from bireme.supervisor.children import Children

_STEADY_S = 1.0
_MAX_DELAY_S = 1.0
_SEND_PATIENCE_S = 10.0


class Service:
    """`run(control)` is what the fork does and never returns, `replacement` what a later one does; `on_message(message,
    fds)` gets what it says; `on_started()` runs after each start, the first included. `outlives`: when the supervisor
    dies it finishes what it has begun instead of dying at once."""

    def __init__(
        self,
        name: str,
        run_root: str,
        loop: Loop,
        children: Children,
        run: Callable[[socket.socket], None],
        replacement: Callable[[socket.socket], None] | None = None,
        *,
        outlives: bool = False,
    ) -> None:
        self.name = name
        self.pid = 0
        self._pid_path = os.path.join(run_root, f"{name}.pid")
        self._loop = loop
        self._children = children
        self._run = run
        self._replacement = replacement or run
        self._outlives = outlives
        self._control: socket.socket | None = None
        self._failures = 0
        self._started_s = 0.0
        self._ended = False
        self.on_message: Callable[[dict[str, Any], list[int]], None] = lambda message, fds: None
        self.on_started: Callable[[], None] = lambda: None

    def start(self) -> None:
        self.attend(*self.fork())

    def fork(self) -> tuple[int, socket.socket]:
        """The first half of `start`. Between two forks as little as possible should happen: what the parent writes
        meanwhile is memory that the two do not share."""
        ours, theirs = fdlib.seqpacket_pair()
        pid = process.fork()
        if pid == 0:
            ours.close()
            become_helper(self._run, theirs, outlives=self._outlives)
        theirs.close()
        return pid, ours

    def attend(self, pid: int, ours: socket.socket) -> None:
        """The second half: from now on it is listened to, and replaced when it dies."""
        self._run = self._replacement
        ours.settimeout(_SEND_PATIENCE_S)
        self.pid = pid
        program.write_pid(self._pid_path, pid)
        self._control = ours
        self._started_s = time.monotonic()
        self._loop.add(ours.fileno(), self._on_readable)
        self._children.watch(pid, self._on_exit)
        self.on_started()

    @property
    def begun(self) -> bool:
        """Whether it was ever started: from then on it is replaced when it dies."""
        return self._started_s > 0

    @property
    def running(self) -> bool:
        return self._control is not None

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """False when it is dead: `on_started` will come and everything can be said again."""
        if self._control is None:
            return False
        packet = supervision.encode(message, fds, spill=spill)
        try:
            fdlib.send_fds(self._control, packet.data, packet.fds)
        except (BrokenPipeError, ConnectionResetError):
            return False
        except TimeoutError:
            program.log("supervisor", f"{self.name} {self.pid} does not listen and is replaced")
            os.kill(self.pid, signal.SIGKILL)
            return False
        finally:
            fdlib.close_quietly(*packet.owned)
        return True

    def _on_readable(self, _mask: int) -> None:
        if self._control is None:
            return
        try:
            data, fds = fdlib.recv_fds(self._control)
        except (TimeoutError, ConnectionResetError):
            data, fds = b"", []
        if not data:
            self._hang_up()
            return
        message, own = supervision.decode(data, fds, unspill=unspill)
        self.on_message(message, own)

    def _hang_up(self) -> None:
        if self._control is not None:
            self._loop.remove(self._control.fileno())
            self._control.close()
            self._control = None

    def _on_exit(self, ended: process.Exit) -> None:
        while self._control is not None and fdlib.readable_bytes(self._control.fileno()):
            self._on_readable(0)
        self._hang_up()
        self.pid = 0
        if self._ended:
            return
        steady = time.monotonic() - self._started_s > _STEADY_S
        self._failures = 0 if steady else self._failures + 1
        delay_s = 0.0 if self._failures <= 1 else min(0.05 * 2 ** (self._failures - 2), _MAX_DELAY_S)
        program.log("supervisor", f"{self.name} {ended.pid} ended with {ended.code}, a new one follows in {delay_s} s")
        self._loop.call_later(delay_s, self._start_again)

    def _start_again(self) -> None:
        if not self._ended:
            self.start()

    def stop(self) -> None:
        """Hang up: it ends by itself and is not replaced."""
        self._ended = True
        self._hang_up()
        try:
            os.unlink(self._pid_path)
        except FileNotFoundError:
            return


def become_helper(run: Callable[[socket.socket], None], control: socket.socket, *, outlives: bool) -> None:
    """In the fork: default signals, the parent's death ends us too (unless we finish by ourselves), nothing returns."""
    code = 1
    try:
        program.forget_signals()
        if not outlives:
            process.set_pdeathsig(signal.SIGKILL)
        control.setblocking(True)
        run(control)
        code = 0
    except BaseException as error:
        program.log("helper", f"{type(error).__name__}: {error}")
        raise
    finally:
        os._exit(code)


def spill(text: bytes) -> int:
    return fdlib.sealed_memfd("supervision", text)


def unspill(fd: int, limit: int) -> bytes:
    try:
        return fdlib.read_sealed(fd, limit)
    finally:
        os.close(fd)
