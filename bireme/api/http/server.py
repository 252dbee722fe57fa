"""Listening sockets and the connections made on them.

Unix sockets (by path with group and mode, or handed in by socket activation) trust who may open them. TCP listeners
come with TLS or an explicit decision not to have it, and check Host and Origin, so that no page in a browser reaches
the engine through a name that resolves to this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bireme.api.http.connection import Connection
from bireme.api.http.message import HttpProblem, Request, status_line
from bireme.api.http.router import Router
from bireme.engine.tasks import TaskGroup
from bireme.errors import Conflict, Denied, Invalid

if TYPE_CHECKING:
    import ssl

_KNOWN_STATUS = (200, 201, 204, 304, 400, 401, 403, 404, 408, 409, 413, 431, 500, 501, 503, 504, 505)


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may cost. Sizes in bytes; timeouts are checked every `sweep_s` seconds."""

    head_bytes: int = 128 << 10
    header_count: int = 128
    backlog_bytes: int = 128 << 10
    connections: int = 8192
    head_timeout_s: float = 30.0
    idle_timeout_s: float = 300.0
    body_timeout_s: float = 120.0
    body_idle_timeout_s: float = 1800.0
    linger_s: float = 5.0
    sweep_s: float = 5.0


class Server:
    """Serves one Router on any number of sockets.

    `close` stops listening, ends streams and hijacked connections, and lets other answers under way finish for
    `grace_s`. Background work goes through `tasks`.
    """

    def __init__(self, router: Router, tasks: TaskGroup, limits: ServerLimits | None = None) -> None:
        self.router = router
        self.tasks = tasks
        self.limits = limits if limits is not None else ServerLimits()
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.status_lines = {code: status_line(code) + router.headers for code in _KNOWN_STATUS}
        self.draining = False
        self._listeners: list[asyncio.Server] = []
        self._paths: list[tuple[str, int]] = []
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None

    # --- listening

    async def serve_unix(self, path: str, *, group: str = "", mode: int = 0o660) -> None:
        """Listen on a unix socket at `path`, owned by `group` when one is given; a dead socket there is replaced."""
        sock = bind_unix(path, group, mode)
        self._paths.append((path, os.stat(path).st_ino))
        await self._listen(sock)

    async def serve_fd(
        self, fd: int, *, tls: ssl.SSLContext | None = None, allowed_hosts: Collection[str] = ()
    ) -> None:
        """Listen on a socket handed in (socket activation), unix or TCP; the descriptor is ours from now on."""
        sock = socket.socket(fileno=fd)
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            raise Invalid(f"descriptor {fd} is not a stream socket")
        await self._listen(sock, tls, allowed_hosts)

    async def serve_tcp(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, allowed_hosts: Collection[str] = ()
    ) -> int:
        """Listen on host:port (0 = any free one) and return the port. Without `tls` whoever connects is root here."""
        infos = await self.loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = infos[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError as error:
            sock.close()
            raise Conflict(f"cannot listen on {host}:{port}: {error.strerror}") from error
        await self._listen(sock, tls, allowed_hosts)
        return int(sock.getsockname()[1])

    async def _listen(
        self, sock: socket.socket, tls: ssl.SSLContext | None = None, allowed_hosts: Collection[str] = ()
    ) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            server = await self.loop.create_unix_server(partial(Connection, self), sock=sock, backlog=1024)
        else:
            hosts = frozenset(name.lower() for name in allowed_hosts)
            factory: Callable[[], asyncio.Protocol] = partial(WebConnection, self, hosts)
            if tls is not None:
                from bireme.api.http.tls import TlsTransport  # `ssl` is no part of an engine without TCP

                factory = partial(TlsTransport, factory, tls)
            server = await self.loop.create_server(factory, sock=sock, backlog=1024)
        self._listeners.append(server)

    async def close(self, grace_s: float = 2.0) -> None:
        """Stop listening, finish what is being answered, cut the rest."""
        self.draining = True
        for listener in self._listeners:
            listener.close()
        for path, inode in self._paths:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        for connection in list(self._connections):
            connection.close(now=False)
        if self._connections:
            self._empty = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty, grace_s)
        for connection in list(self._connections):
            connection.close(now=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # --- for connections

    def admit(self, connection: Connection) -> bool:
        if len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self.limits.sweep_s, self._sweep)
        return True

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.clock()
        for connection in list(self._connections):
            connection.sweep(now)
        if self._connections:
            self._sweeper = self.loop.call_later(self.limits.sweep_s, self._sweep)


class WebConnection(Connection):
    """A connection a browser could make: Host must name this machine, and no foreign page may ask."""

    __slots__ = ("_allowed_hosts",)

    def __init__(self, server: Server, allowed_hosts: frozenset[str]) -> None:
        super().__init__(server)
        self._allowed_hosts = allowed_hosts

    def guard(self, request: Request) -> None:
        host = _host_name(request.header(b"host"))
        if not (_is_address(host) or host == "localhost" or host in self._allowed_hosts):
            raise HttpProblem(403, f"host {host!r} is not one of this engine's names")
        origin = request.header(b"origin")
        if origin and _host_name(origin.partition("://")[2]) not in self._allowed_hosts:
            raise HttpProblem(403, f"origin {origin!r} is not allowed")


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def bind_unix(path: str, group: str, mode: int) -> socket.socket:
    """A bound stream socket at `path` with its final owner and mode before anybody can connect."""
    _clear_dead_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        sock.bind(path)
        if group:
            os.chown(path, -1, _group_id(group))
        os.chmod(path, mode)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{path} exists and is in the way", subject=path) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Denied(f"cannot make the socket {path}: {error.strerror}", subject=path) from error
        raise Invalid(f"cannot make the socket {path}: {error.strerror}", subject=path) from error
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(previous)
    return sock


def _group_id(group: str) -> int:
    if group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise Invalid(f"no group is named {group}", subject=group) from error


def _clear_dead_socket(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(1.0)
    try:
        probe.connect(path)
    except (ConnectionRefusedError, FileNotFoundError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError:
        return
    else:
        raise Conflict(f"another engine listens on {path}", subject=path)
    finally:
        probe.close()
