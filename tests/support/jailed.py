"""A function that runs as one of a machine's processes does: forked, jailed, its answer as JSON."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from bireme.linux.process import Exit, fork, status_to_exit
from bireme.vmm import jail
from bireme.vmm.virtio.device import DeviceId, VirtioDevice

UID = 2_000_012_345
KINDS = {DeviceId.BLOCK: "block", DeviceId.NET: "net", DeviceId.CONSOLE: "entropy", DeviceId.RNG: "entropy"}


def jail_of(device: VirtioDevice) -> Callable[[list[int]], None] | None:
    """What the device's process enters in a real machine; None where we are not root."""
    if os.geteuid() != 0 or device.device_id not in KINDS:
        return None
    return lambda keep: jail.enter(KINDS[device.device_id], UID, keep)


def jailed(
    kind: str, body: Callable[[], Any], keep: Sequence[int] = (), before: Callable[[int], object] | None = None
) -> tuple[Any, Exit]:
    """What `body` returned inside the jail (None when it was killed) and how the process ended.

    `before(pid)` runs in this process while the jailed one waits, jail shut.
    """
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    pid = fork()
    if pid == 0:
        try:
            _live(kind, body, writer, theirs, keep)
        finally:
            os._exit(1)
    os.close(writer)
    theirs.close()
    ours.recv(1)
    if before is not None:
        before(pid)
    ours.close()
    with open(reader, "rb") as file:
        data = file.read()
    ended = status_to_exit(pid, os.waitpid(pid, 0)[1])
    return (json.loads(data) if data else None), ended


def _live(kind: str, body: Callable[[], Any], writer: int, gate: socket.socket, keep: Sequence[int]) -> None:
    try:
        jail.enter(kind, UID, [writer, gate.fileno(), *keep])
        gate.send(b"!")
        gate.recv(1)
        answer = body()
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)
