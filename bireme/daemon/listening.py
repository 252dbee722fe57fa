"""Where the API listens: unix sockets, TCP with TLS, sockets handed in by systemd (sd_listen_fds(3))."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bireme.api.http.server import Server
from bireme.daemon.config import Config, TlsSettings
from bireme.errors import Invalid, Unavailable

if TYPE_CHECKING:
    import ssl

_FIRST_PASSED_FD = 3


async def listen(server: Server, config: Config) -> None:
    """Open every configured address; the first one that fails ends the start."""
    for host in config.listen:
        if host.startswith("unix://"):
            path = host.removeprefix("unix://")
            os.makedirs(os.path.dirname(path) or "/", mode=0o711, exist_ok=True)
            await server.serve_unix(path, group=_existing_group(config.group))
        elif host.startswith("fd://"):
            for fd in passed_fds():
                await server.serve_fd(fd)
        else:
            await _listen_tcp(server, host, config)


async def _listen_tcp(server: Server, host: str, config: Config) -> None:
    parts = urlsplit(host)
    if parts.hostname is None or parts.port is None:
        raise Invalid(f"host {host} needs an address and a port", subject=host)
    tls = None if config.insecure_tcp else tls_context(config.tls)
    await server.serve_tcp(parts.hostname, parts.port, tls=tls, allowed_hosts=(parts.hostname,))


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """A server context that asks clients for a certificate of `ca`."""
    if not (settings.ca and settings.certificate and settings.key):
        raise Invalid("tls needs ca, certificate and key", place="configuration")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        context.load_verify_locations(settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"tls: {error}", place="configuration") from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def passed_fds() -> list[int]:
    """Descriptors of socket activation meant for this process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise Unavailable("fd:// was asked for, but no socket was handed in", hint="start through bireme.socket")
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return list(range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + count))


def _existing_group(name: str) -> str:
    """`name` when the system has it; root alone may use the socket otherwise."""
    try:
        with open("/etc/group", encoding="utf-8", errors="replace") as file:
            return name if any(line.startswith(f"{name}:") for line in file) else ""
    except OSError:
        return ""
