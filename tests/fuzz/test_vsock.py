"""A guest that says anything to a vsock device: nothing raises, nothing grows, and what is reset can be used again."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bireme.vmm.virtio.vsock import MAX_CONNECTIONS, MAX_RESETS, RX, TX
from bireme.vmm.virtio.vsockstream import WINDOW, Op
from tests.support.vsock import PORT, Guest

WORD = st.one_of(st.integers(0, 8), st.integers((1 << 32) - 4, (1 << 32) - 1), st.sampled_from([WINDOW, 1 << 31]))
PORTS = st.sampled_from([1, 7, 1023, 1024, PORT])
PACKET = st.fixed_dictionaries(
    {
        "op": st.integers(0, 8),
        "src_port": PORTS,
        "dst_port": st.sampled_from([PORT, PORT, PORT, 1]),
        "flags": st.integers(0, 4),
        "buf_alloc": WORD,
        "fwd_cnt": WORD,
    },
    optional={"len": WORD, "type": st.integers(0, 3), "src_cid": st.integers(0, 4), "dst_cid": st.integers(0, 4)},
)
STEP = st.one_of(
    st.tuples(st.just("packet"), PACKET, st.binary(max_size=64)),
    st.tuples(st.just("raw"), st.binary(min_size=1, max_size=100), st.booleans()),
    st.tuples(st.just("buffers"), st.integers(1, 4), st.sampled_from([1, 44, 45, 4096])),
    st.tuples(st.just("host"), st.integers(0, 4), st.integers(0, 70000)),
)


def act(guest: Guest, step: tuple[Any, ...]) -> None:
    kind, what, more = step
    tx = guest.bench.driver.queues[TX]
    tx.collect()
    if tx.free < 4:
        guest.restart()
        return
    if kind == "packet":
        guest.send_header(more, **({"len": len(more)} | what))
    elif kind == "raw":
        tx.add([what], [8] if more else [])
        guest.kick(TX)
    elif kind == "buffers":
        rx = guest.bench.driver.queues[RX]
        rx.collect()
        for _ in range(min(what, rx.free)):
            rx.add([], [more])
        guest.kick(RX)
    elif guest.accepted:
        use(guest, what, more)


def use(guest: Guest, what: int, size: int) -> None:
    """The host's side of the last connection does something."""
    connection = guest.accepted[-1]
    if what == 0:
        connection.send(b"x" * size)
    elif what == 1:
        connection.consume(min(size, len(connection.handler.data)))
        connection.handler.data = connection.handler.data[size:]
    elif what == 2:
        connection.shutdown()
    elif what == 3:
        connection.reset()
    guest.work()


@given(st.lists(STEP, max_size=40))
def test_anything(steps: list[tuple[Any, ...]]) -> None:
    with Guest(buffers=0) as guest:
        for step in steps:
            act(guest, step)
            assert len(guest.path._connections) <= MAX_CONNECTIONS
            assert len(guest.path._resets) <= MAX_RESETS + len(guest.accepted)
            assert all(len(one.handler.data) <= WINDOW for one in guest.accepted)
            assert all(one._out_bytes <= WINDOW for one in guest.accepted)
        guest.restart()
        assert not guest.path.broken
        connection = guest.connect(src_port=3)
        guest.send(Op.RW, b"works", src_port=3)
        assert connection.handler.data == b"works"
