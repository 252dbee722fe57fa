"""What the engine asks of whoever runs instances: one small Protocol, and abilities a driver may add.

A driver gets resolved values (`Placement`) and looks nothing up. Having an ability is implementing its Protocol: the
engine asks `isinstance(driver, Exec)` and answers "not supported" otherwise. Every implementation, the in-memory fake
included, passes tests/suites/driver.py. Nothing here knows of namespaces, cgroups or kernels.

Errors: bireme.errors kinds. `NotFound` for an id the driver does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from bireme.errors import Invalid
from bireme.instance.spec import ExecId, InstanceId, InstanceSpec, Mount, ProcessSpec


class RootFilesystem(msgspec.Struct, frozen=True, kw_only=True):
    """Layers of the root, topmost first, and the writable part (a snapshotter's words, no mount made yet)."""

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    image_id: str = ""
    layers: tuple[str, ...] = ()
    """Committed directories that make up the root below `upper`, topmost first: a machine's disks are made of them."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One network interface of an instance. Addresses are text, `prefix_len` bits."""

    network: str
    interface: str = "eth0"
    bridge: str = ""
    address: str = ""
    prefix_len: int = 0
    gateway: str = ""
    mac: str = ""
    mtu: int = 1500


class PortMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A published port as it is in force."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a driver needs to start an instance, resolved. `directory` is the instance's own on the host."""

    id: InstanceId
    name: str
    spec: InstanceSpec
    root: RootFilesystem
    directory: str
    hostname: str
    endpoints: tuple[Endpoint, ...] = ()
    network_mode: str = "none"
    """"none", "host", "bridge", or "container:ID"."""
    log_path: str = ""
    files: tuple[tuple[str, str], ...] = ()
    """(host file, path inside): hosts, hostname, resolv.conf."""


class ExitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended: `code` is the exit code, or 128 + signal."""

    code: int
    signal: int = 0
    oom_killed: bool = False
    finished_at_ns: int = 0
    error: str = ""


class RootView(msgspec.Struct, frozen=True, kw_only=True):
    """How others than the instance get at its files (storage/files.py does). The caller closes `descriptors`."""

    root: RootFilesystem
    """With what the driver puts below the image."""
    mounts: tuple[Mount, ...]
    read_only: bool
    descriptors: tuple[int, ...] = ()
    """Of an instance that runs: where its first process sees its files, and whose rights count there."""


class Started(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    started_at_ns: int


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver still knows of an instance after an engine restart."""

    id: InstanceId
    running: bool
    pid: int = 0
    started_at_ns: int = 0
    paused: bool = False
    exit: ExitStatus | None = None


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Descriptors the caller now owns; -1 where there is none. With a terminal, `console` is read and written."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1
    console: int = -1


class ExecStarted(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    streams: Streams


class Stat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reading of an instance's counters; times in nanoseconds, sizes in bytes."""

    read_at_ns: int
    cpu_total_ns: int = 0
    cpu_user_ns: int = 0
    cpu_system_ns: int = 0
    cpu_throttled_periods: int = 0
    cpu_periods: int = 0
    cpu_throttled_ns: int = 0
    memory_bytes: int = 0
    memory_limit_bytes: int = 0
    memory_max_bytes: int = 0
    memory_stat: dict[str, int] = {}
    pids: int = 0
    pids_limit: int = 0
    block: dict[str, dict[str, int]] = {}
    networks: dict[str, dict[str, int]] = {}


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One process of an instance as the host sees it."""

    pid: int
    ppid: int
    uid: int
    command: str
    started_at_ns: int = 0
    cpu_ns: int = 0
    terminal: str = ""


class StartError(Invalid):
    """The first process could not be executed; `exit_code` is what a shell would say (126, 127, 128)."""

    def __init__(self, message: str, exit_code: int, *, subject: str = "", place: str = "", hint: str = "") -> None:
        super().__init__(message, subject=subject, place=place, hint=hint)
        self.exit_code = exit_code


OnExit = Callable[[InstanceId, ExitStatus], None]


@runtime_checkable
class Driver(Protocol):
    """The verbs every driver has. All are coroutines; none blocks the event loop."""

    @property
    def name(self) -> str:
        """The isolation this driver offers, as in InstanceSpec.isolation."""
        ...

    async def create(self, placement: Placement) -> None:
        """Check that this spec can run here and prepare what is cheap; raises Invalid or Unsupported."""
        ...

    async def start(self, placement: Placement) -> Started:
        """Run it; returns once the process executes (or raises NotFound/Denied/Invalid for a bad command)."""
        ...

    async def signal(self, instance: InstanceId, number: int) -> None:
        """Send a signal to the first process; Conflict when it does not run."""
        ...

    def watch(self, on_exit: OnExit) -> None:
        """Register the engine's callback: called in the event loop once per start, when the first process has ended
        and its output is in the log; called again after `adopt` for exits that were never settled."""
        ...

    async def settle(self, instance: InstanceId) -> None:
        """The engine has stored the exit it was told of; the driver may forget it."""
        ...

    async def delete(self, instance: InstanceId) -> None:
        """Forget an instance that does not run; tear-down may go on after the answer. Idempotent."""
        ...

    async def adopt(self) -> list[Adopted]:
        """Everything this driver still holds, for an engine that just started."""
        ...


@runtime_checkable
class Exec(Protocol):
    async def exec(
        self, instance: InstanceId, spec: InstanceSpec, exec_id: ExecId, process: ProcessSpec, stdin: bool
    ) -> ExecStarted:
        """Run one more process inside, with the rights `spec` gives; its streams belong to the caller. Errors as
        `Driver.start`."""
        ...

    async def exec_wait(self, exec_id: ExecId) -> ExitStatus: ...

    async def exec_detach(self, exec_id: ExecId, streams: Streams) -> None:
        """Take the streams back: the process goes on, what it writes is dropped."""
        ...

    async def exec_resize(self, exec_id: ExecId, rows: int, columns: int) -> None: ...

    async def exec_signal(self, exec_id: ExecId, number: int) -> None:
        """Send a signal to the process of an exec; Conflict when it does not run."""
        ...


@runtime_checkable
class Console(Protocol):
    async def attach(self, instance: InstanceId, *, stdout: bool, stderr: bool) -> int:
        """A descriptor that delivers all output from now on as stdcopy frames (raw with a terminal), then EOF at the
        end. May be called before start. A reader that stops reading stops the instance's writer, as a pipe does."""
        ...

    async def stdin(self, instance: InstanceId) -> int:
        """A descriptor that writes to the instance's stdin; Conflict when it was not opened."""
        ...

    async def close_stdin(self, instance: InstanceId) -> None:
        """Let the instance read EOF."""
        ...

    async def resize(self, instance: InstanceId, rows: int, columns: int) -> None: ...


@runtime_checkable
class Pause(Protocol):
    async def pause(self, instance: InstanceId) -> None: ...

    async def resume(self, instance: InstanceId) -> None: ...


@runtime_checkable
class Update(Protocol):
    async def update(self, instance: InstanceId, spec: InstanceSpec) -> None:
        """Apply the limits of `spec` to a running instance, all of them or none."""
        ...


@runtime_checkable
class Stats(Protocol):
    async def stats(self, instance: InstanceId) -> Stat: ...


@runtime_checkable
class Processes(Protocol):
    async def processes(self, instance: InstanceId) -> list[ProcessRow]: ...


@runtime_checkable
class Disk(Protocol):
    def disk_path(self, directory: str) -> str:
        """The file that is the writable disk of the instance in `directory`, made at its first start; a driver without
        this writes to the root's `upper`."""
        ...


@runtime_checkable
class Volumes(Protocol):
    @property
    def mounts_volumes(self) -> bool:
        """True: directories of the host can be mounted inside. Without this an image's VOLUME stays in the root."""
        ...


@runtime_checkable
class Files(Protocol):
    async def view(self, placement: Placement, *, running: bool) -> RootView:
        """Where its files are; Conflict when it was to be running and does not."""
        ...


@runtime_checkable
class Explain(Protocol):
    async def explain(self, instance: InstanceId) -> Mapping[str, Any]:
        """What the instance really is on this host, for people: a tree of JSON-able values."""
        ...
