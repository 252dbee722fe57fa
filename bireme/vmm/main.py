"""`bireme-vmm`: one machine from the command line, for learning, tests and measurements.

    bireme-vmm --kernel vmlinux --initrd initrd --append "..." --memory 512M --vcpus 2 --serial

No engine, no supervisor: devices that the engine's machines keep in processes of their own are the same here. The exit
status tells how the machine ended: 0 powered off or restarted, 255 anything else, and with --debug-exit the guest's own
number. SIGINT and SIGTERM stop it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING

from bireme.errors import BiremeError, Invalid
from bireme.vmm.boot.cmdline import compose_cmdline
from bireme.vmm.machine import Machine, MachineEnd
from bireme.vmm.plan import DEFAULT_MEMORY_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}


def parse_size(text: str) -> int:
    """Bytes from 512M, 1g, 65536; ArgumentTypeError for anything else."""
    match = re.fullmatch(r"(\d+)([kmg]?)(?:i?b)?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"not a size: {text}")
    return int(match[1]) << _UNITS[match[2]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bireme-vmm", description="Run one virtual machine.")
    parser.add_argument("--kernel", required=True, help="vmlinux or bzImage")
    parser.add_argument("--initrd", action="append", default=[], help="initial RAM disk; several are joined")
    parser.add_argument("--append", default="", help="added to the kernel command line")
    parser.add_argument("--cmdline", help="the whole kernel command line instead")
    parser.add_argument("--memory", type=parse_size, default=DEFAULT_MEMORY_BYTES, help="size, as 512M")
    parser.add_argument("--vcpus", type=int, default=1)
    parser.add_argument("--serial", action="store_true", help="a serial port to the standard output")
    parser.add_argument("--debug-exit", action="store_true", help="port 0xf4 ends the machine with a number")
    parser.add_argument("--timeout", type=float, help="stop after so many seconds")
    parser.add_argument("--explain", action="store_true", help="what happened inside, as JSON on the standard error")
    return parser.parse_args(arguments)


def exit_status(end: MachineEnd) -> int:
    if end.kind == "debug-exit":
        return end.code & 0xFF
    return 0 if end.kind in ("power-off", "reset") else 255


def _say(text: str) -> None:
    os.write(2, f"bireme-vmm: {text}\n".encode())


def _output(data: bytes) -> None:
    os.write(1, data)


def _build(options: argparse.Namespace) -> Machine:
    return Machine(
        options.memory,
        options.vcpus,
        serial=_output if options.serial else None,
        debug_exit=options.debug_exit,
    )


def run(options: argparse.Namespace) -> int:
    machine = _build(options)
    try:
        began = time.monotonic()
        cmdline = (
            options.cmdline if options.cmdline is not None else compose_cmdline(options.append, serial=options.serial)
        )
        machine.boot(options.kernel, options.initrd, cmdline)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: machine.end("stopped", "by a signal"))
        loaded = time.monotonic()
        machine.run()
        end = machine.wait(options.timeout) or machine.stop()
        ended = time.monotonic()
        if end.kind != "debug-exit":
            _say(f"{end.kind}: {end.detail}" if end.detail else end.kind)
        if options.explain:
            times = {"load_s": round(loaded - began, 3), "run_s": round(ended - loaded, 3)}
            _say(json.dumps(machine.describe() | times))
        return exit_status(end)
    finally:
        machine.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.memory % 4096:
            raise Invalid(f"memory of {options.memory} bytes is not a number of pages", subject="memory")
        return run(options)
    except BiremeError as error:
        _say(str(error))
        return 255


if __name__ == "__main__":
    sys.exit(main())
