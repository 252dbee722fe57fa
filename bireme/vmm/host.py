"""What a machine takes from the host before it leaves it: files, wires, sockets, and /dev/kvm.

Opened by main while it is still root in the host's namespaces. A stage that fails says its name, as the supervisor's
ctl and the report want it: kvm, kernel, disk, network, boot.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import BiremeError
from bireme.linux import fd as fdlib
from bireme.linux import netlink, tty
from bireme.linux.kvm import Kvm
from bireme.linux.netlink import RtNetlink
from bireme.linux.tun import open_tap
from bireme.vmm.virtio.block import open_disk
from bireme.vmm.workers import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bireme.vmm.plan import InterfacePlan, MachinePlan

_BACKLOG = 16


class StageFailed(Exception):
    """A machine that does not come up: at which stage, and why."""

    def __init__(self, stage: str, number: int, subject: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.number, self.subject, self.message = stage, number, subject, message


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Whatever fails in this block failed at that stage."""
    try:
        yield
    except StageFailed:
        raise
    except BiremeError as error:
        raise StageFailed(name, 0, error.subject, str(error)) from error
    except (OSError, WorkerLost) as error:
        number = error.errno or 0 if isinstance(error, OSError) else 0
        raise StageFailed(name, number, name, str(error)) from error


class Files(NamedTuple):
    """What was opened while there was a host to open it from."""

    kvm: Kvm
    kernel: int
    initrds: tuple[int, ...]
    disks: tuple[int, ...]
    taps: tuple[int, ...]
    control: socket.socket
    stdio: tuple[int, ...]


def open_files(plan: MachinePlan, stdio: Sequence[int], console: Callable[[int], None]) -> Files:
    """Everything the plan names; `console` gets the master of the pty of a process with a terminal. StageFailed."""
    with stage("kvm"):
        kvm = Kvm()
    with stage("kernel"):
        kernel = open_file(plan["kernel"]["path"])
        initrds = tuple(open_file(path) for path in plan["initrd"])
    with stage("disk"):
        disks = tuple(open_disk(disk["path"], disk["read_only"]) for disk in plan["disks"])
    with stage("network"):
        taps = tuple(make_tap(interface) for interface in plan["interfaces"])
    with stage("boot"):
        control = fdlib.seqpacket_listener(plan["control_path"], _BACKLOG)
        control.setblocking(False)
        streams = _terminal(plan, console) if plan["guest"]["process"]["terminal"] else tuple(stdio)
    return Files(kvm, kernel, initrds, disks, taps, control, streams)


def _terminal(plan: MachinePlan, console: Callable[[int], None]) -> tuple[int, ...]:
    process = plan["guest"]["process"]
    terminal = tty.open_terminal("/dev/ptmx")
    tty.set_size(terminal.master, process["rows"], process["columns"])
    console(terminal.master)
    os.close(terminal.master)
    return (terminal.slave,)


def open_report(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def open_file(path: str) -> int:
    """OSError that names the file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StageFailed("kernel", error.errno or 0, path, f"{path}: {(error.strerror or '').lower()}") from error


def make_tap(interface: InterfacePlan) -> int:
    """The wire of a new TAP, up and on its bridge. It is gone when the last descriptor is closed."""
    wire = open_tap(interface["tap"])
    try:
        with RtNetlink() as rtnetlink:
            changes = [netlink.set_link(interface["tap"], mtu=interface["mtu"])]
            if interface["bridge"]:
                bridge = rtnetlink.link(interface["bridge"])
                if bridge is None:
                    raise StageFailed("network", 0, interface["bridge"], f"no bridge {interface['bridge']}")
                changes.append(netlink.set_link(interface["tap"], master=bridge.ifindex))
                changes.append(netlink.bridge_port(interface["tap"], hairpin=True))
            rtnetlink.batch([*changes, netlink.link_up(interface["tap"])])
    except BaseException:
        fdlib.close_quietly(wire)
        raise
    return wire
