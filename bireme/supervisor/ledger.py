"""What the logger must not forget when it is killed: unfinished lines, and the step it was in the middle of.

Output moves like this, one chunk of one stream at a time:

    1. begin()           note: this stream, the log's size, its unfinished line
    2. splice            pipe or terminal -> stage (a pipe of our own: the bytes are in exactly one of the two)
    3. tee + read        look at the bytes, which stay in the stage
    4. write             records to the log, then frames to the attached clients (each one noted)
    5. save()            the new unfinished line
    6. read              empty the stage

A logger killed anywhere leaves either an empty stage (the chunk is done, or was never taken) or a full one: its
successor then cuts the log back to the size noted in 1, takes the unfinished line noted in 1, and repeats 3 to 6. At
the end of a stream its unfinished line becomes a record: a step without a stage, which may always be repeated. So no
record is lost or doubled. The only imprecision is an attached client whose frame was sent but not yet noted: a few
bytecodes in which a kill makes it see the chunk twice. (tee(2) on the instance's own pipe, without a stage, leaves
open after a kill whether the bytes were consumed already.)

The ledger is a memfd and the stage a pipe; supervisor and keeper hold duplicates of both. Stream indexes start at 1.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from bireme.supervisor.jsonfile import PIECE_BYTES, Tail

_STRIDE = 2 * PIECE_BYTES
_entry = struct.Struct("=IxxxxQ")
_step = struct.Struct("=QQII")


class Step(NamedTuple):
    """The step last begun: `stream` is its index, `log_size` its log's size before, `tail` what was unfinished, `sent`
    how many attached clients have the chunk already; `ending`: no chunk, the stream ended and its tail became a record.
    """

    stream: int
    log_size: int
    tail: Tail
    sent: int
    ending: bool


class Ledger:
    """Positions in the memfd: the step at 0, then a slot per stream index."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @staticmethod
    def create() -> int:
        return os.memfd_create("logger-ledger", os.MFD_CLOEXEC)

    def begin(self, index: int, log_size: int, tail: Tail, *, ending: bool = False) -> None:
        """Note the step: the stage is empty now, so a torn note harms nobody."""
        head = _step.pack(index, log_size, 0, ending) + _entry.pack(len(tail.data), tail.started_ns)
        os.pwrite(self._fd, head + tail.data, 0)

    def sent(self, count: int) -> None:
        os.pwrite(self._fd, count.to_bytes(4, "little"), 16)

    def step(self) -> Step:
        head = os.pread(self._fd, _step.size + _entry.size, 0).ljust(_step.size + _entry.size, b"\0")
        stream, log_size, sent, ending = _step.unpack_from(head)
        length, started_ns = _entry.unpack_from(head, _step.size)
        data = os.pread(self._fd, length, _step.size + _entry.size)
        return Step(stream, log_size, Tail(data, started_ns), sent, bool(ending))

    def save(self, index: int, tail: Tail) -> None:
        """The unfinished line of a stream; shorter than a piece."""
        os.pwrite(self._fd, _entry.pack(len(tail.data), tail.started_ns) + tail.data, _STRIDE * index)

    def load(self, index: int) -> Tail:
        head = os.pread(self._fd, _entry.size, _STRIDE * index).ljust(_entry.size, b"\0")
        length, started_ns = _entry.unpack(head)
        return Tail(os.pread(self._fd, length, _STRIDE * index + _entry.size), started_ns)
