"""Reading the log of an instance: json-file lines as the logger writes them (Docker's json-file format).

    {"log":"text\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}

Sans-I/O except for `tail_offset`, which reads backwards from the end of a file.
"""

from __future__ import annotations

import os
from datetime import datetime

import msgspec

BLOCK = 65536


class LogRecord(msgspec.Struct, frozen=True):
    """One piece of output: `stream` is 1 (stdout) or 2 (stderr), `time_ns` since the epoch, `data` as written."""

    stream: int
    time_ns: int
    data: bytes


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to show; `tail` -1 is everything, times are nanoseconds since the epoch, 0 = no bound."""

    follow: bool = False
    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int = -1

    def wants(self, record: LogRecord) -> bool:
        shown = self.stdout if record.stream == 1 else self.stderr
        return shown and record.time_ns >= self.since_ns


class _Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""


_decoder = msgspec.json.Decoder(_Line)


def parse_line(line: bytes) -> LogRecord | None:
    """One line of the file, or None when it is damaged (a torn write of a machine that lost power)."""
    try:
        entry = _decoder.decode(line)
        return LogRecord(
            2 if entry.stream == "stderr" else 1, parse_time(entry.time), entry.log.encode("utf-8", "surrogateescape")
        )
    except (msgspec.DecodeError, ValueError):
        return None


def parse_time(text: str) -> int:
    """RFC 3339 in UTC, up to nanoseconds, as nanoseconds since the epoch; ValueError when it is not."""
    seconds = int(datetime.fromisoformat(f"{text[:19]}+00:00").timestamp())
    rest = text[19:].removesuffix("Z")
    fraction = rest[1:].ljust(9, "0")[:9] if rest.startswith(".") else "0"
    return seconds * 10**9 + int(fraction)


class LineSplitter:
    """Bytes in, whole lines out; the rest is kept for the next call."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        return lines


def complete_end(fd: int) -> int:
    """Where the last whole line of the file ends: a reader may see half of a write that is under way."""
    end = os.fstat(fd).st_size
    while end > 0:
        size = min(BLOCK, end)
        found = os.pread(fd, size, end - size).rfind(b"\n")
        if found >= 0:
            return end - size + found + 1
        end -= size
    return 0


def tail_offset(fd: int, lines: int, end: int) -> int:
    """Where the last `lines` lines of the first `end` bytes of the file begin, in bytes."""
    position = end
    missing = lines
    if lines == 0:
        return end
    skip = 1
    while position > 0:
        size = min(BLOCK, position)
        position -= size
        block = os.pread(fd, size - (skip if position + size == end else 0), position)
        count = block.count(b"\n")
        if count >= missing:
            for _ in range(missing):
                cut = block.rindex(b"\n")
                block = block[:cut]
            return position + cut + 1
        missing -= count
    return 0
