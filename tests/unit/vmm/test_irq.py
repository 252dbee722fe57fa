"""Interrupt lines: which GSI a device gets, and pulses that never block."""

from __future__ import annotations

import os

from bireme.vmm.irq import IrqLines, make_eventfd, signal
from bireme.vmm.layout import GSI_SERIAL, GSIS_VIRTIO


def test_every_device_has_a_line_until_they_are_shared() -> None:
    lines = IrqLines()
    found = [lines.allocate() for _ in range(len(GSIS_VIRTIO) + 2)]
    assert tuple(found[: len(GSIS_VIRTIO)]) == GSIS_VIRTIO
    assert found[len(GSIS_VIRTIO) :] == list(GSIS_VIRTIO[:2])


def test_no_line_of_the_pcs_own() -> None:
    assert len(set(GSIS_VIRTIO)) == len(GSIS_VIRTIO)
    assert not {0, 1, 2, GSI_SERIAL, 8, 13} & set(GSIS_VIRTIO)


def test_a_pulse_on_a_full_counter_is_pending_already() -> None:
    eventfd = make_eventfd()
    os.write(eventfd, (2**64 - 2).to_bytes(8, "little"))
    signal(eventfd)
    assert int.from_bytes(os.read(eventfd, 8), "little") == 2**64 - 2
    os.close(eventfd)


def test_lines_own_their_eventfds() -> None:
    lines = IrqLines()
    first, second = lines.irqfd(5), lines.irqfd(5)
    assert lines.fds() == [first, second]
    lines.close()
    assert lines.fds() == []
