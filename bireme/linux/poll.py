"""A small event loop over epoll(7) for programs that must stay small: no futures, callbacks only.

    loop = Loop()
    loop.add(fd, on_readable)                 # called with the epoll events
    loop.call_later(0.5, expire)              # Timer with .cancel()
    loop.set_idle(tidy, quiet_s=0.005)        # after 5 ms without an event, again while it returns True
    loop.run()

A callback that raises ends `run`: whoever cannot afford that passes `on_error`.
"""

from __future__ import annotations

import select
import time
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP
ERROR = select.EPOLLERR
EDGE = select.EPOLLET

_monotonic = time.monotonic


class Timer:
    """One pending call; `cancel` is idempotent."""

    __slots__ = ("_order", "callback", "due_s")

    def __init__(self, due_s: float, order: int, callback: Callable[[], object] | None) -> None:
        self.due_s = due_s
        self._order = order
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.due_s, self._order) < (other.due_s, other._order)


class Quiet:
    """Calls back once nothing has touched it for `after_s`; one timer, however often it is touched."""

    __slots__ = ("_after_s", "_callback", "_loop", "_touched_s", "_waiting")

    def __init__(self, loop: Loop, after_s: float, callback: Callable[[], object]) -> None:
        self._loop = loop
        self._after_s = after_s
        self._callback = callback
        self._touched_s = 0.0
        self._waiting = False

    @property
    def reached(self) -> bool:
        """Whether it is as quiet as that now."""
        return self._rest_s() <= 0

    def touch(self) -> None:
        self._touched_s = _monotonic()
        if not self._waiting:
            self._waiting = True
            self._loop.call_later(self._after_s, self._look)

    def _rest_s(self) -> float:
        return self._touched_s + self._after_s - _monotonic()

    def _look(self) -> None:
        rest_s = self._rest_s()
        if rest_s > 0:
            self._loop.call_later(rest_s, self._look)
            return
        self._waiting = False
        self._callback()


class Loop:
    """Callbacks by descriptor, timers, and one idle callback."""

    def __init__(self, on_error: Callable[[BaseException], None] | None = None) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._timers: list[Timer] = []
        self._order = 0
        self._idle: Callable[[], bool] | None = None
        self._quiet_s = 0.0
        self._idle_pending = False
        self._running = False
        self._on_error = on_error

    def add(self, fd: int, callback: Callable[[int], object], events: int = READ) -> None:
        """Call `callback(events)` whenever `fd` is ready; FileExistsError when it is registered already."""
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def modify(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Forget `fd` (before closing it); unknown ones are ignored."""
        if self._callbacks.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                return

    def fileno(self) -> int:
        """The epoll descriptor itself: to keep where others are closed, or to watch a loop from another."""
        return self._epoll.fileno()

    def __contains__(self, fd: int) -> bool:
        return fd in self._callbacks

    def __len__(self) -> int:
        return len(self._callbacks)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        self._order += 1
        timer = Timer(_monotonic() + delay_s, self._order, callback)
        heappush(self._timers, timer)
        return timer

    def call_soon(self, callback: Callable[[], object]) -> Timer:
        """Call back in the next turn, after the events of this one."""
        return self.call_later(0.0, callback)

    def set_idle(self, callback: Callable[[], bool] | None, quiet_s: float = 0.0) -> None:
        """Call back once after `quiet_s` without events, then again at once for as long as it returns True."""
        self._idle = callback
        self._quiet_s = quiet_s
        self._idle_pending = callback is not None

    def wake_idle(self) -> None:
        """There is idle work although no event came."""
        self._idle_pending = self._idle is not None

    def run(self) -> None:
        self._running = True
        while self._running:
            self.run_once()

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        self._epoll.close()
        self._callbacks.clear()

    def run_once(self, timeout_s: float | None = None) -> None:
        """Wait for events, timers or idleness (at most `timeout_s`) and make the calls that are due."""
        wait_s, for_idle = self._wait_s(timeout_s)
        events = self._epoll.poll(wait_s)
        for fd, mask in events:
            callback = self._callbacks.get(fd)
            if callback is not None:
                self._call(callback, mask)
        timers = self._run_timers()
        if events or timers:
            self._idle_pending = self._idle is not None
        elif for_idle and self._idle is not None:
            self._idle_pending = bool(self._call(self._idle))
            if self._idle_pending:
                self._run_idle()

    def _run_idle(self) -> None:
        """Go on with idle work until it is done or something happens."""
        while self._idle_pending and self._idle is not None and self._running:
            if self._epoll.poll(0, 1) or (self._timers and self._timers[0].due_s <= _monotonic()):
                return
            self._idle_pending = bool(self._call(self._idle))

    def _wait_s(self, timeout_s: float | None) -> tuple[float | None, bool]:
        wait_s = timeout_s
        for_idle = False
        if self._idle_pending and (wait_s is None or self._quiet_s <= wait_s):
            wait_s, for_idle = self._quiet_s, True
        while self._timers and self._timers[0].callback is None:
            heappop(self._timers)
        if self._timers:
            due_s = max(self._timers[0].due_s - _monotonic(), 0.0)
            if wait_s is None or due_s < wait_s:
                wait_s, for_idle = due_s, False
        return wait_s, for_idle

    def _run_timers(self) -> int:
        count = 0
        now = _monotonic()
        while self._timers and self._timers[0].due_s <= now:
            callback = heappop(self._timers).callback
            if callback is not None:
                count += 1
                self._call(callback)
        return count

    def _call(self, callback: Callable[..., object], *args: object) -> object:
        if self._on_error is None:
            return callback(*args)
        try:
            return callback(*args)
        except Exception as error:
            self._on_error(error)
            return None
