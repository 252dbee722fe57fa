"""Device processes, from main's side: forked before the VM exists, told what to do, watched.

    main                                          device process
      start: fork ------------------------------>  keeps its descriptors, closes all others
                                                   jail
      wait_ready <------------------------ ready   loop: kicks, host descriptors, requests (virtio/server.py)
      activate, reset, pause... ---------------->
                 <------------------------ answer

A VM belongs to the process that made it, so the fork comes first; guest memory and eventfds are inherited. A device
process ends when main does: the request socket reads as closed, and SIGKILL follows the parent's death on top (a jail
that changes credentials clears that; then the pid namespace, of which main is pid 1, takes its place).
A device process that ends first makes `pidfd` readable: the machine cannot go on without it.

Forking an interpreter is cheap in memory as long as neither side writes to what they share: the collector, which marks
every object it looks at, is told to leave alone what exists before the fork (`gc.freeze`), in main too and for good.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from bireme.linux import fd as fds
from bireme.linux import process
from bireme.linux.poll import Loop
from bireme.vmm.jail import own_fds
from bireme.vmm.virtio.server import MESSAGE_BYTES, DeviceServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bireme.vmm.memory import GuestMemory
    from bireme.vmm.virtio.device import DataPath
    from bireme.vmm.virtio.queue import QueuePlace

ANSWER_TIMEOUT_S = 60.0
"""A device process answers between two batches, and a flush to a slow disk may take long."""
DESCRIBE_TIMEOUT_S = 2.0


class WorkerLost(Exception):
    """The device process is gone or hangs; the text says how that showed."""


class Worker:
    """One device process. Requests may come from any thread of main.

    `jail` is called in the child with the descriptors to keep, before any message is read; `body` afterwards, to add
    descriptors of its own to the loop (the link process). `keep` lists descriptors besides the data paths'.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[DataPath],
        memory: GuestMemory,
        jail: Callable[[list[int]], None] | None = None,
        *,
        body: Callable[[Loop], None] | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.paths = list(paths)
        self.pid = 0
        self.pidfd = -1
        self._memory = memory
        self._jail = jail
        self._body = body
        self._keep = list(keep)
        self._requests, self._their_requests = fds.seqpacket_pair(MESSAGE_BYTES)
        self._events, self._their_events = fds.seqpacket_pair()
        self._lock = threading.Lock()
        self._asked = 0
        self._epoch = 0
        self._epochs: dict[int, int] = {}
        self._watchers: dict[int, Callable[[str], None]] = {}
        self.lost = ""

    def start(self) -> None:
        """Fork. The caller has one thread and no VM yet."""
        gc.collect()
        gc.freeze()
        main = os.getpid()
        pid = process.fork()
        if pid == 0:
            self._live(main)
        self.pid = pid
        self.pidfd = process.pidfd_open(pid)
        self._their_requests.close()
        self._their_events.close()

    # In the device process.

    def _live(self, main: int) -> NoReturn:
        code = 1
        try:
            process.set_pdeathsig(signal.SIGKILL)
            if os.getppid() == main:
                self._work()
                code = 0
        except BaseException as error:
            self._say_failed(error)
        finally:
            os._exit(code)

    def _work(self) -> None:
        process.set_name(f"bireme-{self.name}")
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        requests, events = self._their_requests, self._their_events
        keep = [requests.fileno(), events.fileno(), self._memory.fd, *self._keep, *own_fds()]
        for path in self.paths:
            keep += path.fds()
        fds.close_all_but(keep)
        loop = Loop()
        server = DeviceServer(loop, self.paths, self._memory, requests, events)
        if self._jail is not None:
            self._jail([*keep, loop.fileno()])
        if self._body is not None:
            self._body(loop)
        server.report(m="ready")
        loop.run()

    def _say_failed(self, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"
        try:
            self._their_events.send(json.dumps({"m": "failed", "reason": reason[:1000]}).encode())
        except OSError:
            return

    # In main.

    @property
    def events_fd(self) -> int:
        """Readable when `read_event` has something."""
        return self._events.fileno()

    def fds(self) -> list[int]:
        """What main keeps open to talk to the process."""
        return [self._requests.fileno(), self._events.fileno(), self.pidfd]

    def wait_ready(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """The process is jailed and listens. WorkerLost with the reason otherwise."""
        self._events.settimeout(timeout_s)
        try:
            self.read_event()
        finally:
            self._events.settimeout(None)

    def read_event(self) -> None:
        """Take one message of the device process. WorkerLost when it has failed or is gone."""
        try:
            data = self._events.recv(MESSAGE_BYTES)
        except OSError as error:
            raise self._lose(str(error)) from None
        if not data:
            raise self._lose("ended")
        message = json.loads(data)
        if message["m"] == "failed":
            raise self._lose(message["reason"])
        if message["m"] == "broken" and self._epochs.get(message["path"]) == message["epoch"]:
            watcher = self._watchers.get(message["path"])
            if watcher is not None:
                watcher(message["reason"])

    def watch(self, path: DataPath, broken: Callable[[str], None]) -> None:
        """Call `broken(reason)`, from `read_event`, when this data path gives up on its driver."""
        self._watchers[self.paths.index(path)] = broken

    def activate(self, path: DataPath, features: int, queues: Sequence[QueuePlace | None]) -> str:
        """Start a data path on the driver's queues; why it cannot work with them, or ""."""
        number = self.paths.index(path)
        self._epoch += 1
        self._epochs[number] = self._epoch
        try:
            answer = self.request(m="activate", path=number, epoch=self._epoch, features=features, queues=list(queues))
        except WorkerLost as lost:
            return str(lost)
        return str(answer.get("reason", ""))

    def reset(self, path: DataPath) -> None:
        """The data path lets go of all queues. A process that is gone holds none; one that hangs was killed."""
        number = self.paths.index(path)
        self._epochs.pop(number, None)
        try:
            self.request(m="reset", path=number)
        except WorkerLost:
            return

    def pause(self) -> None:
        """Finish what is in hand, touch no guest memory until `resume`. WorkerLost."""
        self.request(m="pause")

    def resume(self) -> None:
        """Go on. WorkerLost."""
        self.request(m="resume")

    def describe(self) -> dict[str, Any]:
        """Each data path's state, counters and queues, for `explain`; a process that is busy says nothing."""
        found: dict[str, Any] = {"name": self.name, "pid": self.pid}
        try:
            answer = self._ask(DESCRIBE_TIMEOUT_S, {"m": "describe"})
        except WorkerLost as lost:
            return {**found, "lost": str(lost)}
        return {**found, **(answer or {"busy": True})}

    def request(self, **message: object) -> dict[str, Any]:
        """One question, one answer; who does not give it hangs and is killed. WorkerLost."""
        answer = self._ask(ANSWER_TIMEOUT_S, message)
        if answer is None:
            raise self._lose("hangs")
        return answer

    def _ask(self, timeout_s: float, message: dict[str, object]) -> dict[str, Any] | None:
        """The answer, or None when none comes in time: should it come later it is recognized by its number."""
        with self._lock:
            if self.lost:
                raise WorkerLost(self.lost)
            self._asked += 1
            deadline_s = time.monotonic() + timeout_s
            try:
                self._requests.send(json.dumps({**message, "rid": self._asked}).encode())
                while True:
                    self._requests.settimeout(max(deadline_s - time.monotonic(), 0.001))
                    data = self._requests.recv(MESSAGE_BYTES)
                    if not data:
                        raise self._lose("ended")
                    answer: dict[str, Any] = json.loads(data)
                    if answer.pop("rid") == self._asked:
                        return answer
            except TimeoutError:
                return None
            except OSError as error:
                raise self._lose(str(error)) from None

    def _lose(self, why: str) -> WorkerLost:
        """No more is expected of this process; should it only hang, it is ended, so that `pidfd` tells everybody."""
        if not self.lost:
            self.lost = f"device process {self.name}: {why}"
            if self.pidfd >= 0:
                process.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        return WorkerLost(self.lost)

    def stop(self) -> process.Exit | None:
        """End the process and reap it; None when it was reaped already."""
        if self.pidfd < 0:
            return None
        process.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        try:
            ended = process.wait_pidfd(self.pidfd)
        except ChildProcessError:
            ended = None
        self.close()
        return ended

    def close(self) -> None:
        """Give up main's descriptors; the process then ends by itself."""
        self._requests.close()
        self._events.close()
        fds.close_quietly(self.pidfd)
        self.pidfd = -1
