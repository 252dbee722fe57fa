"""vCPU threads: a thread per virtual processor that runs the guest and serves its exits, nothing else.

    KVM_RUN  --->  guest runs, without the GIL
             <---  exit: port access, register access, end
    bus      --->  the device's read or write, under the GIL
             again

Stopping a vCPU that may be deep inside the guest takes two things: the immediate_exit flag in its kvm_run page, and a
signal to its thread. Whatever moment the thread is in, its next KVM_RUN finishes the access in hand and comes back with
EINTR, and only there does the thread look at what is wanted of it. So the hot path has no check of its own, and
nothing that a guest does can keep it from being paused or stopped.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Protocol

from bireme.linux.kvm import ExitReason, uapi

if TYPE_CHECKING:
    from collections.abc import Callable

    from bireme.linux.kvm import Vcpu
    from bireme.vmm.bus import Bus

KICK = signal.SIGRTMIN + 1
_EXIT = uapi.EXIT_OFFSET
_unpack_io = uapi.run_io.unpack_from
_unpack_mmio = uapi.run_mmio.unpack_from
_MMIO_DATA = _EXIT + uapi.kvm_run_mmio.offset("data")
_REASONS = 64
_NAMES = {int(reason): reason.name.removeprefix("KVM_EXIT_").lower() for reason in ExitReason}
_SYSTEM_EVENTS = {1: "power-off", 2: "reset", 3: "guest-crash"}
_SUBERRORS = {1: "an instruction cannot be emulated", 2: "exits at once, again and again", 3: "delivery of an event"}


class Control(Protocol):
    """What a vCPU thread needs of its machine."""

    def park(self, vcpu: VcpuThread) -> bool:
        """Wait as long as the machine is paused; False when the thread shall end."""
        ...

    def end(self, kind: str, detail: str = "", code: int = 0) -> None: ...


def install_kick() -> None:
    """The signal that brings a thread out of KVM_RUN: its handler does nothing, arriving is all. Main thread only."""
    signal.signal(KICK, _arrived)


def _arrived(signum: int, frame: object) -> None:
    return


class VcpuThread:
    """One vCPU and its thread. `exits` counts by exit reason; its own thread alone writes it."""

    def __init__(self, index: int, vcpu: Vcpu, pio: Bus, mmio: Bus, control: Control) -> None:
        self.index = index
        self.vcpu = vcpu
        self.parked = False
        self.exits = [0] * _REASONS
        self._pio = pio
        self._mmio = mmio
        self._control = control
        self._thread = threading.Thread(target=self._main, name=f"vcpu{index}", daemon=True)
        self._handlers: dict[int, Callable[[], Any]] = {
            ExitReason.KVM_EXIT_IO: self._io,
            ExitReason.KVM_EXIT_MMIO: self._memory,
            ExitReason.KVM_EXIT_SHUTDOWN: self._shutdown,
            ExitReason.KVM_EXIT_SYSTEM_EVENT: self._system_event,
            ExitReason.KVM_EXIT_FAIL_ENTRY: self._fail_entry,
            ExitReason.KVM_EXIT_INTERNAL_ERROR: self._internal_error,
            ExitReason.KVM_EXIT_HLT: self._halt,
        }

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def kick(self) -> None:
        """Make the thread come to `park`, from wherever it is."""
        self.vcpu.request_exit()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            try:
                signal.pthread_kill(self._thread.ident or 0, KICK)
            except ProcessLookupError:
                return

    def join(self) -> None:
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def describe(self) -> dict[str, Any]:
        exits = {_NAMES.get(reason, str(reason)): count for reason, count in enumerate(self.exits) if count}
        return {"index": self.index, "exits": exits, "paused": self.parked}

    def _main(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals() - {KICK})
        try:
            if self._control.park(self):
                self._loop()
        except Exception as error:
            # The boundary of everything a guest can cause: it costs the guest its machine, with the reason kept.
            self._control.end("vmm-error", f"vcpu {self.index}: {type(error).__name__}: {error}")

    def _loop(self) -> None:
        enter, exits, handlers = self.vcpu.enter, self.exits, self._handlers
        interrupted = int(ExitReason.KVM_EXIT_INTR)
        while True:
            reason = enter()
            exits[reason] += 1
            handler = handlers.get(reason)
            if handler is not None:
                handler()
            elif reason != interrupted:
                self._control.end("kvm-error", f"vcpu {self.index}: exit {_NAMES.get(reason, reason)}")
            elif not self._control.park(self):
                return

    def _io(self) -> None:
        page = self.vcpu.run_page
        is_write, size, port, count, start = _unpack_io(page, _EXIT)
        for at in range(start, start + size * count, size):
            if is_write:
                self._pio.write(port, size, int.from_bytes(page[at : at + size], "little"))
            else:
                page[at : at + size] = self._pio.read(port, size).to_bytes(size, "little")

    def _memory(self) -> None:
        page = self.vcpu.run_page
        address, data, size, is_write = _unpack_mmio(page, _EXIT)
        if is_write:
            self._mmio.write(address, size, int.from_bytes(data[:size], "little"))
        else:
            page[_MMIO_DATA : _MMIO_DATA + size] = self._mmio.read(address, size).to_bytes(size, "little")

    def _shutdown(self) -> None:
        self._control.end("triple-fault", f"vcpu {self.index}: the guest faulted while handling a double fault")

    def _halt(self) -> None:
        self._control.end("halt", f"vcpu {self.index}: halted without an interrupt controller")

    def _system_event(self) -> None:
        kind = uapi.kvm_run_event.unpack(self.vcpu.run_page, _EXIT)["type"]
        self._control.end(_SYSTEM_EVENTS.get(kind, "kvm-error"), f"vcpu {self.index}: system event {kind}")

    def _fail_entry(self) -> None:
        reason = uapi.kvm_run_fail.unpack(self.vcpu.run_page, _EXIT)["hardware_entry_failure_reason"]
        self._control.end("kvm-error", f"vcpu {self.index}: the processor refused to enter the guest: {reason:#x}")

    def _internal_error(self) -> None:
        suberror = int.from_bytes(self.vcpu.run_page[_EXIT : _EXIT + 4], "little")
        place = self.vcpu.regs()["rip"]
        what = _SUBERRORS.get(suberror, f"internal error {suberror}")
        self._control.end("kvm-error", f"vcpu {self.index} at {place:#x}: {what}")
