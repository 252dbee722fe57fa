"""Where the engine listens, and a connected socket to it.

`_socket` is the C half of `socket`; the Python half costs 6 ms of start-up for enums that nothing here needs.
"""

from __future__ import annotations

import _socket
import os

from bireme.client.errors import NoEngine
from bireme.errors import Denied, Invalid, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Stream(Protocol):
        """A connected stream: the part of a socket that the client uses."""

        def send(self, data: bytes | memoryview, /) -> int: ...
        def sendall(self, data: bytes | memoryview, /) -> None: ...
        def recv(self, size: int, /) -> bytes: ...
        def shutdown(self, how: int, /) -> None: ...
        def setblocking(self, flag: bool, /) -> None: ...
        def fileno(self) -> int: ...
        def close(self) -> None: ...


class TlsFiles:
    """TLS to an engine: paths of PEM files, "" for none. Without `verify` whoever answers is believed."""

    __slots__ = ("ca", "certificate", "key", "verify")

    def __init__(self, ca: str, certificate: str, key: str, verify: bool) -> None:
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self.verify = verify


DEFAULT_HOST = "unix:///run/bireme/bireme.sock"
SHUT_WR = _socket.SHUT_WR
_DEFAULT_PORT, _DEFAULT_TLS_PORT = "2375", "2376"


def choose_host(option: str, environ: Mapping[str, str]) -> str:
    """The engine's address: -H, then BIREME_HOST, then DOCKER_HOST, then ours."""
    return option or environ.get("BIREME_HOST", "") or environ.get("DOCKER_HOST", "") or DEFAULT_HOST


def parse_host(host: str, tls: bool = False) -> tuple[str, str]:
    """("unix", path) or ("tcp", "host:port"); a bare path is a unix socket. Unsupported for ssh and others."""
    scheme, separator, rest = host.partition("://")
    if not separator:
        if host.startswith("/"):
            return "unix", host
        raise Invalid(f"unable to parse docker host `{host}`", subject=host)
    if scheme == "unix" and rest:
        return "unix", rest
    if scheme in ("tcp", "http", "https"):
        address = rest.partition("/")[0]
        name, colon, port = address.rpartition(":")
        if not colon or port.endswith("]"):
            name, port = address, _DEFAULT_TLS_PORT if tls else _DEFAULT_PORT
        if not name or not port.isdigit() or int(port) > 65535:
            raise Invalid(f"invalid address {host}", subject=host)
        return "tcp", f"{name}:{port}"
    if scheme in ("unix", ""):
        raise Invalid(f"invalid address {host}", subject=host)
    hint = ""
    if scheme == "ssh":
        place = rest.partition("/")[0] or "HOST"
        hint = f"forward the engine's socket: ssh -nNT -L /tmp/bireme.sock:{DEFAULT_HOST[7:]} {place}"
    raise Unsupported(
        f"cannot connect to {host}: only unix:// and tcp:// addresses are supported", subject=host, hint=hint
    )


def waiting(stream: Stream) -> tuple[bool, bool]:
    """Whether a stream can be read, and wants to write, whatever poll says of its descriptor (TLS has buffers)."""
    ask = getattr(stream, "waiting", None)
    return ask() if ask is not None else (False, False)


def connect(host: str, tls: TlsFiles | None = None) -> Stream:
    """A connected socket; NoEngine with a hint when nobody listens, Denied when the socket may not be opened."""
    scheme, address = parse_host(host, tls is not None)
    sock = _connect(host, scheme, address)
    if tls is None or scheme == "unix":
        return sock
    from bireme.client.tls import secure

    return secure(sock, host, address.rpartition(":")[0].strip("[]"), tls)


def _connect(host: str, scheme: str, address: str) -> _socket.socket:
    try:
        return _connect_unix(address) if scheme == "unix" else _connect_tcp(address)
    except PermissionError as error:
        raise Denied(
            f"permission denied while trying to connect to the bireme engine at {host}",
            subject=host,
            hint="run as root, or as a member of the group that owns the socket: " + _group_hint(address),
        ) from error
    except OSError as error:
        reason = "" if isinstance(error, FileNotFoundError | ConnectionRefusedError) else f": {error.strerror or error}"
        raise NoEngine(
            f"Cannot connect to the bireme engine at {host}{reason}. Is biremed running?",
            subject=host,
            hint=_start_hint(scheme, address),
        ) from error


def _connect_unix(path: str) -> _socket.socket:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_tcp(address: str) -> _socket.socket:
    name, _, port = address.rpartition(":")
    failure: OSError = OSError("no address found")
    for family, kind, protocol, _, target in _socket.getaddrinfo(name.strip("[]"), port, 0, _socket.SOCK_STREAM):
        sock = _socket.socket(family, kind, protocol)
        try:
            sock.connect(target)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _group_hint(path: str) -> str:
    try:
        group = os.stat(path).st_gid
        with open("/etc/group", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                fields = line.split(":")
                if len(fields) > 2 and fields[2] == str(group):
                    return f"usermod -aG {fields[0]} $USER"
    except OSError:
        pass
    return "bireme"


def _start_hint(scheme: str, address: str) -> str:
    if scheme != "unix":
        return "check the address, and that the engine listens on TCP"
    if f"unix://{address}" == DEFAULT_HOST:
        return "start it with `systemctl start bireme`, or as root with `biremed`"
    return (
        f"start it with `biremed --host unix://{address}`, or name another engine with -H, BIREME_HOST or DOCKER_HOST"
    )
