"""TLS on the connection to an engine. Imported when an address asks for it: `ssl` costs more than all of a short verb.

`TlsStream` is the Stream of client/transport.py over a socket, by memory buffers (ssl.SSLObject) and not ssl.SSLSocket:
a stream that is polled must say when it has decrypted bytes left, or encrypted ones not sent yet, and must be able to
end its own direction (close_notify) while it reads on.
"""

from __future__ import annotations

import _socket
import ssl

from bireme.client.errors import BrokenReply, NoEngine
from bireme.errors import Denied, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bireme.client.transport import TlsFiles

_RECORD_BYTES = 16 << 10
_READ_BYTES = 64 << 10


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """The client's side of `files`; Invalid with Go's words for a file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in (files.ca, files.certificate, files.key):
        if path:
            _check_readable(path)
    try:
        if files.ca:
            context.load_verify_locations(files.ca)
        elif files.verify:
            context.load_default_certs()
        if files.certificate or files.key:
            _load_pair(context, files)
    except (ssl.SSLError, ValueError) as error:
        raise Invalid(f"could not load TLS certificates: {error}", subject=files.ca or files.certificate) from error
    return context


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise Invalid(f"open {path}: {(error.strerror or str(error)).lower()}", subject=path) from error


def _load_pair(context: ssl.SSLContext, files: TlsFiles) -> None:
    if not (files.certificate and files.key):
        missing = "key" if files.certificate else "certificate"
        raise Invalid(f"could not load TLS certificates: the {missing} is missing", hint="--tlscert and --tlskey")

    def no_password() -> str:
        raise ValueError(f"{files.key} is encrypted, which is not supported")

    context.load_cert_chain(files.certificate, files.key, no_password)


def secure(sock: _socket.socket, host: str, name: str, files: TlsFiles) -> TlsStream:
    """`sock`, connected to the engine at `host`, after a handshake with `name`. Closes it when that fails."""
    try:
        return TlsStream(sock, make_context(files), name)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise Denied(
            f"error during connect: the certificate of the engine at {host} is not trusted: {error.verify_message}",
            subject=host,
            hint="name the authority that signed it with --tlscacert, or DOCKER_CERT_PATH",
        ) from error
    except (ssl.SSLError, OSError) as error:
        sock.close()
        raise NoEngine(
            f"error during connect: no TLS with the engine at {host}: {_reason(error)}",
            subject=host,
            hint="check that this port speaks TLS, and the certificates in DOCKER_CERT_PATH",
        ) from error
    except BaseException:
        sock.close()
        raise


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)


class TlsStream:
    """See the head of this module."""

    def __init__(self, sock: _socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._socket = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._plain = self._unsent = b""
        self._ended = False
        self._handshake()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ssl.SSLError(0, "the other side closed the connection") from None
            except ssl.SSLError:
                self._flush()
                raise
        self._flush()

    def waiting(self) -> tuple[bool, bool]:
        """Whether `recv` has something without the socket, and whether something is still to be sent."""
        return bool(self._plain) or self._tls.pending() > 0 or self._in.pending > 0, bool(self._unsent)

    def recv(self, size: int, /) -> bytes:
        """Decrypted bytes, b"" at the end. BlockingIOError as of a socket."""
        if self._plain:
            data, self._plain = self._plain[:size], self._plain[size:]
            return data
        while True:
            if self._unsent:
                self._try_flush()
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._try_flush()
                if not self._fill():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLEOFError:
                return b""
            except ssl.SSLError as error:
                raise BrokenReply(
                    f"the engine ended the TLS connection: {_reason(error)}",
                    hint="does it ask for a client certificate? --tlscert and --tlskey",
                ) from error

    def _decrypted(self) -> bytes:
        """What can be read without the socket."""
        data = b""
        try:
            while self.waiting()[0] and (piece := self._tls.read(_READ_BYTES)):
                data += piece
        except ssl.SSLError:
            pass
        return data

    def _fill(self) -> bool:
        """Take encrypted bytes from the socket; False at its end."""
        data = b"" if self._ended else self._socket.recv(_READ_BYTES)
        if data:
            self._in.write(data)
            return True
        if not self._ended:
            self._ended = True
            self._in.write_eof()
        return False

    def send(self, data: bytes | memoryview, /) -> int:
        """How much was taken; BlockingIOError while what was taken before is not sent."""
        if self._unsent:
            self._flush()
        if not data:
            return 0
        taken = self._tls.write(bytes(data[:_RECORD_BYTES]))
        self._try_flush()
        return taken

    def sendall(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]
        self._flush()

    def _flush(self) -> None:
        """Send all that is encrypted; BlockingIOError when the socket does not take it now."""
        self._unsent += self._out.read()
        while self._unsent:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _try_flush(self) -> None:
        try:
            self._flush()
        except BlockingIOError:
            pass

    def shutdown(self, how: int, /) -> None:
        """End our direction: close_notify is all that TLS has for it.

        What has come is decrypted first: OpenSSL looks for the answer to a close_notify at once, and drops data that
        stands in its place.
        """
        self._plain += self._decrypted()
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass
        self._try_flush()

    def setblocking(self, flag: bool, /) -> None:
        self._socket.setblocking(flag)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
