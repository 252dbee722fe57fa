"""The supervisor's memory across its own death: JSON lines in the run root (tmpfs), appended, never synced.

A start does not survive a power cut, so nothing here has to; what counts is that a record is in the kernel before its
effect is seen outside. `write` does that; `defer` adds a record whose loss would only repeat something harmless (an
acknowledgement, a deletion), and goes out with the next write or in idle time.

A process killed inside write(2) may leave a torn last line: replay stops there and cuts it off. When most lines are
history, `compact` replaces the file by one that holds only what is alive.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Record = dict[str, Any]

_encoder = json.JSONEncoder(separators=(",", ":"))
_COMPACT_ABOVE = 1 << 20


class Journal:
    """One append-only file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pending: list[str] = []
        self._fd = -1
        self._size = 0
        self._compacted_size = 0

    def replay(self) -> list[Record]:
        """Every whole record, oldest first; opens the file for appending after the last of them."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        with open(self._fd, "rb", closefd=False) as file:
            data = file.read()
        records: list[Record] = []
        whole = 0
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
            except ValueError:
                break
            if not isinstance(record, dict):
                break
            records.append(record)
            whole += len(line)
        if whole < len(data):
            os.ftruncate(self._fd, whole)
        self._size = self._compacted_size = whole
        return records

    def defer(self, record: Record) -> None:
        """Append with the next `write` or `flush`."""
        self._pending.append(_encoder.encode(record))

    def write(self, record: Record) -> None:
        """Append now, after everything deferred."""
        self._pending.append(_encoder.encode(record))
        self.flush()

    def flush(self) -> None:
        """Write what was deferred. A full run root is an OSError, after which everything is still to be written."""
        if self._pending:
            text = ("\n".join(self._pending) + "\n").encode()
            try:
                _write_all(self._fd, text)
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise
            self._pending.clear()
            self._size += len(text)

    @property
    def wants_compaction(self) -> bool:
        """The file is large, and most of it was written since it was last compacted."""
        return self._size > _COMPACT_ABOVE and self._size > 4 * self._compacted_size

    def compact(self, alive: Iterable[Record]) -> None:
        """Replace the file by these records."""
        self._pending.clear()
        fresh = f"{self.path}.new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        text = "".join(f"{_encoder.encode(record)}\n" for record in alive).encode()
        try:
            _write_all(fd, text)
            os.rename(fresh, self.path)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._size = self._compacted_size = len(text)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
