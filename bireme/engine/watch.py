"""Being told when a directory changes: one inotify descriptor for the whole engine (inotify(7))."""

from __future__ import annotations

import asyncio

from bireme.linux.inotify import IN_CREATE, IN_DELETE_SELF, IN_MODIFY, IN_MOVED_TO, Inotify

_MASK = IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF


class FileWatcher:
    """Sets an Event when something changed in a directory; many may watch the same one."""

    def __init__(self) -> None:
        self._inotify: Inotify | None = None
        self._events: dict[int, set[asyncio.Event]] = {}
        self._watches: dict[str, int] = {}

    def watch(self, directory: str) -> asyncio.Event:
        """An Event that is set at every change from now on."""
        if self._inotify is None:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.fd, self._ready)
        number = self._watches.get(directory)
        if number is None:
            number = self._watches[directory] = self._inotify.add(directory, _MASK)
        event = asyncio.Event()
        self._events.setdefault(number, set()).add(event)
        return event

    def unwatch(self, directory: str, event: asyncio.Event) -> None:
        number = self._watches.get(directory)
        if number is None or self._inotify is None:
            return
        events = self._events.get(number, set())
        events.discard(event)
        if not events:
            del self._watches[directory]
            self._events.pop(number, None)
            self._inotify.remove(number)

    def _ready(self) -> None:
        if self._inotify is None:
            return
        for number in self._inotify.read():
            for event in self._events.get(number, ()):
                event.set()

    def close(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
