"""The relay: holds the sockets of published ports and passes on what the firewall does not.

A fork of the supervisor with nothing left but its control socket and the sockets handed in: no capabilities, no user of
its own, an empty root. Packets to a published IPv4 port are rewritten in the kernel and never get here; what does is
IPv6 ([::1] cannot be rewritten, other addresses are not), and IPv4 while the table is missing. The sockets also keep
the ports from everybody else for as long as this process lives, whatever happens to the engine.

    supervisor                                relay
      relay_add{id, entries} + sockets ---->            entries: {"listen": index of socket, "target": [address, port]}
                                       <----  ok{}      replaces what this id had; a socket without a target, or of
                                                        another protocol than TCP and UDP, is only held
      relay_remove{id}                 ---->             listening ends at once, established connections go on
                                       <----  ok{}

When the supervisor goes away the sockets are closed (its successor brings them again), connections are served to their
end, then the process ends.

TCP: each direction is read only while the other end takes it, so a connection holds at most one chunk per direction;
the end of a stream is passed on as such (half-close), a reset as a reset. UDP: one connected socket per client, found
by the client's address and the local one it wrote to, forgotten after a time of silence. Everything is bounded: what
is above the limits waits in the kernel's queues (TCP) or replaces the longest silent client (UDP).
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from bireme.errors import BiremeError, Invalid
from bireme.linux import capabilities, mount, namespaces, process
from bireme.linux import fd as fdlib
from bireme.linux.libc import SyscallError
from bireme.linux.poll import ERROR, HANGUP, READ, WRITE, Loop
from bireme.supervisor import program
from bireme.wire import supervision

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHUNK = 65536
_ACCEPTS = 32
_DATAGRAMS = 64
_SESSIONS = 1024
_SILENCE_S = 90.0
_SWEEP_S = 15.0
_RETRY_S = 0.2
_SPARE_FDS = 64
_NOBODY = 65534
_CONNECT_TRIES = 3
_KEEPALIVE_S = 120
_IPV6_PKTINFO = 50
_IPV6_RECVPKTINFO = 49
_RESET = struct.pack("=ii", 1, 0)
_WAIT = frozenset({errno.EAGAIN, errno.EINTR})
_NO_MORE_FDS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Target = tuple[str, int]


class Side:
    """One end of a relayed connection; `pending` is what it has not taken yet."""

    __slots__ = ("connection", "ended", "events", "other", "pending", "shut", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending: memoryview | None = None
        self.events = 0
        self.ended = False
        """It will send no more."""
        self.shut = False
        """It was told that no more comes."""
        self.other: Side = self
        self.connection: Connection


class Connection:
    """A client, the endpoint it wants, and the bytes between them."""

    def __init__(self, relay: Relay, listener: Listener, client: socket.socket, upstream: socket.socket) -> None:
        self.relay = relay
        self.listener = listener
        self.client, self.upstream = Side(client), Side(upstream)
        self.client.other, self.upstream.other = self.upstream, self.client
        self.client.connection = self.upstream.connection = self
        self.connecting = True
        relay.connections.add(self)
        listener.count += 1
        self._watch(self.upstream, WRITE)

    def _watch(self, side: Side, events: int) -> None:
        """Wait for `events`; with none the descriptor is taken out, or a hang-up would be reported without end."""
        if events == side.events:
            return
        loop, fd = self.relay.loop, side.sock.fileno()
        if not events:
            loop.remove(fd)
        elif side.events:
            loop.modify(fd, events)
        else:
            loop.add(fd, lambda mask: self._on_event(side, mask), events)
        side.events = events

    def _on_event(self, side: Side, mask: int) -> None:
        try:
            if self.connecting:
                self._connected()
                return
            if mask & ERROR:
                self._raise_error(side)
            if mask & (WRITE | HANGUP) and side.pending is not None:
                self._flush(side)
            if mask & (READ | HANGUP) and side.events & READ:
                self._move(side, side.other)
        except OSError:
            self.close(reset=True)
            return
        if self.client.shut and self.upstream.shut:
            self.close()

    def _connected(self) -> None:
        self._raise_error(self.upstream)
        self.connecting = False
        self._watch(self.upstream, READ)
        self._watch(self.client, READ)

    def _raise_error(self, side: Side) -> None:
        code = side.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _move(self, source: Side, sink: Side) -> None:
        """Read once and pass it on; stop reading while the sink does not take it."""
        try:
            data = source.sock.recv(_CHUNK)
        except BlockingIOError:
            return
        if not data:
            source.ended = True
            self._watch(source, source.events & ~READ)
            self._shut(sink)
            return
        sent = _send(sink.sock, data)
        if sent < len(data):
            sink.pending = memoryview(data)[sent:]
            self._watch(source, source.events & ~READ)
            self._watch(sink, sink.events | WRITE)

    def _flush(self, sink: Side) -> None:
        assert sink.pending is not None
        rest = sink.pending[_send(sink.sock, sink.pending) :]
        if rest:
            sink.pending = rest
            return
        sink.pending = None
        self._watch(sink, sink.events & ~WRITE)
        if sink.other.ended:
            self._shut(sink)
        else:
            self._watch(sink.other, sink.other.events | READ)

    def _shut(self, sink: Side) -> None:
        if sink.pending is None and not sink.shut:
            sink.shut = True
            sink.sock.shutdown(socket.SHUT_WR)

    def close(self, *, reset: bool = False) -> None:
        """End both ends; `reset` tells them that it was not the orderly end."""
        if self not in self.relay.connections:
            return
        for side in (self.client, self.upstream):
            self._watch(side, 0)
            if reset:
                try:
                    side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                except OSError:
                    pass
            side.sock.close()
        self.relay.connections.discard(self)
        self.listener.count -= 1
        self.relay.on_room()


def _send(sock: socket.socket, data: bytes | memoryview) -> int:
    try:
        return sock.send(data, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return 0


class Listener:
    """A listening TCP socket and the endpoint behind it."""

    def __init__(self, relay: Relay, sock: socket.socket, target: Target) -> None:
        self.relay = relay
        self.sock = sock
        self.target = target
        self.count = 0
        self.paused = False
        relay.loop.add(sock.fileno(), self._on_clients)

    def _on_clients(self, _mask: int) -> None:
        for _ in range(_ACCEPTS):
            if not self.relay.has_room(self):
                self.pause()
                return
            try:
                client, _ = self.sock.accept()
            except OSError as error:
                if error.errno in _NO_MORE_FDS:
                    self.pause()
                    self.relay.loop.call_later(_RETRY_S, self.resume)
                if error.errno in _WAIT or error.errno in _NO_MORE_FDS:
                    return
                continue
            self._relay(client)

    def _relay(self, client: socket.socket) -> None:
        upstream: socket.socket | None = None
        try:
            upstream = socket.socket(_family(self.target), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            for sock in (client, upstream):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, _CONNECT_TRIES)
            try:
                upstream.connect(self.target)
            except BlockingIOError:
                pass
            Connection(self.relay, self, client, upstream)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            if upstream is not None:
                upstream.close()

    def pause(self) -> None:
        """Leave clients in the kernel's queue for now."""
        if not self.paused:
            self.paused = True
            self.relay.paused.add(self)
            self.relay.loop.remove(self.sock.fileno())

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.relay.paused.discard(self)
            self.relay.loop.add(self.sock.fileno(), self._on_clients)

    def close(self) -> None:
        self.paused = False
        self.relay.paused.discard(self)
        self.relay.loop.remove(self.sock.fileno())
        self.sock.close()


class Session:
    """One UDP client: the socket that speaks for it to the endpoint, and the way back."""

    __slots__ = ("ancillary", "client", "key", "seen_s", "sock")

    def __init__(self, key: object, sock: socket.socket, client: Any, ancillary: list[tuple[int, int, bytes]]) -> None:
        self.key = key
        self.sock = sock
        self.client = client
        self.ancillary = ancillary
        self.seen_s = 0.0


class Datagrams:
    """A UDP socket, its clients, and the endpoint behind it."""

    def __init__(self, relay: Relay, sock: socket.socket, target: Target) -> None:
        self.relay = relay
        self.sock = sock
        self.target = target
        self.sessions: dict[object, Session] = {}
        """In the order of their last datagram."""
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        relay.loop.add(sock.fileno(), self._on_datagrams)

    def _on_datagrams(self, _mask: int) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data, ancillary, _, client = self.sock.recvmsg(_CHUNK, 64)
            except OSError as error:
                if error.errno in _WAIT:
                    return
                continue  # an ICMP error of an earlier answer
            local = [item for item in ancillary if item[:2] == (socket.IPPROTO_IPV6, _IPV6_PKTINFO)]
            try:
                session = self._session(client, local)
                session.sock.send(data)
            except OSError:
                continue

    def _session(self, client: Any, ancillary: list[tuple[int, int, bytes]]) -> Session:
        key = (client, ancillary[0][2] if ancillary else b"")
        session = self.sessions.pop(key, None)
        if session is None:
            if len(self.sessions) >= _SESSIONS or not self.relay.has_descriptors():
                self._forget_oldest()
            if not self.relay.has_descriptors():
                raise OSError(errno.EMFILE, "no room for one more client")
            upstream = socket.socket(_family(self.target), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            upstream.setblocking(False)
            upstream.connect(self.target)
            session = Session(key, upstream, client, ancillary)
            self.relay.sessions += 1
            opened = session
            self.relay.loop.add(upstream.fileno(), lambda _mask: self._on_answer(opened))
            self.relay.sweep_later()
        session.seen_s = time.monotonic()
        self.sessions[key] = session
        return session

    def _on_answer(self, session: Session) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data = session.sock.recv(_CHUNK)
            except OSError as error:
                if error.errno in _WAIT:
                    return
                continue
            session.seen_s = time.monotonic()
            try:
                self.sock.sendmsg([data], session.ancillary, 0, session.client)
            except OSError:
                continue

    def _forget_oldest(self) -> None:
        for session in self.sessions.values():
            self._forget(session)
            return

    def _forget(self, session: Session) -> None:
        del self.sessions[session.key]
        self.relay.loop.remove(session.sock.fileno())
        session.sock.close()
        self.relay.sessions -= 1

    def sweep(self, before_s: float) -> None:
        """Forget clients that have been silent since `before_s`."""
        for session in [one for one in self.sessions.values() if one.seen_s < before_s]:
            self._forget(session)

    def close(self) -> None:
        self.sweep(float("inf"))
        self.relay.loop.remove(self.sock.fileno())
        self.sock.close()


class Relay:
    """The loop of the relay process; `limit` is the number of connections it serves at once."""

    def __init__(self, control: socket.socket, limit: int = 0) -> None:
        self.control = control
        self.loop = Loop(on_error=_log_error)
        self.limit = limit or _connection_limit()
        self.connections: set[Connection] = set()
        self.paused: set[Listener] = set()
        self.sessions = 0
        self._entries: dict[str, list[Listener | Datagrams | socket.socket]] = {}
        self._sweeping = False
        self.draining = False
        self.loop.add(control.fileno(), self._on_control)

    def run(self) -> None:
        """Serve until the control socket is closed and the last connection has ended."""
        self.loop.run()
        self.loop.close()

    def has_room(self, listener: Listener) -> bool:
        """One port never takes more than half of everything."""
        return len(self.connections) < self.limit and listener.count < max(self.limit // 2, 1)

    def has_descriptors(self) -> bool:
        return len(self.connections) + self.sessions < self.limit

    def on_room(self) -> None:
        """A connection has ended."""
        for listener in [one for one in self.paused if self.has_room(one)]:
            listener.resume()
        if self.draining and not self.connections:
            self.loop.stop()

    def entries(self, name: str) -> list[Listener | Datagrams | socket.socket]:
        return self._entries.get(name, [])

    def sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self.loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        before_s = time.monotonic() - _SILENCE_S
        for entries in self._entries.values():
            for entry in entries:
                if isinstance(entry, Datagrams):
                    entry.sweep(before_s)
        if self.sessions:
            self.sweep_later()

    def _on_control(self, _mask: int) -> None:
        try:
            data, fds = fdlib.recv_fds(self.control)
        except BlockingIOError:
            return
        except SyscallError as error:
            program.log("relay", str(error))
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._drain()
            return
        try:
            message, fds = supervision.decode(data, fds, unspill=_unspill)
        except BiremeError as error:
            fdlib.close_quietly(*fds)
            program.log("relay", str(error))
            return
        self._answer(message, fds)

    def _answer(self, message: Mapping[str, Any], fds: list[int]) -> None:
        rid = message.get("rid")
        try:
            self._execute(message, fds)
            reply = supervision.reply(rid or 0, {})
        except (BiremeError, OSError) as error:
            reply = supervision.refusal(rid or 0, error)
        if isinstance(rid, int):
            packet = supervision.encode(reply, spill=_refuse_to_spill)
            try:
                self.control.send(packet.data)
            except OSError as error:
                program.log("relay", f"no answer sent: {error.strerror}")

    def _execute(self, message: Mapping[str, Any], fds: list[int]) -> None:
        operation, name = message.get("op"), message.get("id")
        if operation == "ping":
            fdlib.close_quietly(*fds)
        elif operation == "relay_add" and isinstance(name, str):
            self._add(name, message.get("entries") or [], fds)
        elif operation == "relay_remove" and isinstance(name, str):
            fdlib.close_quietly(*fds)
            self._remove(name)
        else:
            fdlib.close_quietly(*fds)
            raise Invalid(f"the relay does not know {operation}", subject=str(name))

    def _add(self, name: str, entries: list[Mapping[str, Any]], fds: list[int]) -> None:
        sockets = [socket.socket(fileno=fd) for fd in fds]
        opened: dict[int, Listener | Datagrams | socket.socket] = {}
        try:
            for entry in entries:
                place = entry["listen"]
                if place in opened:
                    raise Invalid(f"socket {place} is named twice", subject=name)
                opened[place] = self._open(sockets[place], _parse_target(entry.get("target")))
        except BaseException as error:
            for one in opened.values():
                one.close()
            for sock in sockets:
                sock.close()
            if isinstance(error, LookupError | TypeError):
                raise Invalid(f"malformed entry: {error!r}", subject=name) from error
            raise
        for place, sock in enumerate(sockets):
            if place not in opened:
                sock.close()
        self._remove(name)
        self._entries[name] = list(opened.values())

    def _open(self, sock: socket.socket, target: Target | None) -> Listener | Datagrams | socket.socket:
        sock.setblocking(False)
        if target is None:
            return sock
        if sock.proto == socket.IPPROTO_TCP:
            return Listener(self, sock, target)
        if sock.proto == socket.IPPROTO_UDP:
            return Datagrams(self, sock, target)
        return sock

    def _remove(self, name: str) -> None:
        for entry in self._entries.pop(name, []):
            entry.close()

    def _drain(self) -> None:
        self.loop.remove(self.control.fileno())
        for name in list(self._entries):
            self._remove(name)
        self.draining = True
        if not self.connections:
            self.loop.stop()


def _parse_target(value: object) -> Target | None:
    if value is None:
        return None
    match value:
        case [str(address), int(port)] if 0 < port < 65536:
            target = (address, port)
        case _:
            raise Invalid(f"malformed target: {value!r}")
    try:
        socket.inet_pton(_family(target), address)
    except OSError as error:
        raise Invalid(f"not an address: {address}", subject=address) from error
    return target


def _family(target: Target) -> int:
    return socket.AF_INET6 if ":" in target[0] else socket.AF_INET


def _connection_limit() -> int:
    """Two descriptors each, half of what the process may have is kept for the sockets it holds."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((min(soft, 1 << 20) // 2 - _SPARE_FDS) // 2, 8)


def _unspill(fd: int, limit: int) -> bytes:
    try:
        return fdlib.read_sealed(fd, limit)
    finally:
        os.close(fd)


def _refuse_to_spill(text: bytes) -> int:
    raise SyscallError(errno.EMSGSIZE, "send", f"{len(text)} bytes")


def _log_error(error: BaseException) -> None:
    program.log("relay", f"{type(error).__name__}: {error}")


def run(control: socket.socket, empty_root: str = "") -> None:
    """What the fork does: give up every right, then relay until the supervisor closes the socket.

    `empty_root` is an empty directory to be the root; without one an empty file system is mounted for it, in a mount
    namespace of its own.
    """
    process.set_name("bireme-relay")
    fdlib.close_all_but([control.fileno()])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _enter(empty_root)
    _give_up_rights()
    control.setblocking(False)
    Relay(control).run()


def _enter(empty_root: str) -> None:
    if not empty_root:
        namespaces.unshare(process.CloneFlags.CLONE_NEWNS)
        mount.make_private("/")
        empty_root = "/proc"
        mount.mount("none", empty_root, "tmpfs", mount.MountFlags.MS_RDONLY, "size=4k,mode=555")
    os.chroot(empty_root)
    os.chdir("/")


def _give_up_rights() -> None:
    """No capabilities, nobody's user, no new processes, not traceable."""
    process.set_no_new_privs()
    capabilities.drop_bounding(0)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    capabilities.set_sets(0, 0, 0)
    process.set_dumpable(False)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
