"""The logger: moves what instances say to their logs and to attached clients.

A fork of the supervisor with nothing left but its sockets and what it is handed: for each instance the reading ends of
its pipes (or the terminal's master), a descriptor of the log's directory, and the clients' sockets. It has no
capabilities and an empty root. How it survives being killed is told in ledger.py.

    supervisor                               logger
      ledger{}                       ---->              descriptors: ledger, both ends of the stage
      open{key, sources, log, sinks} ---->              descriptors: [directory] sources... sinks...
      begin{}                        ---->              everything known is opened: finish the interrupted step, go
      sink{key, sink}                ---->              descriptor: one more client
      settle{key}                    ---->              the process is gone: a stream that is empty now is at its end
                                     <---- settled{key}
                                     <---- drained{key} everything said is in the log and with the clients
                                     <---- gone{key, sink}   that client has hung up

Back-pressure: before a chunk is taken, every client that wants it must have room; otherwise the stream waits, and with
it the instance, as a pipe makes its writer wait. A client that hung up is dropped. A log that cannot be written (disk
full) loses its records, with a line on stderr, rather than stop the instance.

Fairness: a stream that fills half a chunk or more rests afterwards for as long as the chunk took (unless a client waits
for it). So a flood takes half of this process at most, and the few lines of the others do not wait behind it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from bireme.linux import capabilities, process
from bireme.linux import fd as fdlib
from bireme.linux.libc import SyscallError
from bireme.linux.poll import ERROR, HANGUP, WRITE, Loop, Timer
from bireme.supervisor import program
from bireme.supervisor.jsonfile import NOTHING, LogFile, Tail, cut
from bireme.supervisor.ledger import Ledger, Step
from bireme.wire import stdcopy, supervision

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHUNK = 65536
_CHUNK_TO_CLIENTS = 32768
"""One frame of this size is sent to a unix socket as a whole or not at all (it fits one buffer of the kernel)."""
_LEAST_REST_S = 0.001
_LEAST_CHUNK = 1024
_SETTLE_CHUNKS = 16
"""More than a pipe holds by default: a stranger that goes on writing is cut off."""
_STREAMS = {"stdout": stdcopy.STDOUT, "stderr": stdcopy.STDERR}


class Sink:
    """An attached client; `wants` are the streams it asked for."""

    __slots__ = ("number", "sock", "wants")

    def __init__(self, number: int, sock: socket.socket, wants: frozenset[str]) -> None:
        self.number = number
        self.sock = sock
        self.wants = wants


class Source:
    """One stream of an instance; `index` is its place in the ledger."""

    __slots__ = ("fd", "index", "name", "rest", "tail")

    def __init__(self, fd: int, index: int, name: str, tail: Tail) -> None:
        self.fd = fd
        self.index = index
        self.name = name
        self.tail = tail
        self.rest: Timer | None = None


class Channel:
    """Everything of one instance."""

    __slots__ = ("key", "log", "raw", "settling", "sinks", "sources", "waiting")

    def __init__(self, key: str, raw: bool, log: LogFile | None) -> None:
        self.key = key
        self.raw = raw
        self.log = log
        self.sources: dict[int, Source] = {}
        self.sinks: list[Sink] = []
        self.waiting: list[Source] = []
        """Streams that are not read until a client has room."""
        self.settling = False


class Logger:
    """The loop of the logger process."""

    def __init__(self, control: socket.socket, ledger: int, stage: tuple[int, int]) -> None:
        self.control = control
        self.ledger = Ledger(ledger)
        self.stage_read, self.stage_write = stage
        self.scratch_read, self.scratch_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.loop = Loop()
        self.channels: dict[str, Channel] = {}
        self.begun = False
        self.limit = _CHUNK
        """The most that the last step would have taken."""
        self.loop.add(control.fileno(), self._on_control)

    def run(self) -> None:
        self.loop.run()

    def _on_control(self, _mask: int) -> None:
        try:
            data, fds = fdlib.recv_fds(self.control)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            os._exit(0)
        message, fds = supervision.decode(data, fds, unspill=_unspill)
        operation = message["op"]
        if operation == "open":
            self._open(message, fds)
        elif operation == "begin":
            self._begin()
        elif operation == "sink":
            channel = self.channels.get(message["key"])
            if channel is None:
                fdlib.close_quietly(*fds)
                self._tell({"event": "gone", "key": message["key"], "sink": message["sink"]})
            else:
                self._add_sink(channel, message, fds[0])
        elif operation == "settle":
            self._settle(message["key"])

    def _tell(self, event: Mapping[str, Any]) -> None:
        packet = supervision.encode(event, spill=_refuse_to_spill)
        try:
            self.control.send(packet.data)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)

    def _open(self, message: Mapping[str, Any], fds: list[int]) -> None:
        rest = list(fds)
        channel = Channel(message["key"], message["raw"], _open_log(message["log"], rest))
        self.channels[channel.key] = channel
        for described in message["sources"]:
            fd = rest.pop(0)
            index = described["index"]
            if described["fresh"] and index:
                self.ledger.save(index, NOTHING)
            channel.sources[fd] = Source(fd, index, described["stream"], self.ledger.load(index))
        for described in message["sinks"]:
            self._add_sink(channel, described, rest.pop(0))
        if self.begun:
            self._watch(channel)

    def _begin(self) -> None:
        """Finish the step in which our predecessor was killed, then read. What is staged for nobody is dropped."""
        step = self.ledger.step()
        for channel in list(self.channels.values()):
            for source in list(channel.sources.values()):
                if source.index == step.stream:
                    self._repeat(channel, source, step)
        if self._staged():
            os.read(self.stage_read, self._staged())
        self.begun = True
        for channel in list(self.channels.values()):
            self._watch(channel)

    def _watch(self, channel: Channel) -> None:
        for source in channel.sources.values():
            self.loop.add(source.fd, self._reader(channel, source))
        self._finish_if_done(channel)

    def _reader(self, channel: Channel, source: Source) -> Any:
        return lambda _mask: self._pump(channel, source)

    def _add_sink(self, channel: Channel, described: Mapping[str, Any], fd: int) -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        sink = Sink(described["sink"], sock, frozenset(s for s in _STREAMS if described.get(s)))
        channel.sinks.append(sink)
        self.loop.add(fd, lambda mask: self._on_sink(channel, sink, mask), 0)

    def _on_sink(self, channel: Channel, sink: Sink, mask: int) -> None:
        if mask & (HANGUP | ERROR):
            self._drop_sink(channel, sink)
        else:
            self.loop.modify(sink.sock.fileno(), 0)
            self._read_again(channel)

    def _read_again(self, channel: Channel) -> None:
        waiting, channel.waiting = channel.waiting, []
        for source in waiting:
            self.loop.add(source.fd, self._reader(channel, source))

    def _drop_sink(self, channel: Channel, sink: Sink) -> None:
        if sink in channel.sinks:
            channel.sinks.remove(sink)
            self.loop.remove(sink.sock.fileno())
            sink.sock.close()
            self._tell({"event": "gone", "key": channel.key, "sink": sink.number})
            self._read_again(channel)

    # --- moving a chunk

    def _pump(self, channel: Channel, source: Source) -> None:
        """One chunk of a stream that is readable or at its end."""
        if self._must_wait(channel, source):
            return
        began_s = time.monotonic()
        count = self._take(channel, source)
        if count > 0:
            self._deliver(channel, source, count, 0)
            if count >= self.limit // 2 and not channel.sinks and not channel.settling:
                self._rest(channel, source, time.monotonic() - began_s)
        elif count == 0 or channel.settling:
            self._end_source(channel, source)

    def _rest(self, channel: Channel, source: Source, spent_s: float) -> None:
        self.loop.remove(source.fd)
        source.rest = self.loop.call_later(max(spent_s, _LEAST_REST_S), lambda: self._wake(channel, source))

    def _wake(self, channel: Channel, source: Source) -> None:
        source.rest = None
        self.loop.add(source.fd, self._reader(channel, source))

    def _must_wait(self, channel: Channel, source: Source) -> bool:
        """Stop reading the stream while a client has no room for another chunk."""
        full = [s for s in channel.sinks if source.name in s.wants and not _has_room(s.sock)]
        if not full:
            return False
        self.loop.remove(source.fd)
        channel.waiting.append(source)
        for sink in full:
            self.loop.modify(sink.sock.fileno(), WRITE)
        return True

    def _take(self, channel: Channel, source: Source) -> int:
        """Move a chunk to the stage: its length, 0 at the end, -1 when nothing is there."""
        log = channel.log
        limit = _CHUNK_TO_CLIENTS if channel.sinks else _CHUNK
        if log is not None:
            log.rotate_if_full()
            if log.max_size_bytes:
                limit = min(limit, max(log.max_size_bytes - log.size, _LEAST_CHUNK))
        self.limit = limit
        self.ledger.begin(source.index, log.size if log else 0, source.tail)
        try:
            return os.splice(source.fd, self.stage_write, limit, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            return -1
        except OSError as error:
            if error.errno == errno.EIO:
                return 0
            if error.errno != errno.EINVAL:
                raise
        return self._take_by_copy(source, limit)

    def _take_by_copy(self, source: Source, limit: int) -> int:
        """A terminal of a kernel without splice from terminals: a kill between these two calls loses the chunk."""
        try:
            return os.write(self.stage_write, os.read(source.fd, min(limit, _CHUNK)))
        except BlockingIOError:
            return -1
        except OSError as error:
            if error.errno == errno.EIO:
                return 0
            raise

    def _staged(self) -> int:
        return fdlib.readable_bytes(self.stage_read)

    def _repeat(self, channel: Channel, source: Source, step: Step) -> None:
        staged = self._staged()
        if not staged and not step.ending:
            return
        if channel.log is not None:
            channel.log.truncate(step.log_size)
        source.tail = step.tail
        if staged:
            self._deliver(channel, source, staged, step.sent)

    def _deliver(self, channel: Channel, source: Source, count: int, sent: int) -> None:
        """From the stage to the log and the clients; `sent` of them have it already."""
        fdlib.tee(self.stage_read, self.scratch_write, count)
        data = os.read(self.scratch_read, count)
        before = source.tail
        if channel.log is not None:
            records, source.tail = cut(before, data, source.name, time.time_ns())
            self._write(channel, records)
        wanting = [sink for sink in channel.sinks if source.name in sink.wants]
        for number, sink in enumerate(wanting):
            if number >= sent:
                self._send(channel, sink, source, data)
                self.ledger.sent(number + 1)
        if (before.data or source.tail.data) and source.index:
            self.ledger.save(source.index, source.tail)
        os.read(self.stage_read, count)

    def _write(self, channel: Channel, records: bytes) -> None:
        if records and channel.log is not None:
            try:
                channel.log.write(records)
            except OSError as error:
                program.log("logger", f"{len(records)} bytes of the log of {channel.key} are lost: {error}")

    def _send(self, channel: Channel, sink: Sink, source: Source, data: bytes) -> None:
        frame = data if channel.raw else stdcopy.frame(_STREAMS[source.name], data)
        view = memoryview(frame)
        while view:
            try:
                view = view[sink.sock.send(view) :]
            except BlockingIOError:
                select.select([], [sink.sock], [])
            except OSError:
                self._drop_sink(channel, sink)
                return

    # --- ends

    def _settle(self, key: str) -> None:
        """Streams that wait for a client go on at its pace; a stream that a stranger keeps open ends here."""
        channel = self.channels.get(key)
        if channel is not None:
            channel.settling = True
            for source in list(channel.sources.values()):
                if source.rest is not None:
                    source.rest.cancel()
                    self._wake(channel, source)
                for _ in range(_SETTLE_CHUNKS):
                    if source.fd not in channel.sources or source in channel.waiting:
                        break
                    self._pump(channel, source)
                else:
                    self._end_source(channel, source)
        self._tell({"event": "settled", "key": key})

    def _end_source(self, channel: Channel, source: Source) -> None:
        """The stream is at its end: what it left unfinished becomes a record."""
        if channel.log is not None and source.tail.data:
            self.ledger.begin(source.index, channel.log.size, source.tail, ending=True)
            records, source.tail = cut(source.tail, b"", source.name, time.time_ns(), end=True)
            self._write(channel, records)
            self.ledger.save(source.index, source.tail)
        self.loop.remove(source.fd)
        if source in channel.waiting:
            channel.waiting.remove(source)
        os.close(source.fd)
        del channel.sources[source.fd]
        self._finish_if_done(channel)

    def _finish_if_done(self, channel: Channel) -> None:
        if channel.sources:
            return
        del self.channels[channel.key]
        for sink in channel.sinks:
            self.loop.remove(sink.sock.fileno())
            try:
                sink.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sink.sock.close()
        if channel.log is not None:
            channel.log.close()
        self._tell({"event": "drained", "key": channel.key})


def _has_room(sock: socket.socket) -> bool:
    """The kernel calls a unix socket writable while three quarters of its buffer are free."""
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLOUT)
    return bool(poller.poll(0))


def _open_log(log: Mapping[str, Any], fds: list[int]) -> LogFile | None:
    if not log:
        return None
    directory = fds.pop(0)
    try:
        return LogFile(directory, log["name"], log["max_size_bytes"], log["max_files"])
    except OSError as error:
        program.log("logger", f"no log {log['name']}: {error}")
        os.close(directory)
        return None


def _unspill(fd: int, limit: int) -> bytes:
    try:
        return fdlib.read_sealed(fd, limit)
    finally:
        os.close(fd)


def _refuse_to_spill(text: bytes) -> int:
    raise SyscallError(errno.EMSGSIZE, "send", f"{len(text)} bytes")


def run(control: socket.socket, lock_path: str, empty_root: str) -> None:
    """What the fork does. Waits until a predecessor is gone, gives up every right, moves output until the supervisor
    closes the socket."""
    process.set_name("bireme-logger")
    fdlib.close_all_but([control.fileno()])
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fdlib.lock_file(lock, block=True)
    os.chroot(empty_root)
    os.chdir("/")
    process.set_dumpable(False)
    process.set_no_new_privs()
    capabilities.drop_bounding(0)
    capabilities.set_sets(0, 0, 0)
    data, fds = fdlib.recv_fds(control)
    if data:
        ledger, stage_read, stage_write = fds
        Logger(control, ledger, (stage_read, stage_write)).run()
