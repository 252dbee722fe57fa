"""A machine's link as it is in a machine: a jailed device process with its vsock device, whose guest is this test.

The test drives the queues and speaks the agent's protocol; main's line and the control socket are real too.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bireme.linux.fd import read_sealed, recv_fds, sealed_memfd, send_fds
from bireme.linux.poll import Loop
from bireme.vmm import jail
from bireme.vmm.irq import make_eventfd
from bireme.vmm.link import Link, LinkFiles
from bireme.vmm.memory import GuestMemory
from bireme.vmm.virtio.mmio import MmioTransport
from bireme.vmm.virtio.vsock import RX, TX, VsockPath, vsock_device
from bireme.vmm.virtio.vsockstream import HEADER_BYTES, Op, virtio_vsock_hdr
from bireme.vmm.workers import Worker
from bireme.wire import agent, vmcontrol
from bireme.wire.agent import GuestConfig, Kind
from tests.support.jailed import UID
from tests.support.pace import patience
from tests.support.virtio import GuestDriver, Place

MEMORY_BYTES = 16 << 20
ROOM = 1 << 20


class Socket:
    """A connection as the guest's kernel has it."""

    def __init__(self, port: int, peer_port: int) -> None:
        self.port = port
        self.peer_port = peer_port
        self.received = bytearray()
        self.taken = 0
        self.sent = 0
        self.peer_room = self.peer_taken = 0
        self.connected = self.ended = self.closed = False

    @property
    def room(self) -> int:
        """What the device's credit allows."""
        return self.peer_room - (self.sent - self.peer_taken & 0xFFFFFFFF)


class VsockAgent:
    """See the head. `turn` moves packets, `until` turns."""

    def __init__(self, directory: Path, guest: GuestConfig, stdio: tuple[int, ...]) -> None:
        self.memory = GuestMemory(MEMORY_BYTES)
        self.control_path = str(directory / "control")
        self.main, theirs = socket.socketpair()
        self.main.setblocking(False)
        self.said = b""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self.control_path)
        listener.listen(4)
        files = LinkFiles(theirs, listener, stdio)
        self._start(files, guest)
        theirs.close()
        listener.close()
        self._sockets: dict[int, Socket] = {}
        self._next_port = 1023
        self._decoder = agent.Decoder(agent.MAX_TO_AGENT)
        self.control = self.connect(agent.CONTROL_PORT)

    def _start(self, files: LinkFiles, guest: GuestConfig) -> None:
        path = VsockPath()
        device = vsock_device(path)
        self._path = path

        def body(loop: Loop) -> None:
            Link(loop, path, files, guest, boot_timeout_s=patience(20))

        def enter(keep: list[int]) -> None:
            jail.enter("link", UID, keep)

        self.worker = Worker("link", [path], self.memory, enter, body=body, keep=files.fds())
        self._transport = MmioTransport(device, self.worker)
        self._place = Place(make_eventfd(), tuple(make_eventfd() for _ in device.queue_sizes))
        self._transport.attach(self._place)
        self.worker.start()
        self.worker.wait_ready()
        self.driver = GuestDriver(self._transport, self.memory)
        self.driver.start()
        self._give_buffers()

    def close(self) -> None:
        self.worker.stop()
        self.main.close()
        self._path.close()
        for fd in (self._place.irq, *self._place.kicks):
            os.close(fd)
        self._transport.page.close()
        self.memory.close()

    # Packets.

    def _give_buffers(self) -> None:
        queue = self.driver.queues[RX]
        while queue.free:
            queue.add([], [4096])
        self.driver.notify(RX)

    def _packet(self, sock: Socket, op: int, data: bytes = b"", flags: int = 0) -> None:
        header = virtio_vsock_hdr.pack(
            src_cid=3,
            dst_cid=2,
            src_port=sock.port,
            dst_port=sock.peer_port,
            len=len(data),
            type=1,
            op=op,
            flags=flags,
            buf_alloc=ROOM,
            fwd_cnt=sock.taken & 0xFFFFFFFF,
        )
        queue = self.driver.queues[TX]
        self.until(lambda: queue.free >= 2)
        queue.add([header, data] if data else [header])
        self.driver.notify(TX)

    def turn(self) -> None:
        self.driver.queues[TX].collect()
        for _, _, parts in self.driver.queues[RX].collect():
            self._take(b"".join(parts))
        self._give_buffers()

    def _take(self, packet: bytes) -> None:
        header = virtio_vsock_hdr.unpack(packet)
        sock = self._sockets[header["dst_port"]]
        sock.peer_room, sock.peer_taken = header["buf_alloc"], header["fwd_cnt"]
        sock.received += packet[HEADER_BYTES:]
        sock.taken += len(packet) - HEADER_BYTES
        sock.connected |= header["op"] == Op.RESPONSE
        sock.ended |= header["op"] == Op.SHUTDOWN
        sock.closed |= header["op"] == Op.RST
        if len(packet) > HEADER_BYTES and not sock.closed:
            self._packet(sock, Op.CREDIT_UPDATE)

    def until(self, condition: Callable[[], object]) -> None:
        limit = time.monotonic() + patience(30)
        while not condition():
            self.turn()
            self._path_lives()
            time.sleep(0.001)
            assert time.monotonic() < limit, (self.said, self.worker.describe())

    def _path_lives(self) -> None:
        assert os.waitid(os.P_PIDFD, self.worker.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, "link died"

    # Sockets.

    def connect(self, port: int) -> Socket:
        sock = Socket(self._next_port, port)
        self._next_port -= 1
        self._sockets[sock.port] = sock
        self._packet(sock, Op.REQUEST)
        self.until(lambda: sock.connected)
        return sock

    def send(self, sock: Socket, data: bytes) -> None:
        """Send all of it, as credit allows."""
        while data:
            count = min(sock.room, 60000)
            part, data = data[:count], data[count:]
            sock.sent += len(part)
            if part:
                self._packet(sock, Op.RW, part)
            else:
                self.until(lambda: sock.room)

    def shut(self, sock: Socket) -> None:
        """close(2)."""
        self._packet(sock, Op.SHUTDOWN, flags=3)
        self.until(lambda: sock.closed)

    # The agent's protocol.

    def say(self, kind: Kind, rid: int = 0, **fields: Any) -> None:
        self.send(self.control, agent.encode(kind, rid, fields))

    def hear(self, kind: Kind) -> tuple[int, dict[str, Any]]:
        """The next request, which must be of this kind."""
        frames: list[agent.Frame] = []

        def come() -> bool:
            data = bytes(self.control.received)
            self.control.received.clear()
            frames.extend(self._decoder.feed(data))
            return bool(frames)

        self.until(come)
        assert len(frames) == 1
        assert frames[0].kind == kind
        return frames[0].rid, agent.decode(frames[0].body)

    def streams(self, fields: dict[str, Any]) -> dict[str, Socket]:
        """Connect the streams of a process."""
        found = {}
        for name in ("stdin", "stdout", "stderr", "console"):
            if f"{name}_token" in fields:
                found[name] = self.connect(agent.STREAM_PORT)
                self.send(found[name], fields[f"{name}_token"])
        return found

    def main_said(self) -> list[dict[str, Any]]:
        try:
            self.said += self.main.recv(65536)
        except BlockingIOError:
            pass
        return [json.loads(line) for line in self.said.split(b"\n") if line]

    # A control client.

    def client(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.control_path)
        sock.setblocking(False)
        return sock

    def ask(self, sock: socket.socket, op: str, fds: list[int] | None = None, **fields: Any) -> None:
        request = vmcontrol.request(1, op, **fields)
        packet = vmcontrol.encode(request, fds or (), spill=lambda text: sealed_memfd("request", text))
        send_fds(sock, packet.data, packet.fds)
        for fd in packet.owned:
            os.close(fd)

    def answer(self, sock: socket.socket) -> dict[str, Any]:
        """The next reply or event."""
        found: list[dict[str, Any]] = []

        def come() -> bool:
            try:
                data, fds = recv_fds(sock)
            except BlockingIOError:
                return False
            assert data, "the link hung up"
            found.append(vmcontrol.decode(data, fds, unspill=_unspill)[0])
            return True

        self.until(come)
        return found[0]


def _unspill(fd: int, limit: int) -> bytes:
    data = read_sealed(fd, limit)
    os.close(fd)
    return data
