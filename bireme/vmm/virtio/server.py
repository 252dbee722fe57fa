"""A device process at work: kicks, host descriptors and main's requests on one loop.

    main -> device process      activate{path, epoch, features, queues}, reset{path}, pause, resume, describe
                                each answered with its `rid`: {}, {"reason": ...} or what was asked for
    device process -> main      ready, failed{reason}, broken{path, epoch, reason}: unasked, on a socket of their own

One JSON object a packet. `path` counts the data paths of this process; `epoch` counts activations, so that news about
a driver that has been reset meanwhile is recognized as old.

All descriptors are watched edge-triggered. An eventfd then need not be read: every write is an edge, and its counter
takes 2**64 of them. A queue with more work than its budget goes on in the next turn, behind the others.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bireme.linux.poll import EDGE, READ
from bireme.vmm.virtio.queue import QueuePlace

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from bireme.linux.poll import Loop
    from bireme.vmm.memory import GuestMemory
    from bireme.vmm.virtio.device import DataPath

MESSAGE_BYTES = 262144


class DeviceServer:
    """The data paths of one process."""

    def __init__(
        self,
        loop: Loop,
        paths: Sequence[DataPath],
        memory: GuestMemory,
        requests: socket.socket,
        events: socket.socket,
    ) -> None:
        self._loop = loop
        self._paths = paths
        self._memory = memory
        self._requests = requests
        self._events = events
        self._epochs = [0] * len(paths)
        self._watched: list[dict[int, Callable[[], bool]]] = [{} for _ in paths]
        self._later: dict[Callable[[], bool], int] = {}
        self._paused = False
        loop.add(requests.fileno(), self._request)
        for number, path in enumerate(paths):
            for index, kick in enumerate(path.kicks):
                loop.add(kick, self._kick_handler(number, index), READ | EDGE)

    def report(self, **message: object) -> None:
        """Tell main something. Nobody there: we end with it."""
        try:
            self._events.send(json.dumps(message).encode())
        except OSError:
            self._loop.stop()

    # Work.

    def _kick_handler(self, number: int, index: int) -> Callable[[int], None]:
        run = self._paths[number].run

        def work() -> bool:
            return run(index)

        def kicked(_events: int) -> None:
            self._work(number, work)

        return kicked

    def _ready_handler(self, number: int, callback: Callable[[], bool]) -> Callable[[], bool]:
        path = self._paths[number]
        return lambda: path.ready(callback)

    def _work(self, number: int, work: Callable[[], bool]) -> None:
        if self._paused:
            return
        if work():
            if not self._later:
                self._loop.call_soon(self._go_on)
            self._later[work] = number
        elif self._paths[number].broken:
            self._report_broken(number)

    def _go_on(self) -> None:
        later, self._later = self._later, {}
        for work, number in later.items():
            self._work(number, work)

    def _everything(self, number: int) -> None:
        """Look at all queues and descriptors once: edges may have passed while nobody listened."""
        path = self._paths[number]
        for index in range(len(path.kicks)):
            self._work(number, lambda index=index: path.run(index))  # type: ignore[misc]
        for work in tuple(self._watched[number].values()):
            self._work(number, work)

    def _report_broken(self, number: int) -> None:
        if self._epochs[number]:
            self._unwatch(number)
            self.report(m="broken", path=number, epoch=self._epochs[number], reason=self._paths[number].broken)
            self._epochs[number] = 0

    def _unwatch(self, number: int) -> None:
        for fd in self._watched[number]:
            self._loop.remove(fd)
        self._watched[number] = {}

    # Requests.

    def _request(self, _events: int) -> None:
        data = self._requests.recv(MESSAGE_BYTES)
        if not data:
            self._loop.stop()
            return
        message = json.loads(data)
        answer, afterwards = _REQUESTS[message["m"]](self, message)
        answer["rid"] = message["rid"]
        self._requests.send(json.dumps(answer).encode())
        if afterwards is not None:
            afterwards()

    def _activate(self, message: dict[str, Any]) -> _Answer:
        number = message["path"]
        path = self._paths[number]
        places = [QueuePlace(*place) if place else None for place in message["queues"]]
        reason = path.activate(self._memory, message["features"], places)
        if reason:
            return {"reason": reason}, None
        self._epochs[number] = message["epoch"]
        for fd, callback in path.poll_fds().items():
            work = self._ready_handler(number, callback)
            self._watched[number][fd] = work
            self._loop.add(fd, lambda _events, work=work: self._work(number, work), READ | EDGE)  # type: ignore[misc]
        return {}, lambda: self._everything(number)

    def _reset(self, message: dict[str, Any]) -> _Answer:
        number = message["path"]
        self._unwatch(number)
        self._epochs[number] = 0
        self._later = {work: owner for work, owner in self._later.items() if owner != number}
        self._paths[number].reset()
        return {}, None

    def _pause(self, message: dict[str, Any]) -> _Answer:
        """Requests in hand are done when this is answered: a queue's work is synchronous."""
        self._paused = True
        return {}, None

    def _resume(self, message: dict[str, Any]) -> _Answer:
        self._paused = False
        self._later = {}

        def afterwards() -> None:
            for number in range(len(self._paths)):
                self._everything(number)

        return {}, afterwards

    def _describe(self, message: dict[str, Any]) -> _Answer:
        return {"paths": [path.describe() for path in self._paths]}, None


if TYPE_CHECKING:
    _Answer = tuple[dict[str, object], Callable[[], None] | None]

_REQUESTS: dict[str, Callable[[DeviceServer, dict[str, Any]], _Answer]] = {
    "activate": DeviceServer._activate,
    "reset": DeviceServer._reset,
    "pause": DeviceServer._pause,
    "resume": DeviceServer._resume,
    "describe": DeviceServer._describe,
}
