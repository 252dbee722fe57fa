"""TLS under a connection, with directions that end one by one.

asyncio's own TLS transport closes as soon as the client sends close_notify. Docker's clients send it where a client of
a unix socket half-closes: at the end of a container's input, with the output still to come. So the protocol here keeps
reading and writing apart: close_notify is an end of file for the connection, which decides what follows.

    raw transport --data_received--> ssl.SSLObject --data_received--> Connection
    raw transport <-----write------- ssl.SSLObject <-----write------- Connection (to which this is the transport)
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

HANDSHAKE_TIMEOUT_S = 20.0
_READ_BYTES = 64 << 10


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The protocol of the raw transport, and the transport of the connection that `factory` makes once hands
    were shaken."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        super().__init__()
        self._factory = factory
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._raw: asyncio.Transport = None  # type: ignore[assignment]
        self._connection: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._eof = False
        self._write_ended = False

    # --- the protocol of the raw transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_S, self._raw.abort)

    def data_received(self, data: bytes) -> None:
        self._in.write(data)
        self._advance()

    def eof_received(self) -> bool:
        self._in.write_eof()
        if self._connection is None:
            return False
        self._advance()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        if self._connection is not None:
            self._connection.connection_lost(error)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.resume_writing()

    def _advance(self) -> None:
        """Go on with the handshake, then pass on what was decrypted."""
        if self._connection is None and not self._shake_hands():
            return
        while not self._paused and not self._eof and not self._raw.is_closing():
            try:
                data = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError:
                self._flush()
                self._raw.abort()
                return
            self._deliver(data)
        self._flush()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (ssl.SSLError, ssl.CertificateError):
            self._flush()
            self._raw.close()
            return False
        self._stop_timer()
        self._flush()
        self._connection = self._factory()
        self._connection.connection_made(self)
        return True

    def _deliver(self, data: bytes) -> None:
        connection = cast("asyncio.Protocol", self._connection)
        if data:
            connection.data_received(data)
            return
        self._eof = True
        if not connection.eof_received():
            self.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush(self) -> None:
        if self._out.pending:
            self._raw.write(self._out.read())

    # --- the transport of the connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._write_ended or not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self._raw.abort()
            return
        self._flush()

    def write_eof(self) -> None:
        """Tell the client that nothing follows; what it still sends is no longer read."""
        if self._write_ended:
            return
        self._write_ended = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._flush()
        self._raw.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._raw.is_closing():
            self.write_eof()
            self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._raw.resume_reading()
        asyncio.get_running_loop().call_soon(self._advance)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)
