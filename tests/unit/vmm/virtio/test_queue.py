"""Rings: what a driver may do works, what it may not breaks the queue with a reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bireme.vmm.memory import GuestMemory
from bireme.vmm.virtio import queue as queues
from bireme.vmm.virtio.queue import INDIRECT, NEXT, WRITE, QueueBroken, QueuePlace, Virtqueue, split
from tests.support.virtio import BUFFERS_AT, MIB, QUEUES_AT, Arena, GuestQueue


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory(8 * MIB)
    yield memory
    memory.close()


def pair(
    memory: GuestMemory, size: int = 8, *, event_idx: bool = False, indirect: bool = False
) -> tuple[GuestQueue, Virtqueue]:
    guest = GuestQueue(memory, Arena(BUFFERS_AT, memory.size), QUEUES_AT, size, event_idx=event_idx, indirect=indirect)
    return guest, Virtqueue(memory, guest.place, event_idx=event_idx, indirect=indirect)


@pytest.mark.parametrize("indirect", [False, True])
def test_a_chain_arrives_as_it_was_made(memory: GuestMemory, indirect: bool) -> None:
    guest, queue = pair(memory, indirect=indirect)
    assert queue.pop() is None
    head = guest.add([b"abc", b"defg"], [5, 6])
    chain = queue.pop()
    assert chain is not None
    assert chain.head == head
    assert [bytes(view) for view in chain.readable] == [b"abc", b"defg"]
    assert (chain.readable_bytes, chain.writable_bytes) == (7, 11)
    assert chain.fill(b"0123456") == 7
    queue.push(chain.head, 7)
    assert guest.collect() == []
    assert queue.publish()
    assert guest.collect() == [(head, 7, [b"01234", b"56"])]
    assert queue.pop() is None


@pytest.mark.parametrize("event_idx", [False, True])
def test_indices_wrap(memory: GuestMemory, event_idx: bool) -> None:
    guest, queue = pair(memory, 4, event_idx=event_idx)
    for number in range(70_000):
        guest.add([b"x"])
        chain = queue.pop()
        assert chain is not None
        queue.push(chain.head, 0)
        assert queue.publish()
        assert len(guest.collect()) == 1, number
    assert queue.describe() == {"size": 4, "taken": 70_000 % 65536, "held": 0}


def test_take_crosses_buffers(memory: GuestMemory) -> None:
    guest, queue = pair(memory)
    guest.add([b"ab", b"c", b"defgh"], [1])
    chain = queue.pop()
    assert chain is not None
    assert chain.take(4) == b"abcd"
    assert chain.readable_bytes == 4
    assert chain.take(4) == b"efgh"
    assert chain.take(4) == b""


def test_the_last_writable_byte(memory: GuestMemory) -> None:
    guest, queue = pair(memory)
    guest.add([], [4, 3])
    chain = queue.pop()
    assert chain is not None
    status = chain.take_last_writable()
    assert status is not None
    status[0] = 9
    assert [len(view) for view in chain.writable] == [4, 2]
    assert chain.writable_bytes == 6
    queue.push(chain.head, 7)
    queue.publish()
    assert guest.collect()[0][2] == [b"\0" * 4, b"\0\0\x09"]


def test_split() -> None:
    views = [memoryview(b"abc"), memoryview(b"de")]
    assert [bytes(view) for view in split(views, 4)[0]] == [b"abc", b"d"]
    assert [bytes(view) for view in split(views, 4)[1]] == [b"e"]
    assert split(views, 0) == ([], views)
    assert split(views, 9) == (views, [])


def test_interrupts_follow_the_flag(memory: GuestMemory) -> None:
    guest, queue = pair(memory)
    guest.add([b"x"])
    guest.mute()
    queue.push(queue.pop().head, 0)  # type: ignore[union-attr]
    assert not queue.publish()
    guest.mute(False)
    guest.add([b"x"])
    assert not queue.publish()
    queue.push(queue.pop().head, 0)  # type: ignore[union-attr]
    assert queue.publish()


def test_interrupts_follow_the_event_index(memory: GuestMemory) -> None:
    guest, queue = pair(memory, event_idx=True)
    guest.ask_interrupt(2)
    asked = []
    for _ in range(4):
        guest.add([b"x"])
        queue.push(queue.pop().head, 0)  # type: ignore[union-attr]
        asked.append(queue.publish())
    assert asked == [False, False, True, False]


def test_kicks_follow_the_flag(memory: GuestMemory) -> None:
    guest, queue = pair(memory)
    queue.disable_kicks()
    assert not guest.wants_kick()
    guest.add([b"x"])
    assert queue.enable_kicks()
    assert guest.wants_kick()
    queue.pop()
    assert not queue.enable_kicks()


def test_kicks_follow_the_event_index(memory: GuestMemory) -> None:
    guest, queue = pair(memory, event_idx=True)
    guest.add([b"x"])
    assert guest.wants_kick()
    queue.pop()
    guest.add([b"x"])
    assert not guest.wants_kick()
    assert queue.enable_kicks()
    queue.pop()
    assert not queue.enable_kicks()
    guest.add([b"x"])
    assert guest.wants_kick()


def test_direct_descriptors_may_end_in_a_table(memory: GuestMemory) -> None:
    guest, queue = pair(memory, indirect=True)
    table = BUFFERS_AT + 0x1000
    guest.poke(0, BUFFERS_AT, 4, NEXT, 1)
    guest.poke(1, table, 32, INDIRECT | WRITE)
    for at, following in ((0, 1), (1, 0)):
        memory.store_u64(table + 16 * at, BUFFERS_AT + 64 * at)
        memory.store_u32(table + 16 * at + 8, 8)
        memory.store_u16(table + 16 * at + 12, WRITE | (NEXT if following else 0))
        memory.store_u16(table + 16 * at + 14, following)
    guest.offer(0)
    chain = queue.pop()
    assert chain is not None
    assert (chain.readable_bytes, chain.writable_bytes, len(chain.writable)) == (4, 16, 2)


GOOD = BUFFERS_AT
Rows = list[tuple[int, int, int, int]]
BROKEN: dict[str, tuple[Rows, str]] = {
    "outside": ([(1 << 40, 16, 0, 0)], "not memory"),
    "past the end": ([(8 * MIB - 8, 16, 0, 0)], "not memory"),
    "wraps": ([((1 << 64) - 8, 16, 0, 0)], "not memory"),
    "in the hole": ([(0xD0000000, 16, 0, 0)], "not memory"),
    "empty": ([(GOOD, 0, 0, 0)], "empty"),
    "readable after writable": ([(GOOD, 8, WRITE | NEXT, 1), (GOOD, 8, 0, 0)], "after a writable"),
    "loop of one": ([(GOOD, 8, NEXT, 0)], "goes on"),
    "loop of two": ([(GOOD, 8, NEXT, 1), (GOOD, 8, NEXT, 0)], "goes on"),
    "next outside": ([(GOOD, 8, NEXT, 8)], "goes on at 8"),
    "table that goes on": ([(GOOD, 16, INDIRECT | NEXT, 1)], "goes on or is nested"),
    "table outside": ([(1 << 40, 16, INDIRECT, 0)], "not memory"),
    "table of half a descriptor": ([(GOOD, 24, INDIRECT, 0)], "table of 24"),
    "empty table": ([(GOOD, 0, INDIRECT, 0)], "table of 0"),
    "huge table": ([(0, 16 * 1025, INDIRECT, 0)], "table of"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_bad_chain_breaks_the_queue(memory: GuestMemory, name: str) -> None:
    rows, reason = BROKEN[name]
    guest, queue = pair(memory, indirect=True)
    for index, row in enumerate(rows):
        guest.poke(index, *row)
    guest.offer(0)
    with pytest.raises(QueueBroken, match=reason):
        queue.pop()


def test_a_chain_has_a_largest_size(memory: GuestMemory) -> None:
    guest, queue = pair(memory, 16)
    for index in range(16):
        guest.poke(index, 0, 8 * MIB, NEXT if index < 15 else 0, index + 1)
    guest.offer(0)
    with pytest.raises(QueueBroken, match="bytes in a chain"):
        queue.pop()


def test_indirect_needs_the_feature(memory: GuestMemory) -> None:
    guest, queue = pair(memory)
    guest.poke(0, GOOD, 16, INDIRECT)
    guest.offer(0)
    with pytest.raises(QueueBroken, match="without the feature"):
        queue.pop()


def test_nested_tables_and_loops_in_tables_break(memory: GuestMemory) -> None:
    for flags, reason in ((INDIRECT, "nested"), (NEXT, "goes on")):
        guest, queue = pair(memory, indirect=True)
        guest.poke(0, GOOD, 16, INDIRECT)
        memory.write(GOOD, queues._DESCRIPTOR.pack(GOOD, 16, flags, 0))
        guest.offer(0)
        with pytest.raises(QueueBroken, match=reason):
            queue.pop()


def test_heads_and_indices_are_checked(memory: GuestMemory) -> None:
    guest, queue = pair(memory)
    guest.offer(8)
    with pytest.raises(QueueBroken, match="head 8"):
        queue.pop()
    guest, queue = pair(memory)
    memory.store_u16(guest.place.avail + 2, 9)
    with pytest.raises(QueueBroken, match="9 ahead"):
        queue.pop()
    memory.store_u16(guest.place.avail + 2, 0xFFFF)
    with pytest.raises(QueueBroken, match="ahead"):
        queue.pop()


@pytest.mark.parametrize(
    "place",
    [
        QueuePlace(0, 0x1000, 0x2000, 0x3000),
        QueuePlace(3, 0x1000, 0x2000, 0x3000),
        QueuePlace(65536, 0x100000, 0x2000, 0x3000),
        QueuePlace(8, 0x1008, 0x2000, 0x3000),
        QueuePlace(8, 0x1000, 0x2001, 0x3000),
        QueuePlace(8, 0x1000, 0x2000, 0x3002),
        QueuePlace(8, 8 * MIB - 16, 0x2000, 0x3000),
        QueuePlace(8, 0x1000, 1 << 63, 0x3000),
        QueuePlace(8, 0x1000, 0x2000, 8 * MIB - 64),
    ],
)
def test_a_misplaced_queue_is_refused(memory: GuestMemory, place: QueuePlace) -> None:
    with pytest.raises(QueueBroken):
        Virtqueue(memory, place)


def test_areas_may_overlap_and_only_the_guest_suffers(memory: GuestMemory) -> None:
    queue = Virtqueue(memory, QueuePlace(8, 0x1000, 0x1000, 0x1000))
    memory.store_u16(0x1002, 1)
    try:
        chain = queue.pop()
    except QueueBroken:
        return
    assert chain is not None
    queue.push(chain.head, 0)
    queue.publish()
