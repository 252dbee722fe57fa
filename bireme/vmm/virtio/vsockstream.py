"""One vsock connection, the host's half: credit, what waits to be sent, how it ends. VIRTIO 1.2, section 5.10.6.

Credit. Each side says in every packet how large its buffer is (`buf_alloc`) and how many bytes it has taken out of it
since the beginning (`fwd_cnt`); both counts run modulo 2**32. What may be sent is therefore

    peer_buf_alloc - (tx_cnt - peer_fwd_cnt)            tx_cnt: bytes sent since the beginning

and the same sum the other way round bounds what the guest may send us. A guest that sends more than that, or takes out
more than it was given, talks nonsense: the connection is reset. Since received bytes count until our user consumed
them, a slow reader on the host stops the writer in the guest, and memory here is bounded by WINDOW.

What is to be said is kept as flags, not as packets, so that a guest that gives us no buffers makes nothing grow.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bireme.linux.layout import Layout

if TYPE_CHECKING:
    from bireme.vmm.link.contract import Handler
    from bireme.vmm.virtio.vsock import VsockPath

virtio_vsock_hdr = Layout(
    "virtio_vsock_hdr", "Q src_cid dst_cid; I src_port dst_port len; H type op; I flags buf_alloc fwd_cnt", packed=True
)
HEADER_BYTES = virtio_vsock_hdr.size

WINDOW = 262144
"""Bytes of our receive buffer per connection, and the most that is kept for a guest that does not receive."""

TYPE_STREAM = 1
SHUTDOWN_RECEIVE, SHUTDOWN_SEND = 1, 2

_MASK = 0xFFFFFFFF


class Op:
    """VIRTIO_VSOCK_OP_*."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class VsockConnection:
    """See the head; implements vmm.link.contract.Connection. Made by the data path, which owns the queues."""

    handler: Handler

    def __init__(self, path: VsockPath, peer_port: int, local_port: int) -> None:
        self.peer_port = peer_port
        self.local_port = local_port
        self.open = True
        self.starved = False
        """Somebody found no room; `on_writable` is due when there is some."""
        self._path = path
        self._respond = True
        self._shutting = self._shut = False
        self._peer_shut = 0
        self._received = self._consumed = self._advertised = 0
        self._peer_buffer = self._peer_consumed = 0
        self._sent = 0
        self._out: deque[memoryview] = deque()
        self._out_bytes = 0

    # For the user of the connection.

    @property
    def sendable(self) -> int:
        room = self._room()
        if room <= 0:
            self.starved = self.open and not self._shutting
            return 0
        return room

    def _room(self) -> int:
        if not self.open or self._shutting or self._peer_shut & SHUTDOWN_RECEIVE:
            return 0
        return min(self._credit(), WINDOW) - self._out_bytes

    def _credit(self) -> int:
        return self._peer_buffer - (self._sent - self._peer_consumed & _MASK)

    def send(self, data: bytes | memoryview) -> int:
        part = memoryview(data)[: max(self._room(), 0)]
        if part:
            self._out.append(part)
            self._out_bytes += len(part)
            self._path.changed(self)
        return len(part)

    def consume(self, count: int) -> None:
        self._consumed += count
        if self.open and self._consumed - self._advertised >= WINDOW // 2:
            self._path.changed(self)

    def shutdown(self) -> None:
        if not self._shutting:
            self._shutting = True
            self._path.changed(self)

    def reset(self) -> None:
        if self.open:
            self._path.drop(self)

    # For the data path: what the guest said.

    def take_credit(self, buffer: int, consumed: int) -> bool:
        """`buf_alloc` and `fwd_cnt` of a packet; False when they are nonsense."""
        before = self._sent - self._peer_consumed & _MASK
        if (self._sent - consumed & _MASK) > before:
            return False
        self._peer_buffer, self._peer_consumed = buffer, consumed
        return True

    def take_data(self, size: int) -> bool:
        """Whether `size` bytes may come."""
        if self._peer_shut & SHUTDOWN_SEND or self._received + size - self._consumed > WINDOW:
            return False
        self._received += size
        return True

    def take_shutdown(self, flags: int) -> bool:
        """The guest ends one or both directions; True when the end of its data is news."""
        news = flags & SHUTDOWN_SEND and not self._peer_shut & SHUTDOWN_SEND
        self._peer_shut |= flags & (SHUTDOWN_SEND | SHUTDOWN_RECEIVE)
        if self._peer_shut & SHUTDOWN_RECEIVE:
            self._out.clear()
            self._out_bytes = 0
        return bool(news)

    @property
    def finished(self) -> bool:
        """The guest neither sends nor receives any more."""
        return self._peer_shut == SHUTDOWN_SEND | SHUTDOWN_RECEIVE

    @property
    def fed(self) -> bool:
        """Starved before, and there is room now."""
        return self.starved and self._room() > 0

    # For the data path: what to say.

    def next_packet(self, room: int) -> bytes | None:
        """The next packet with at most `room` bytes of data, None when there is nothing to say."""
        if not self.open:
            return None
        if self._respond:
            self._respond = False
            return self._pack(Op.RESPONSE)
        if self._out:
            return self._pack_data(room)
        if self._shutting and not self._shut:
            self._shut = True
            return self._pack(Op.SHUTDOWN, flags=SHUTDOWN_SEND)
        if self._consumed - self._advertised >= WINDOW // 2:
            return self._pack(Op.CREDIT_UPDATE)
        return None

    def credit_update(self) -> None:
        """The guest asked: as if a lot had been consumed."""
        self._advertised = self._consumed - WINDOW

    def _pack_data(self, room: int) -> bytes:
        pieces: list[memoryview] = []
        while self._out and room > 0:
            first = self._out.popleft()
            pieces.append(first[:room])
            if len(first) > room:
                self._out.appendleft(first[room:])
            room -= len(pieces[-1])
        data = b"".join(pieces)
        self._out_bytes -= len(data)
        self._sent += len(data)
        return self._pack(Op.RW, size=len(data)) + data

    def _pack(self, op: int, *, flags: int = 0, size: int = 0) -> bytes:
        self._advertised = self._consumed
        return self._path.header(
            self.peer_port,
            self.local_port,
            op,
            flags=flags,
            size=size,
            buf_alloc=WINDOW,
            fwd_cnt=self._consumed & _MASK,
        )

    def describe(self) -> dict[str, int]:
        """For `explain`."""
        return {
            "peer_port": self.peer_port,
            "port": self.local_port,
            "received": self._received,
            "unconsumed": self._received - self._consumed,
            "sent": self._sent,
            "waiting": self._out_bytes,
            "credit": self._credit(),
        }
