"""`python -m bench.vmm` inside the emulated machine: our monitor beside QEMU's machines, taking turns.

Started by `make bench BENCH=vmm` (bench/nested.py). Prints the rows and leaves them in $BIREME_RESULTS/vmm.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench import machines
from bench.api import Api
from bench.measure import Ratio, Series, ratio
from bench.phases import Phases
from bench.subject import pss_without_kib
from bench.vmms import SUBJECTS, Ours, Qemu, Setup, mount_qemu
from bireme.image.kernelfile import extract_vmlinux, parse_kernel
from tests.guest.image import cpio_entry, module_order

KERNELS = Path("/opt/kernels")
MODULES = ("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_net")
SOURCE = Path(__file__).with_name("guest.c")
DISK_BYTES = 64 << 20
NET_BYTES = 24 << 20
RUN_S = 300.0
TAP = "bench0"
Subject = Ours | Qemu


class Line(NamedTuple):
    """One figure of one subject; `ratio` is ours divided by this one's, pair by pair."""

    case: str
    subject: str
    unit: str
    median: float
    low: float
    high: float
    ratio: str = ""


class Run(NamedTuple):
    """Milliseconds since the start of the process by event, and the guest's figures by name."""

    at_ms: dict[str, float]
    values: dict[str, float]


def make_files(directory: Path, flavour: str) -> tuple[Path, Path]:
    """The unpacked kernel and the initial RAM disk with our measuring process and its modules; made once."""
    program, kernel, initrd = (directory / name for name in ("guest", f"vmlinux-{flavour}", f"initrd-{flavour}"))
    if initrd.exists():
        return kernel, initrd
    subprocess.run(["gcc", "-O2", "-static", "-s", "-o", program, SOURCE], check=True)
    packed = (KERNELS / flavour / "vmlinuz").read_bytes()
    kernel.write_bytes(extract_vmlinux(packed, parse_kernel(packed)))
    modules = (KERNELS / flavour / "modules").resolve()
    order = module_order(modules, MODULES)
    members = [cpio_entry(name, 0o040755) for name in ("dev", "modules")]
    members += [cpio_entry("init", 0o100755, program.read_bytes())]
    members += [cpio_entry(f"modules/{Path(path).name}", 0o100644, (modules / path).read_bytes()) for path in order]
    members += [cpio_entry("modules/order", 0o100644, "".join(f"{Path(path).name}\n" for path in order).encode())]
    initrd.write_bytes(b"".join([*members, cpio_entry("TRAILER!!!", 0)]))
    return kernel, initrd


class Machine:
    """A running monitor whose guest reports on its console."""

    def __init__(self, subject: Subject, setup: Setup) -> None:
        self.begin = time.monotonic()
        self.process = subprocess.Popen(
            subject.argv(setup), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._timer = threading.Timer(RUN_S, self.process.kill)
        self._timer.start()
        self.said: list[str] = []

    def lines(self) -> Iterator[tuple[str, float, float]]:
        """(name, value, milliseconds since the start) as the guest says them."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            at_ms = (time.monotonic() - self.begin) * 1e3
            text = line.decode(errors="replace").strip()
            self.said.append(text)
            if text.startswith("@") and len(words := text[1:].split()) == 2:
                yield words[0], float(words[1]), at_ms

    def run(self) -> Run:
        """Until it ends by itself; RuntimeError with its output when the guest never got so far."""
        found = {name: (value, at_ms) for name, value, at_ms in self.lines()}
        self.process.wait()
        self._timer.cancel()
        if "done" not in found:
            raise RuntimeError("\n".join(self.said[-30:]) or f"exit code {self.process.returncode}")
        return Run({name: at for name, (_, at) in found.items()}, {name: value for name, (value, _) in found.items()})

    def stop(self) -> None:
        self._timer.cancel()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def show(line: Line) -> None:
    spread = f"{line.low:.0f}-{line.high:.0f}" if line.high else ""
    print(f"{line.case:34} {line.subject:8} {line.median:12.1f} {line.unit:8} {spread:18} {line.ratio}", flush=True)


def compare(case: str, unit: str, taken: dict[str, list[float]]) -> Iterator[Line]:
    """Rows of one case, ours first."""
    mine = Series(taken[Ours.name])
    for name, values in taken.items():
        series = Series(values)
        beside = "" if name == Ours.name else f"bireme/{name} = {_ratio(mine, series)}"
        yield Line(case, name, unit, series.median, series.quantile(0.25), series.quantile(0.95), beside)


def _ratio(mine: Series, other: Series) -> Ratio | str:
    return ratio(mine, other) if all(other.values) else "-"


def take_turns(
    turns: int, measure: Callable[[Subject], dict[str, float]], subjects: tuple[Subject, ...] = SUBJECTS
) -> dict[str, dict[str, list[float]]]:
    """figure -> subject -> values; with three turns or more a first one is not counted."""
    taken: dict[str, dict[str, list[float]]] = {}
    for turn in range(-1 if turns > 2 else 0, turns):
        for subject in subjects:
            begin = time.monotonic()
            figures = measure(subject)
            print(f"  turn {turn}: {subject.name}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
            for name, value in figures.items():
                if turn >= 0:
                    taken.setdefault(name, {}).setdefault(subject.name, []).append(value)
    return taken


def boot(setup: Setup, turns: int) -> Iterator[Line]:
    """From the start of the process to a guest's process, and to the end of the monitor."""
    phases = Phases()

    def measure(subject: Subject) -> dict[str, float]:
        phases.begin()
        machine = Machine(subject, setup)
        run = machine.run()
        ended = (time.monotonic() - machine.begin) * 1e3
        seen = {name: (at - machine.begin) * 1e3 for name, at in phases.read().items()}
        return {
            "vm made": seen["made"],
            "guest entered": seen["entered"],
            "first process": run.at_ms["hello"],
            "modules loaded": run.at_ms["ready"],
            "entered to first process": run.at_ms["hello"] - seen["entered"],
            "monitor gone": ended,
        }

    for name, values in take_turns(turns, measure).items():
        yield from compare(f"boot: {name}", "ms", values)


def api(setup: Setup, turns: int) -> Iterator[Line]:
    """From the start of a machine over the API to its image's process; QEMU's to the guest's first process, which is
    earlier by the root file system, the agent's greeting and the process."""
    with machines.engine() as engine:
        client = Api(engine.socket)

        def measure(subject: Subject) -> dict[str, float]:
            if isinstance(subject, Ours):
                return {"ms": machines.start_ms(client)}
            return {"ms": Machine(subject, setup).run().at_ms["hello"]}

        yield from compare("API start to the process", "ms", take_turns(turns, measure)["ms"])
        for count in (1, 4):
            mib = machines.memory_mib(engine, count)
            yield Line(f"beyond the guest's, each of {count} of the engine", Ours.name, "MiB", mib, 0, 0)


def exits(setup: Setup, turns: int) -> Iterator[Line]:
    """A port read that user space answers, alone and beside a saturated disk."""
    taken = take_turns(turns, lambda subject: _figures(Machine(subject, setup).run(), "exit_"))
    for part in ("p50", "p99"):
        for when in ("idle", "loaded"):
            yield from compare(f"exit {part}, {when}", "us", _scaled(taken[f"exit_{part}_{when}"], 1e-3))
    loaded, idle = taken["exit_p99_loaded"], taken["exit_p99_idle"]
    yield from compare(
        "exit p99, loaded to idle",
        "times",
        {name: [a / b for a, b in zip(loaded[name], idle[name], strict=True)] for name in loaded},
    )


def block(setup: Setup, turns: int) -> Iterator[Line]:
    taken = take_turns(turns, lambda subject: _figures(Machine(subject, setup).run(), "block_"))
    yield from compare("block read, 128 KiB", "MiB/s", _scaled(taken["block_read_KiB_per_s"], 1 / 1024))
    yield from compare("block write, 128 KiB", "MiB/s", _scaled(taken["block_write_KiB_per_s"], 1 / 1024))
    yield from compare("block random reads, 8 readers", "/s", taken["block_random_reads_per_s"])
    yield from compare("block one random read", "us", _scaled(taken["block_one_read_ns"], 1e-3))


def _figures(run: Run, prefix: str) -> dict[str, float]:
    return {name: value for name, value in run.values.items() if name.startswith(prefix)}


def _scaled(values: dict[str, list[float]], factor: float) -> dict[str, list[float]]:
    return {name: [value * factor for value in row] for name, row in values.items()}


def make_tap() -> None:
    for text in (f"tuntap add {TAP} mode tap", f"addr add 10.77.0.1/24 dev {TAP}", f"link set {TAP} up"):
        subprocess.run(["ip", *text.split()], check=True)


def net(setup: Setup, turns: int) -> Iterator[Line]:
    """One TCP connection in each direction over the TAP; the host counts and times."""
    taken = take_turns(turns, lambda subject: _net_once(subject, setup))
    yield from compare("net from the guest", "MiB/s", taken["out"])
    yield from compare("net to the guest", "MiB/s", taken["in"])


def _net_once(subject: Subject, setup: Setup) -> dict[str, float]:
    rates: dict[str, float] = {}
    listeners = [socket.create_server(("10.77.0.1", port)) for port in (5001, 5002)]
    thread = threading.Thread(target=_serve_net, args=(listeners, rates), daemon=True)
    thread.start()
    Machine(subject, setup).run()
    thread.join(10)
    for listener in listeners:
        listener.close()
    return rates


def _serve_net(listeners: list[socket.socket], rates: dict[str, float]) -> None:
    block = bytearray(1 << 20)
    peer = listeners[0].accept()[0]
    begin, count = time.monotonic(), 0
    while count < NET_BYTES:
        count += peer.recv_into(block)
    rates["out"] = count / (time.monotonic() - begin) / (1 << 20)
    peer.close()
    peer = listeners[1].accept()[0]
    begin = time.monotonic()
    for _ in range(NET_BYTES >> 20):
        peer.sendall(block)
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)
    rates["in"] = NET_BYTES / (time.monotonic() - begin) / (1 << 20)
    peer.close()


def memory(setup: Setup, turns: int) -> Iterator[Line]:
    """An idle machine with a disk and an interface: what the monitor's processes hold beyond guest memory."""
    taken = take_turns(turns, lambda subject: _memory_once(subject, setup))
    yield from compare("memory beyond the guest's", "MiB", taken["beyond the guest's"])
    yield from compare("processes", "", taken["processes"])


def _memory_once(subject: Subject, setup: Setup) -> dict[str, float]:
    machine = Machine(subject, setup)
    try:
        if not any(name == "ready" for name, _, _ in machine.lines()):
            raise RuntimeError("\n".join(machine.said[-30:]))
        time.sleep(3)
        pids = tree(machine.process.pid)
        return {
            "beyond the guest's": sum(pss_without_kib(pid, subject.guest_memory) for pid in pids) / 1024,
            "processes": float(len(pids)),
        }
    finally:
        machine.stop()


def tree(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


CASES: dict[str, tuple[Callable[[Setup, int], Iterator[Line]], str, int]] = {
    "boot": (boot, "boot", 5),
    "api": (api, "boot", 3),
    "exits": (exits, "exits", 3),
    "memory": (memory, "idle", 2),
    "block": (block, "block", 3),
    "net": (net, "net", 3),
}
"""What measures, the guest's work, turns."""


NEEDS_KERNEL = {"exits": "generic"}
"""Cases that one of the kernels cannot do: Debian's cloud kernel has no /dev/port."""


def setup_of(work: str, kernel: Path, initrd: Path, disk: Path) -> Setup:
    setup = Setup(kernel, initrd, work)
    if work in ("exits", "block", "idle"):
        setup = setup._replace(disk=disk)
    if work in ("net", "idle"):
        setup = setup._replace(tap=TAP)
    return setup


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench vmm", description="our monitor beside QEMU's machines")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)} (all)")
    parser.add_argument("--turns", type=int, default=0, help="turns of each subject (the case's own number)")
    parser.add_argument("--kernel", choices=["cloud", "generic"], default="cloud", help="Debian's kernel (cloud)")
    options = parser.parse_args(arguments)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as name:
        directory = Path(name)
        mount_qemu(directory)
        disk = directory / "disk"
        disk.write_bytes(os.urandom(1 << 20) * (DISK_BYTES >> 20))
        make_tap()
        for case in options.cases or CASES:
            measure, work, turns = CASES[case]
            kernel, initrd = make_files(directory, NEEDS_KERNEL.get(case, options.kernel))
            try:
                for line in measure(setup_of(work, kernel, initrd, disk), options.turns or turns):
                    lines.append(line)
                    show(line)
            except (RuntimeError, KeyError) as error:
                print(f"{case}: failed: {error}", flush=True)
    (Path(os.environ["BIREME_RESULTS"]) / "vmm.json").write_text(json.dumps([line._asdict() for line in lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
