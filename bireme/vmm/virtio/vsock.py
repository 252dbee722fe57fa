"""virtio-vsock: sockets between the guest and the host without a network. VIRTIO 1.2, section 5.10.

    queue 0  rx      empty buffers; host -> guest packets
    queue 1  tx      guest -> host packets
    queue 2  event   empty buffers for "your CID has changed", which happens to machines that move; left alone

An address is a CID (the guest's here, 2 is the host) and a port. Packets have a header of 44 bytes and up to 64 KiB of
data. A connection, as the guest makes it (nothing in our guest listens):

    guest  REQUEST  ------->            to a port somebody listens on, else RST
           <-------  RESPONSE
           RW, CREDIT_UPDATE, CREDIT_REQUEST  <------>   (credit: vsockstream.py)
           SHUTDOWN{send, receive} <------>              a half is closed; one that closed both halves wants RST
           <------- RST ------>                          the connection is gone, at any time

The host's kernel could do this (vhost-vsock), at the price of a kernel module and of CIDs that are the host's; here the
other end is the link process itself, in which this data path runs: no socket in between, credit goes back only for what
the final reader took. All connections belong to ports that the link listens on.

What a hostile guest can do: open connections up to MAX_CONNECTIONS, each worth WINDOW bytes at most. It cannot make us
hold packets: a packet that wants an answer while the guest gives no receive buffers stops the tx queue (5.10.6.4.1 asks
for that), at MAX_RESETS answers. Connections are taken from reserved source ports only, which a guest's kernel gives to
CAP_NET_BIND_SERVICE: that is no protection from the guest, but protects its agent from its ordinary users.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Any

from bireme.vmm.irq import make_eventfd, signal
from bireme.vmm.virtio.device import BUDGET, TRANSPORT_FEATURES, DataPath, DeviceId, VirtioDevice
from bireme.vmm.virtio.queue import Chain, QueueBroken, Virtqueue
from bireme.vmm.virtio.vsockstream import (
    HEADER_BYTES,
    TYPE_STREAM,
    WINDOW,
    Op,
    VsockConnection,
    virtio_vsock_hdr,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.vmm.link.contract import Connection, Handler

F_STREAM = 1 << 0

FEATURES = TRANSPORT_FEATURES | F_STREAM

HOST_CID = 2
GUEST_CID = 3
RX, TX, EVENT = 0, 1, 2
QUEUE_SIZE = 128
EVENT_QUEUE_SIZE = 16
MAX_CONNECTIONS = 1024
MAX_RESETS = 64
TURNS = 8
"""How often what was just given room is sent in one go; then others of this process have their turn."""
FIRST_ORDINARY_PORT = 1024
_CONFIG = struct.Struct("<Q")


class VsockPath(DataPath):
    """Connections between two queues and whoever listens (vmm.link.contract.Transport).

    Users of connections may be called from the loop at any time, not only in a kick; what they want to send is then
    announced on an eventfd of our own, so that guest memory is touched only where the device process guards it.
    """

    QUEUES = (QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE)

    def __init__(self, name: str = "vsock", *, guest_cid: int = GUEST_CID) -> None:
        super().__init__(name)
        self.guest_cid = guest_cid
        self._listeners: dict[int, Callable[[Connection], Handler | None]] = {}
        self._connections: dict[tuple[int, int], VsockConnection] = {}
        self._changed: dict[VsockConnection, None] = {}
        self._resets: deque[tuple[int, int, int]] = deque()
        self._held: Chain | None = None
        self._wake = make_eventfd()
        self._working = False
        self._stalled = False
        self.counters.update(
            dict.fromkeys(("packets_in", "packets_out", "bytes_in", "bytes_out", "refused", "nonsense"), 0)
        )

    def fds(self) -> list[int]:
        return [*super().fds(), self._wake]

    def close(self) -> None:
        os.close(self._wake)

    def listen(self, port: int, accept: Callable[[Connection], Handler | None]) -> None:
        self._listeners[port] = accept

    def stopped(self) -> None:
        """The driver is gone, and with it every connection."""
        self._held = None
        self._stalled = False
        self._resets.clear()
        self._changed.clear()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.open = False
            connection.handler.on_close()

    def poll_fds(self) -> dict[int, Callable[[], bool]]:
        return {self._wake: lambda: self._work(RX)}

    def kick(self, index: int) -> bool:
        return False if index == EVENT else self._work(index)

    def _work(self, index: int) -> bool:
        self._working = True
        try:
            more = self._receive() if index == TX or self._stalled else False
            for _ in range(TURNS):
                more = self._send() or more
                if not self._feed():
                    return more
            return True
        finally:
            self._working = False

    def _feed(self) -> bool:
        """Call those who found no room when there is some; whether there were any."""
        fed = [connection for connection in self._connections.values() if connection.fed]
        for connection in fed:
            connection.starved = False
            connection.handler.on_writable()
        return bool(fed)

    # Called by connections.

    def changed(self, connection: VsockConnection) -> None:
        """It has something to say."""
        if not self._changed and not self._working:
            signal(self._wake)
        self._changed[connection] = None

    def drop(self, connection: VsockConnection) -> None:
        """Forget it and tell the guest."""
        self._forget(connection)
        if not self._resets and not self._working:
            signal(self._wake)
        self._resets.append((connection.peer_port, connection.local_port, TYPE_STREAM))

    def _forget(self, connection: VsockConnection) -> None:
        connection.open = False
        self._connections.pop((connection.peer_port, connection.local_port), None)
        self._changed.pop(connection, None)

    def header(
        self,
        peer_port: int,
        local_port: int,
        op: int,
        *,
        kind: int = TYPE_STREAM,
        flags: int = 0,
        size: int = 0,
        buf_alloc: int = 0,
        fwd_cnt: int = 0,
    ) -> bytes:
        """The header of a packet to the guest."""
        return virtio_vsock_hdr.pack(
            src_cid=HOST_CID,
            dst_cid=self.guest_cid,
            src_port=local_port,
            dst_port=peer_port,
            len=size,
            type=kind,
            op=op,
            flags=flags,
            buf_alloc=buf_alloc,
            fwd_cnt=fwd_cnt,
        )

    # Host to guest.

    def _send(self) -> bool:
        """Fill receive buffers with what is to be said; True when there is more of both than the budget."""
        queue = self.queues[RX]
        if queue is None:
            return False
        queue.disable_kicks()
        count = 0
        try:
            while self._resets or self._changed:
                if count >= BUDGET:
                    return True
                if not self._hold(queue) and not (queue.enable_kicks() and self._hold(queue)):
                    return False
                self._send_one(queue)
                count += 1
        finally:
            self.counters["packets_out"] += count
            self.deliver(queue)
        return False

    def _hold(self, queue: Virtqueue) -> bool:
        """Have a receive buffer in hand."""
        self._held = self._held or queue.pop()
        if self._held is not None and (self._held.readable or self._held.writable_bytes <= HEADER_BYTES):
            raise QueueBroken("receive buffer that is readable or has no room for data")
        return self._held is not None

    def _send_one(self, queue: Virtqueue) -> None:
        chain = self._held
        assert chain is not None
        packet = self._next_packet(chain.writable_bytes - HEADER_BYTES)
        if packet is None:
            return
        self._held = None
        self.counters["bytes_out"] += len(packet) - HEADER_BYTES
        queue.push(chain.head, chain.fill(packet))

    def _next_packet(self, room: int) -> bytes | None:
        """Resets first, then connections in turn, a packet each."""
        if self._resets:
            peer_port, local_port, kind = self._resets.popleft()
            return self.header(peer_port, local_port, Op.RST, kind=kind)
        while self._changed:
            connection = next(iter(self._changed))
            del self._changed[connection]
            packet = connection.next_packet(room)
            if packet is not None:
                self._changed[connection] = None
                return packet
        return None

    # Guest to host.

    def _receive(self) -> bool:
        """Take packets; True when there are more than the budget."""
        queue = self.queues[TX]
        if queue is None:
            return False
        queue.disable_kicks()
        count = 0
        try:
            while count < BUDGET:
                self._stalled = len(self._resets) >= MAX_RESETS
                if self._stalled:
                    return False
                chain = queue.pop()
                if chain is None:
                    if queue.enable_kicks():
                        queue.disable_kicks()
                        continue
                    return False
                self._receive_one(queue, chain)
                count += 1
        finally:
            self.counters["packets_in"] += count
            self.counters["chains"] += count
            self.deliver(queue)
        return True

    def _receive_one(self, queue: Virtqueue, chain: Chain) -> None:
        """Copy a packet, give its buffers back, then look at it."""
        if chain.writable or chain.readable_bytes < HEADER_BYTES:
            raise QueueBroken("packet that is writable or shorter than its header")
        header = virtio_vsock_hdr.unpack(chain.take(HEADER_BYTES))
        size = header["len"]
        if size > chain.readable_bytes:
            raise QueueBroken(f"packet of {chain.readable_bytes} bytes that announces {size}")
        data = chain.take(size) if header["op"] == Op.RW and size <= WINDOW else b""
        queue.push(chain.head, 0)
        self._take(header, data)

    def _take(self, header: dict[str, Any], data: bytes) -> None:
        if header["src_cid"] != self.guest_cid or header["dst_cid"] != HOST_CID:
            self.counters["nonsense"] += 1
            return
        key = header["src_port"], header["dst_port"]
        connection = self._connections.get(key)
        if header["op"] == Op.RST:
            if connection is not None:
                self._forget(connection)
                connection.handler.on_close()
        elif header["type"] != TYPE_STREAM:
            self._refuse(header)
        elif header["op"] == Op.REQUEST:
            self._accept(header, connection)
        elif connection is None:
            self._refuse(header)
        elif not connection.take_credit(header["buf_alloc"], header["fwd_cnt"]):
            self._break_off(connection)
        else:
            self._take_for(connection, header, data)

    def _refuse(self, header: dict[str, Any]) -> None:
        self.counters["refused"] += 1
        self._resets.append((header["src_port"], header["dst_port"], header["type"]))

    def _accept(self, header: dict[str, Any], present: VsockConnection | None) -> None:
        """REQUEST. One for a connection that exists means that the guest has forgotten it."""
        if present is not None:
            self._break_off(present)
            return
        accept = self._listeners.get(header["dst_port"])
        if (
            accept is None
            or header["src_port"] >= FIRST_ORDINARY_PORT
            or len(self._connections) >= MAX_CONNECTIONS
            or header["fwd_cnt"]
        ):
            self._refuse(header)
            return
        connection = VsockConnection(self, header["src_port"], header["dst_port"])
        connection.take_credit(header["buf_alloc"], 0)
        handler = accept(connection)
        if handler is None:
            self._refuse(header)
            return
        connection.handler = handler
        self._connections[header["src_port"], header["dst_port"]] = connection
        self._changed[connection] = None

    def _break_off(self, connection: VsockConnection) -> None:
        """The guest broke the rules of a connection."""
        self.counters["nonsense"] += 1
        self.drop(connection)
        connection.handler.on_close()

    def _take_for(self, connection: VsockConnection, header: dict[str, Any], data: bytes) -> None:
        op = header["op"]
        if op == Op.RW:
            if len(data) != header["len"] or not connection.take_data(len(data)):
                self._break_off(connection)
            elif data:
                self.counters["bytes_in"] += len(data)
                connection.handler.on_data(data)
        elif op == Op.SHUTDOWN:
            self._shut_down(connection, header["flags"])
        elif op == Op.CREDIT_REQUEST:
            connection.credit_update()
            self._changed[connection] = None
        elif op != Op.CREDIT_UPDATE:
            self._break_off(connection)

    def _shut_down(self, connection: VsockConnection, flags: int) -> None:
        if connection.take_shutdown(flags):
            connection.handler.on_end()
        if connection.finished and connection.open:
            self.drop(connection)
            connection.handler.on_close()

    def describe(self) -> dict[str, object]:
        connections = [connection.describe() for connection in self._connections.values()]
        return {**super().describe(), "cid": self.guest_cid, "connections": connections[:64]}


def vsock_device(path: VsockPath) -> VirtioDevice:
    """The device as its driver finds it."""
    return VirtioDevice(path.name, DeviceId.VSOCK, FEATURES, VsockPath.QUEUES, _CONFIG.pack(path.guest_cid), path)
