"""The processes inside that the host knows: the first one, and execs. Which streams each has, and when its end is told.

The end of a process is told when what it wrote is where the host wants it. The agent says `exited` after the output, so
only what waits here for a slow reader is left: for the first process until every stream ended, for an exec until
nothing waits (a stranger may hold its pipes for ever). Pipes then take it all (Stream.make_room); where one cannot, a
reader that takes nothing for some seconds is not waited for, and what it missed is said in `lost`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from bireme.linux.fd import close_quietly
from bireme.vmm.link.streams import Stream
from bireme.wire.agent import TOKEN_BYTES, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bireme.linux.poll import Loop, Timer
    from bireme.vmm.link.contract import Connection, Handler

FIRST = 0
STALLED_FIRST_S = 10.0
STALLED_S = 2.0
CLAIM_TIMEOUT_S = 20.0
MAX_UNCLAIMED = 32


class Process:
    """One process: its streams by name, and how it ended."""

    def __init__(self, number: int, loop: Loop, on_end: Callable[[Process], None]) -> None:
        self.number = number
        self.streams: dict[str, Stream] = {}
        self.tokens: Tokens = {}
        self.runs = False
        """Its program was executed, now or earlier."""
        self.pid = 0
        self.code = -1
        self.signal = 0
        self.at_ns = 0
        self.told = False
        self.lost = ""
        """Which of its output the machine's end cuts off, and why."""
        self._loop = loop
        self._on_end = on_end
        self._stalled: Timer | None = None

    @property
    def terminal(self) -> bool:
        return "console" in self.streams

    def add_stream(self, name: str, fd: int) -> None:
        """`fd` is ours from now on."""
        reads, writes = name in ("stdin", "console"), name != "stdin"
        self.streams[name] = Stream(self._loop, fd, reads=reads, writes=writes, on_progress=self._progress)

    def exited(self, code: int, signal: int) -> None:
        """The agent said so; it is told once the output is delivered."""
        if self.code >= 0:
            return
        self.code = 128 + signal if signal else code
        self.signal = signal
        self.at_ns = time.time_ns()
        for stream in self.streams.values():
            stream.make_room()
        self._progress()

    def _progress(self) -> None:
        if self.code < 0 or self.told:
            return
        if self._stalled is not None:
            self._stalled.cancel()
        if self._waiting():
            self._stalled = self._loop.call_later(STALLED_FIRST_S if self.number == FIRST else STALLED_S, self._give_up)
        else:
            self.tell()

    def _waiting(self) -> list[str]:
        """Streams whose output is not where the host wants it."""
        streams = self.streams.items()
        return [name for name, stream in streams if not (stream.drained if self.number == FIRST else stream.silent)]

    def _give_up(self) -> None:
        if self.number == FIRST:
            names = " and ".join(self._waiting())
            self.lost = f"the end of the output is lost: nobody read {names} for {STALLED_FIRST_S:g} s"
        self.tell()

    def tell(self) -> None:
        """Now, whatever waits."""
        if self.told or self.code < 0:
            return
        self.told = True
        if self._stalled is not None:
            self._stalled.cancel()
        self._on_end(self)

    def abandon(self) -> None:
        """It could not be started."""
        for stream in self.streams.values():
            stream.abandon()

    def describe(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "pid": self.pid,
            "code": self.code,
            "streams": {name: stream.describe() for name, stream in self.streams.items()},
        }


class Claim:
    """A connection to the stream port that has not said its token yet."""

    def __init__(self, processes: Processes, connection: Connection, timer: Timer) -> None:
        self._processes = processes
        self._connection = connection
        self._timer = timer
        self._said = b""

    def on_data(self, data: bytes) -> None:
        self._said += data
        if len(self._said) < TOKEN_BYTES:
            return
        self.forget()
        token, rest = self._said[:TOKEN_BYTES], self._said[TOKEN_BYTES:]
        stream = self._processes.claim(token)
        if stream is None:
            self._connection.reset()
            return
        self._connection.handler = stream
        self._connection.consume(TOKEN_BYTES)
        stream.attach(self._connection)
        if rest:
            stream.on_data(rest)

    def forget(self) -> None:
        self._timer.cancel()
        self._processes.unclaimed.discard(self._connection)

    def on_end(self) -> None:
        self.forget()
        self._connection.reset()

    def on_writable(self) -> None:
        return

    def on_close(self) -> None:
        self.forget()


class Processes:
    """All of them, and the streams that wait to be claimed."""

    def __init__(self, loop: Loop, on_end: Callable[[Process], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._known: dict[int, Process] = {}
        self._waiting: dict[bytes, Stream] = {}
        self._next = FIRST
        self.unclaimed: set[Connection] = set()
        self.refused = 0

    def new(self, names: Sequence[str], fds: Sequence[int]) -> Process:
        """A process that is about to be started, with its streams; the first call makes the machine's first one.

        The descriptors are ours, also when this fails: Invalid for one that is not what its name says."""
        process = Process(self._next, self._loop, self._on_end)
        self._next += 1
        self._known[process.number] = process
        rest = list(fds)
        try:
            for name in names:
                token = os.urandom(TOKEN_BYTES)
                process.add_stream(name, rest.pop(0))
                process.tokens[name] = token  # type: ignore[literal-required]
                self._waiting[token] = process.streams[name]
        except BaseException:
            close_quietly(*rest)
            self.abandon(process)
            raise
        return process

    def get(self, number: int) -> Process | None:
        return self._known.get(number)

    def started(self, process: Process, pid: int) -> None:
        """Its program runs: all its streams are connected, tokens that were not used are void."""
        process.runs = True
        process.pid = pid
        self._void(process)

    def abandon(self, process: Process) -> None:
        """It could not be started."""
        process.abandon()
        self.drop(process)

    def close(self) -> None:
        """Close every stream and connection there is."""
        for process in self._known.values():
            process.abandon()
        for connection in tuple(self.unclaimed):
            connection.reset()

    def drop(self, process: Process) -> None:
        """Forget one whose end was acknowledged. Streams that still deliver go on."""
        self._void(process)
        self._known.pop(process.number, None)

    def _void(self, process: Process) -> None:
        for token in process.tokens.values():
            if isinstance(token, bytes):
                self._waiting.pop(token, None)

    def accept(self, connection: Connection) -> Handler | None:
        """A connection to the stream port."""
        if len(self.unclaimed) >= MAX_UNCLAIMED:
            self.refused += 1
            return None
        self.unclaimed.add(connection)
        return Claim(self, connection, self._loop.call_later(CLAIM_TIMEOUT_S, lambda: self._expire(connection)))

    def _expire(self, connection: Connection) -> None:
        if connection in self.unclaimed:
            self.unclaimed.discard(connection)
            self.refused += 1
            connection.reset()

    def claim(self, token: bytes) -> Stream | None:
        """The stream of a token, once."""
        stream = self._waiting.pop(token, None)
        if stream is None:
            self.refused += 1
        return stream

    def describe(self) -> dict[str, Any]:
        return {
            "processes": [process.describe() for process in self._known.values()],
            "unclaimed": len(self.unclaimed),
            "refused": self.refused,
        }
