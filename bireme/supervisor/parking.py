"""Processes that wait to become an exec (runtime/parked.py): at most one, and only while execs come.

The first exec of a quiet time is a clone as ever; behind it one is parked for the next, and let go after a minute in
which none came. What a parked one holds is memory, 5 MiB: an engine that runs no execs has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bireme.linux import fd as fdlib
from bireme.linux.poll import Quiet
from bireme.runtime import sync

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from bireme.linux.poll import Loop
    from bireme.supervisor.children import Children
    from bireme.supervisor.service import Service

_LET_GO_AFTER_S = 60.0
_SETTLED_AFTER_S = 0.03


class Parked:
    """One such process. `on_end` is called when it has ended, before it is reaped."""

    __slots__ = ("ctl", "on_end", "pid", "ready")

    def __init__(self, ctl: socket.socket) -> None:
        self.ctl = ctl
        self.pid = 0
        self.ready = False
        self.on_end: Callable[[], object] = lambda: None


class Parking:
    """`take` when an exec comes, `wish` when it has begun: then the next one may need one."""

    def __init__(
        self, loop: Loop, children: Children, zygote: Service, let_go_after_s: float = _LET_GO_AFTER_S
    ) -> None:
        self._loop = loop
        self._children = children
        self._zygote = zygote
        self._parked: Parked | None = None
        self._settled = Quiet(loop, _SETTLED_AFTER_S, self._ask)
        self._idle = Quiet(loop, let_go_after_s, self.let_go)

    def take(self) -> Parked | None:
        """One that waits, from now on the caller's (its socket too); None when there is none."""
        parked = self._parked
        if parked is None or not parked.ready:
            return None
        self._parked = None
        self._loop.remove(parked.ctl.fileno())
        return parked

    def wish(self) -> None:
        """An exec has begun: have one parked for the next."""
        self._idle.touch()
        if self._parked is None:
            self._settled.touch()

    def _ask(self) -> None:
        ours, theirs = fdlib.seqpacket_pair()
        with theirs:
            sent = self._zygote.send({"op": "park"}, [theirs.fileno()])
        if not sent:
            ours.close()
            return
        ours.setblocking(False)
        parked = self._parked = Parked(ours)
        self._loop.add(ours.fileno(), lambda _mask: self._on_message(parked))

    def _on_message(self, parked: Parked) -> None:
        try:
            received = sync.receive_message(parked.ctl)
        except BlockingIOError:
            return
        if received is None or received[0]["m"] == "error":
            self._forget(parked)
            return
        message, fds = received
        fdlib.close_quietly(*fds)
        if message["m"] == "child":
            parked.pid = message["pid"]
            self._children.watch(parked.pid, lambda _ended: self._on_end(parked))
        else:
            parked.ready = True

    def _on_end(self, parked: Parked) -> None:
        if self._parked is parked:
            self._forget(parked)
        parked.on_end()

    def _forget(self, parked: Parked) -> None:
        """It sees the end of its socket, and ends."""
        if self._parked is parked:
            self._parked = None
            self._loop.remove(parked.ctl.fileno())
            parked.ctl.close()

    def let_go(self) -> None:
        if self._parked is not None:
            self._forget(self._parked)
