"""Docker's json-file log: how output is cut into records, and the file that holds them.

A record is one line of output: {"log":"text\\n","stream":"stdout","time":"2024-05-01T12:00:00.123456789Z"}. A line
longer than 16 KiB becomes several records, all but the last without a newline and with the time of the first; what
stands without a newline at the end of the stream is one more. Concatenating the logs of a stream gives its bytes back
(invalid UTF-8 as U+FFFD).

Rotation is Docker's too: before a write, when the file has reached `max_size_bytes`, NAME becomes NAME.1, NAME.1
becomes NAME.2 and so on up to `max_files` in all; with one file it is truncated.
"""

from __future__ import annotations

import os
import time
from json.encoder import encode_basestring
from typing import NamedTuple

PIECE_BYTES = 16384
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_MODE = 0o640
_BLOCK = 65536


class Tail(NamedTuple):
    """What a stream has said since its last record: `started_ns` is not 0 within a line of several records."""

    data: bytes = b""
    started_ns: int = 0


NOTHING = Tail()


def timestamp(at_ns: int) -> str:
    """RFC 3339 with nanoseconds, trailing zeros cut as Go's RFC3339Nano does."""
    seconds, rest = divmod(at_ns, 1_000_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


_MARKS = ("\x7f", "\x80", "\x81", "\ufdd0")
"""Characters JSON does not escape; one that the text does not have stands for the end of a line."""


def format_lines(text: str, stream: str, at_ns: int) -> bytes:
    """Records of whole lines: `text` ends with a newline. Everything happens in a few passes of C."""
    end = f',"stream":"{stream}","time":"{timestamp(at_ns)}"}}\n'
    for mark in _MARKS:
        if mark not in text:
            escaped = encode_basestring(text[:-1].replace("\n", mark))
            return ('{"log":' + escaped[:-1].replace(mark, '\\n"' + end + '{"log":"') + '\\n"' + end).encode()
    return b"".join(format_record(line + "\n", stream, at_ns) for line in text[:-1].split("\n"))


def format_record(text: str, stream: str, at_ns: int) -> bytes:
    """One record, a whole line or a piece of one."""
    return f'{{"log":{encode_basestring(text)},"stream":"{stream}","time":"{timestamp(at_ns)}"}}\n'.encode()


def cut(tail: Tail, data: bytes, stream: str, at_ns: int, *, end: bool = False) -> tuple[bytes, Tail]:
    """The records that `data` completes and what is left over; `end` completes everything."""
    data = tail.data + data if tail.data else data
    started_ns = tail.started_ns
    records = []
    at = 0
    while at < len(data):
        stop = _lines_end(data, at)
        if stop > at:
            records.append(format_lines(data[at:stop].decode("utf-8", "replace"), stream, at_ns))
            at, started_ns = stop, 0
        elif len(data) - at >= PIECE_BYTES or end:
            piece = data[at : at + PIECE_BYTES]
            started_ns = started_ns or at_ns
            records.append(format_record(piece.decode("utf-8", "replace"), stream, started_ns))
            at += len(piece)
        else:
            break
    return b"".join(records), Tail(data[at:], 0 if end else started_ns)


def _lines_end(data: bytes, at: int) -> int:
    """Where the run of whole lines that begins at `at` ends: before a line longer than a piece, or an unfinished one.

    Looks for the last newline of each piece's length, so that a chunk of short lines takes a few steps.
    """
    while (stop := data.rfind(b"\n", at, at + PIECE_BYTES)) >= 0:
        at = stop + 1
    return at


class LogFile:
    """The current file and its predecessors, by names below a directory descriptor (owned, closed by `close`)."""

    def __init__(self, directory: int, name: str, max_size_bytes: int = 0, max_files: int = 1) -> None:
        self._directory = directory
        self._name = name
        self.max_size_bytes = max(max_size_bytes, 0)
        self._max_files = max(max_files, 1)
        self._fd = os.open(name, _FLAGS, _MODE, dir_fd=directory)
        self.size = os.fstat(self._fd).st_size
        self._cut_torn_end()

    def _cut_torn_end(self) -> None:
        """Drop what stands after the last newline: a write that was interrupted for good."""
        end = self.size
        while end:
            start = max(end - _BLOCK, 0)
            found = os.pread(self._fd, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < self.size:
            self.truncate(end)

    def truncate(self, size: int) -> None:
        """Take back everything after `size` bytes."""
        if size < os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, size)
        self.size = os.fstat(self._fd).st_size

    def write(self, records: bytes) -> None:
        """Append all of it or nothing; OSError (a full disk) after taking a part back."""
        view = memoryview(records)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self.truncate(self.size)
            raise
        self.size += len(records)

    def rotate_if_full(self) -> None:
        if self.max_size_bytes and self.size >= self.max_size_bytes:
            self._rotate()

    def _rotate(self) -> None:
        if self._max_files == 1:
            os.ftruncate(self._fd, 0)
            self.size = 0
            return
        for number in range(self._max_files - 1, 1, -1):
            self._rename(f"{self._name}.{number - 1}", f"{self._name}.{number}")
        self._rename(self._name, f"{self._name}.1")
        os.close(self._fd)
        self._fd = os.open(self._name, _FLAGS, _MODE, dir_fd=self._directory)
        self.size = os.fstat(self._fd).st_size

    def _rename(self, old: str, new: str) -> None:
        try:
            os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileNotFoundError:
            return

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._directory)
