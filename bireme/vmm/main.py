"""`bireme-vmm`: one machine from the command line, for learning, tests and measurements.

    bireme-vmm --kernel vmlinux --initrd initrd --append "..." --memory 512M --vcpus 2 --serial \\
               --disk image.raw,ro --tap tap0

No engine and no supervisor, and no jail unless --jail; the machine and its device processes are the engine's. The exit
status tells how it ended: 0 powered off or restarted, 255 anything else, and with --debug-exit the guest's own number.
SIGINT and SIGTERM stop it; with --serial the terminal is the guest's, and Ctrl-] stops it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import BiremeError, Invalid, Unavailable
from bireme.linux.kvm import Kvm
from bireme.linux.poll import Loop
from bireme.linux.tun import open_tap
from bireme.vmm import jail
from bireme.vmm.assembly import Assembly
from bireme.vmm.boot.cmdline import compose_cmdline
from bireme.vmm.layout import PAGE
from bireme.vmm.machine import Machine, MachineEnd
from bireme.vmm.plan import DEFAULT_MEMORY_BYTES
from bireme.vmm.typist import Typist
from bireme.vmm.virtio.block import BlockPath, block_device, open_disk
from bireme.vmm.virtio.console import ConsolePath, console_device
from bireme.vmm.virtio.net import NetPath, net_device
from bireme.vmm.virtio.rng import RngPath, rng_device
from bireme.vmm.workers import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "bireme-vmm"
FAILED = 255
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}
_GUEST_MAC = "52:54:00:00:00:{:02x}"


class DiskOption(NamedTuple):
    path: str
    read_only: bool


def parse_size(text: str) -> int:
    """Bytes from 512M, 1g, 65536; ArgumentTypeError for anything else."""
    match = re.fullmatch(r"(\d+)([kmg]?)(?:i?b)?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"not a size: {text}")
    return int(match[1]) << _UNITS[match[2]]


def parse_disk(text: str) -> DiskOption:
    """FILE or FILE,ro"""
    path, comma, option = text.rpartition(",")
    return DiskOption(path, True) if comma and option == "ro" else DiskOption(text, False)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(PROGRAM, description="Run one virtual machine.")
    add = parser.add_argument
    add("--kernel", required=True, help="vmlinux or bzImage")
    add("--initrd", action="append", default=[], help="initial RAM disk; several are joined")
    add("--append", default="", help="added to the kernel command line")
    add("--cmdline", help="the whole kernel command line instead")
    add("--memory", type=parse_size, default=DEFAULT_MEMORY_BYTES, help="size, as 512M")
    add("--vcpus", type=int, default=1)
    add("--disk", action="append", default=[], type=parse_disk, metavar="FILE[,ro]", help="a disk image: /dev/vda...")
    add("--tap", action="append", default=[], metavar="NAME", help="a network interface on this TAP device")
    add("--rng", action="store_true", help="a random number generator")
    add("--serial", action="store_true", help="a serial port on standard input and output")
    add("--jail", type=int, metavar="UID", help="jail every process as this user (needs root)")
    add("--debug-exit", action="store_true", help="port 0xf4 ends the machine with a number")
    add("--timeout", type=float, help="stop after so many seconds")
    add("--explain", action="store_true", help="what happened inside, as JSON on the standard error")
    return parser.parse_args(arguments)


def exit_status(end: MachineEnd) -> int:
    if end.kind == "debug-exit":
        return end.code & 0xFF
    return 0 if end.kind in ("power-off", "reset") else FAILED


def _say(text: str) -> None:
    os.write(2, f"{PROGRAM}: {text}\n".encode())


def _output(data: bytes) -> None:
    os.write(1, data)


class Program:
    """The machine that the options describe."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loop = Loop()
        self.machine = Machine(
            options.memory,
            options.vcpus,
            serial=_output if options.serial else None,
            debug_exit=options.debug_exit,
        )
        self.assembly = Assembly(self.machine, self._jail_of)
        self.typist = Typist(self.loop, self.machine) if options.serial else None

    def _jail_of(self, kind: str) -> Callable[[list[int]], None] | None:
        uid = self.options.jail
        return None if uid is None else lambda keep: jail.enter(kind, uid, keep)

    def _add_devices(self) -> None:
        options = self.options
        self.assembly.add(
            "block",
            [
                block_device(BlockPath(f"disk{n}", open_disk(disk.path, disk.read_only), read_only=disk.read_only))
                for n, disk in enumerate(options.disk)
            ],
        )
        interfaces = [
            net_device(NetPath(f"net{n}", open_tap(name), mac=_GUEST_MAC.format(n)))
            for n, name in enumerate(options.tap)
        ]
        rare = [rng_device(RngPath())] if options.rng else []
        self.assembly.add_network(interfaces, [*rare, console_device(ConsolePath())] if rare else [])

    def boot(self) -> None:
        """Everything up to the first instruction."""
        options = self.options
        self._add_devices()
        kvm = Kvm()
        self.assembly.start()
        self.machine.create(kvm)
        cmdline = options.cmdline
        if cmdline is None:
            cmdline = compose_cmdline(options.append, serial=options.serial)
        self.machine.boot(options.kernel, options.initrd, cmdline)
        self.assembly.wait_ready()
        if options.jail is not None:
            keep = [0, 1, 2, *self.machine.fds(), *self.assembly.fds(), self.loop.fileno()]
            jail.enter("vmm", options.jail, keep)

    def run(self) -> MachineEnd:
        self.assembly.watch(self.loop)
        self.loop.add(self.machine.end_fd, lambda _mask: self.loop.stop())
        if self.options.timeout is not None:
            self.loop.call_later(self.options.timeout, lambda: self.machine.end("stopped", "time is up"))
        self.machine.run()
        self.loop.run()
        end = self.machine.wait()
        assert end is not None
        return end


def run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    program = Program(options)
    machine = program.machine
    try:
        program.boot()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: machine.end("stopped", "by a signal"))
        loaded = time.monotonic()
        end = program.run()
        times = {"load_s": round(loaded - began, 3), "run_s": round(time.monotonic() - loaded, 3)}
        if end.kind != "debug-exit":
            _say(f"{end.kind}: {end.detail}" if end.detail else end.kind)
        if options.explain:
            _say(json.dumps(program.assembly.describe() | times))
        return exit_status(end)
    finally:
        if program.typist is not None:
            program.typist.close()
        program.assembly.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.memory % PAGE:
            raise Invalid(f"memory of {options.memory} bytes is not a number of pages", subject="memory")
        return run(options)
    except WorkerLost as lost:
        error: BiremeError = Unavailable(str(lost))
    except OSError as problem:
        error = Unavailable(str(problem))
    except BiremeError as problem:
        error = problem
    _say(str(error))
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
