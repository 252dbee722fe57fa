"""Neighbours of the supervisor's parts: a keeper that only remembers, a helper that only listens, a loop by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bireme.linux.process import Exit


class FakeKeeper:
    """KeeperLink without a keeper."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.forgotten: list[int] = []
        self.on_exit: Callable[[Exit], None] = lambda ended: None

    def hold(self, fds: dict[str, int]) -> None:
        self.held.update(fds)

    def drop(self, names: Sequence[str]) -> None:
        for name in names:
            self.held.pop(name, None)

    def flush(self) -> None:
        return

    def sync(self, callback: Callable[[], object]) -> None:
        callback()

    def forget(self, pid: int) -> None:
        self.forgotten.append(pid)


class FakeService:
    """Service without a process: what was said to it, and whether it lives."""

    def __init__(self) -> None:
        self.running = True
        self.said: list[dict[str, Any]] = []
        self.fds: list[list[int]] = []
        self.on_message: Callable[[dict[str, Any], list[int]], None] = lambda message, fds: None
        self.on_started: Callable[[], None] = lambda: None

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        if self.running:
            self.said.append(dict(message))
            self.fds.append(list(fds))
        return self.running

    def take(self) -> list[dict[str, Any]]:
        said, self.said = self.said, []
        return said


class ManualTimer:
    def __init__(self, delay_s: float, callback: Callable[[], object]) -> None:
        self.delay_s = delay_s
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualLoop:
    """Loop whose events and timers happen when the test says so."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[int], object]] = {}
        self.timers: list[ManualTimer] = []
        self.idle_wakes = 0

    def add(self, fd: int, callback: Callable[[int], object], events: int = 1) -> None:
        assert fd not in self.callbacks
        self.callbacks[fd] = callback

    def remove(self, fd: int) -> None:
        self.callbacks.pop(fd, None)

    def modify(self, fd: int, events: int) -> None:
        assert fd in self.callbacks

    def __contains__(self, fd: int) -> bool:
        return fd in self.callbacks

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(delay_s, callback)
        self.timers.append(timer)
        return timer

    def call_soon(self, callback: Callable[[], object]) -> ManualTimer:
        return self.call_later(0, callback)

    def wake_idle(self) -> None:
        self.idle_wakes += 1

    def fire(self) -> None:
        """Every timer that is set now."""
        timers, self.timers = self.timers, []
        for timer in timers:
            if timer.callback is not None:
                timer.callback()
