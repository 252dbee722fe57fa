"""The guest's side of a vsock device, packet by packet."""

from __future__ import annotations

from typing import Any, cast

from bireme.vmm.link.contract import Connection
from bireme.vmm.virtio.vsock import RX, TX, VsockPath, vsock_device
from bireme.vmm.virtio.vsockstream import HEADER_BYTES, Op, VsockConnection, virtio_vsock_hdr
from tests.support.virtio import Bench

PORT = 5000
OUR_PORT = 7


class Recorder:
    """A handler that keeps what it is told."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.data = b""
        self.events: list[str] = []
        self.writable = 0

    def on_data(self, data: bytes) -> None:
        self.data += data
        self.events.append("data")

    def on_end(self) -> None:
        self.events.append("end")

    def on_writable(self) -> None:
        self.writable += 1

    def on_close(self) -> None:
        self.events.append("close")


class Recorded(VsockConnection):
    """For the type checker: connections of a `Guest` have recorders."""

    handler: Recorder  # type: ignore[assignment]


class Guest:
    """A driver that connects to a listener on PORT; `buffers` receive buffers are always there (0: none)."""

    def __init__(self, *, buffers: int = 64, buffer_bytes: int = 4096) -> None:
        self.path = VsockPath()
        self.bench = Bench(vsock_device(self.path))
        self.accepted: list[Recorded] = []
        self.refuse = False
        self._buffers = buffers
        self._buffer_bytes = buffer_bytes
        self.path.listen(PORT, self._accept)
        self._start()

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.bench.close()

    def _start(self) -> None:
        self.bench.driver.start()
        self.give_buffers(self._buffers)
        self.work()

    def restart(self) -> None:
        """Reset the device and set it up again."""
        self._start()

    def _accept(self, connection: Connection) -> Recorder | None:
        if self.refuse:
            return None
        self.accepted.append(cast("Recorded", connection))
        return Recorder(connection)

    def give_buffers(self, count: int) -> None:
        queue = self.bench.driver.queues[RX]
        for _ in range(min(count, queue.free)):
            queue.add([], [self._buffer_bytes])
        self.kick(RX)

    def kick(self, number: int) -> None:
        self.bench.driver.notify(number)
        self.work()

    def work(self) -> None:
        self.bench.in_process.work()

    def send_header(self, data: bytes = b"", **values: Any) -> None:
        """One packet; values not given are those of an ordinary packet of a connection."""
        fields = {
            "src_cid": 3,
            "dst_cid": 2,
            "src_port": OUR_PORT,
            "dst_port": PORT,
            "len": len(data),
            "type": 1,
            "op": Op.RW,
            "buf_alloc": 65536,
        } | values
        queue = self.bench.driver.queues[TX]
        queue.collect()
        queue.add([virtio_vsock_hdr.pack(**fields), *([data] if data else [])])
        self.kick(TX)

    def send(self, op: int, data: bytes = b"", **values: Any) -> None:
        self.send_header(data, op=op, **values)

    def send_all(self, data: bytes, times: int) -> None:
        for _ in range(times):
            self.send(Op.RW, data)

    def connect(self, **values: Any) -> Recorded:
        """The host's end of a new connection."""
        self.send(Op.REQUEST, **values)
        return self.accepted[-1]

    def packets(self) -> list[dict[str, Any]]:
        """What the device has sent, headers with `data`; buffers go back."""
        self.work()
        found = []
        queue = self.bench.driver.queues[RX]
        while used := queue.collect():
            for _, written, parts in used:
                data = b"".join(parts)
                assert written == len(data) >= HEADER_BYTES
                packet = virtio_vsock_hdr.unpack(data)
                packet["data"] = data[HEADER_BYTES:]
                assert packet["len"] == len(packet["data"])
                found.append(packet)
            if self._buffers:
                self.give_buffers(self._buffers - (queue.size - queue.free))
        return found

    def like(self, op: int, **values: Any) -> dict[str, Any]:
        """What a packet of the first connection should be."""
        data = values.pop("data", b"")
        ordinary = {
            "src_cid": 2,
            "dst_cid": 3,
            "src_port": PORT,
            "dst_port": OUR_PORT,
            "len": len(data),
            "type": 1,
            "op": op,
            "flags": 0,
            "buf_alloc": 0,
            "fwd_cnt": 0,
            "data": data,
        }
        return ordinary | values
