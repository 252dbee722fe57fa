"""Logs of an instance as a stream: history from the files, then what is appended until it ends.

The logger process writes and rotates (`x`, `x.1`, ... oldest last); we read. A follower waits on inotify and, at the
end of a file that was rotated away, goes on with the new one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from bireme.engine.instances import Instances
from bireme.engine.record import Instance
from bireme.engine.watch import FileWatcher
from bireme.errors import Unsupported
from bireme.instance.driver import ExitStatus
from bireme.instance.logs import LineSplitter, LogQuery, LogRecord, complete_end, parse_line, tail_offset

CHUNK = 64 * 1024
FALLBACK_POLL_S = 0.25
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class LogFiles:
    """The log's files from the oldest wanted line on; `read` returns records, [] at the end of what is there.

    Without `follow` that is what was there when they were opened: a container may write faster than we read.
    """

    def __init__(self, path: str, tail: int, follow: bool) -> None:
        self._path = path
        self._fds = _open_all(path)
        self._follow = follow
        self._end = complete_end(self._fds[-1]) if self._fds else 0
        self._splitter = LineSplitter()
        if tail >= 0:
            self._skip_to_tail(tail)

    def _skip_to_tail(self, tail: int) -> None:
        """Drop whole older files that hold none of the last `tail` lines and seek in the first that does."""
        missing = tail
        for index in range(len(self._fds) - 1, -1, -1):
            fd = self._fds[index]
            end = self._end if index == len(self._fds) - 1 else os.fstat(fd).st_size
            offset = tail_offset(fd, missing, end)
            if offset > 0 or missing == 0:
                os.lseek(fd, offset, os.SEEK_SET)
                for old in self._fds[:index]:
                    os.close(old)
                del self._fds[:index]
                return
            missing -= _count_lines(fd)
            missing = max(missing, 0)

    def read(self) -> list[LogRecord]:
        while self._fds:
            data = os.read(self._fds[0], self._wanted())
            if data:
                records = [r for line in self._splitter.feed(data) if (r := parse_line(line)) is not None]
                if records:
                    return records
                continue
            if len(self._fds) > 1:
                os.close(self._fds.pop(0))
            elif not self._follow or not self._rotated():
                return []
        self._fds = _open_all(self._path)[-1:]
        return []

    def _wanted(self) -> int:
        if self._follow or len(self._fds) > 1:
            return CHUNK
        return min(CHUNK, max(0, self._end - os.lseek(self._fds[0], 0, os.SEEK_CUR)))

    def _rotated(self) -> bool:
        """Whether the current file was renamed; then the new one is read next."""
        try:
            new = os.open(self._path, _FLAGS)
        except FileNotFoundError:
            return False
        if os.path.samestat(os.fstat(new), os.fstat(self._fds[0])):
            os.close(new)
            return False
        self._fds.append(new)
        return True

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


class Logs:
    """`read` answers one query."""

    def __init__(self, instances: Instances, watcher: FileWatcher) -> None:
        self._instances = instances
        self._watcher = watcher

    def read(self, reference: str, query: LogQuery) -> AsyncIterator[LogRecord]:
        """The records `query` asks for; raises at once for an unknown instance or one that keeps no log."""
        instance = self._instances.find(reference)
        if not instance.log_path:
            raise Unsupported("configured logging driver does not support reading", subject=instance.name)
        return self._stream(instance, query)

    async def _stream(self, instance: Instance, query: LogQuery) -> AsyncIterator[LogRecord]:
        follow = query.follow and instance.active
        gone = instance.wait("next-exit") if follow else None
        changed = self._watcher.watch(instance.directory) if follow else None
        files = await asyncio.to_thread(LogFiles, instance.log_path, query.tail, follow)
        try:
            while True:
                ended = gone is None or gone.done()
                while records := files.read():
                    for record in records:
                        if query.until_ns and record.time_ns > query.until_ns:
                            return
                        if query.wants(record):
                            yield record
                    await asyncio.sleep(0)
                if ended or changed is None or gone is None or (query.until_ns and time.time_ns() > query.until_ns):
                    return
                await _next_change(changed, gone, query.until_ns)
        finally:
            files.close()
            if changed is not None and gone is not None:
                self._watcher.unwatch(instance.directory, changed)
                instance.forget_waiter(gone)


async def _next_change(changed: asyncio.Event, gone: asyncio.Future[ExitStatus], until_ns: int) -> None:
    """Return when the files may have grown, the instance ended, or time is up."""

    def wake(_: asyncio.Future[ExitStatus]) -> None:
        changed.set()

    gone.add_done_callback(wake)
    timeout = max(0.0, (until_ns - time.time_ns()) / 1e9) if until_ns else None
    try:
        await asyncio.wait_for(changed.wait(), timeout)
    except TimeoutError:
        pass
    finally:
        gone.remove_done_callback(wake)
    changed.clear()


def _open_all(path: str) -> list[int]:
    """Descriptors of the rotated files, oldest first, and the current one."""
    fds: list[int] = []
    names = [path]
    while os.path.exists(f"{path}.{len(names)}"):
        names.append(f"{path}.{len(names)}")
    for name in reversed(names):
        try:
            fds.append(os.open(name, _FLAGS))
        except FileNotFoundError:
            continue
    return fds


def _count_lines(fd: int) -> int:
    total, position = 0, 0
    while block := os.pread(fd, CHUNK, position):
        total += block.count(b"\n")
        position += len(block)
    return total
