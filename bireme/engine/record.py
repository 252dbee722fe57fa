"""The engine's record of one instance: the committed definition, the run state, and who waits for it."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from bireme.instance.driver import Endpoint, ExitStatus, PortMapping, RootFilesystem
from bireme.instance.spec import InstanceId, InstanceSpec
from bireme.instance.state import Status

WaitCondition = Literal["not-running", "next-exit", "removed"]


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a health check: `exit_code` is -1 when it could not be run or took too long."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the health check found: `failing` probes in a row, the last few in `log`."""

    status: Literal["starting", "healthy", "unhealthy"] = "starting"
    failing: int = 0
    log: tuple[Probe, ...] = ()


class RunState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What changes while an instance lives; stored after each change, without fsync."""

    status: Status = Status.CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at_ns: int = 0
    finished_at_ns: int = 0
    restart_count: int = 0
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    settled: bool = True
    stopped_by_hand: bool = False
    """A user ended it, or tried to: `unless-stopped` leaves it alone until a user starts it."""
    health: Health | None = None


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """What create commits."""

    spec: InstanceSpec
    root: RootFilesystem


class Instance:
    """One container or machine. Fields are read by anyone, written by engine/ alone."""

    __slots__ = (
        "busy",
        "created_at_ns",
        "definition",
        "directory",
        "etc_directory",
        "exit_waiters",
        "id",
        "lock",
        "name",
        "remove_waiters",
        "removing_quietly",
        "state",
        "stop_requested",
    )

    def __init__(
        self, identity: InstanceId, name: str, definition: Definition, created_at_ns: int, directory: str
    ) -> None:
        self.id = identity
        self.name = name
        self.definition = definition
        self.created_at_ns = created_at_ns
        self.directory = directory
        self.etc_directory = directory
        self.state = RunState()
        self.lock: asyncio.Lock | None = None
        self.exit_waiters: list[asyncio.Future[ExitStatus]] | None = None
        self.remove_waiters: list[asyncio.Future[ExitStatus]] | None = None
        self.removing_quietly = False
        self.stop_requested = False
        self.busy = 0

    @property
    def spec(self) -> InstanceSpec:
        return self.definition.spec

    @property
    def image(self) -> str:
        return self.definition.spec.image

    @property
    def status(self) -> Status:
        return self.state.status

    @property
    def running(self) -> bool:
        return self.state.status in (Status.RUNNING, Status.PAUSED)

    @property
    def active(self) -> bool:
        """Running as Docker means it: it has a process, or will have one again without anybody's doing."""
        return self.state.status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING)

    @property
    def pid(self) -> int:
        return self.state.pid

    @property
    def exit_code(self) -> int:
        return self.state.exit_code

    @property
    def error(self) -> str:
        return self.state.error

    @property
    def oom_killed(self) -> bool:
        return self.state.oom_killed

    @property
    def started_at_ns(self) -> int:
        return self.state.started_at_ns

    @property
    def finished_at_ns(self) -> int:
        return self.state.finished_at_ns

    @property
    def restart_count(self) -> int:
        return self.state.restart_count

    @property
    def health(self) -> Health | None:
        """None without a health check."""
        return self.state.health

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self.state.endpoints

    @property
    def ports(self) -> tuple[PortMapping, ...]:
        return self.state.ports

    @property
    def driver_name(self) -> str:
        return self.definition.spec.isolation

    @property
    def log_path(self) -> str:
        """Where the instance's output goes; empty when nothing is kept."""
        driver = self.spec.log.driver
        if driver == "none":
            return ""
        return f"{self.directory}/{self.id}-json.log" if driver == "json-file" else f"{self.directory}/local.log"

    @property
    def hostname(self) -> str:
        return self.spec.hostname or self.id[:12]

    def exit_status(self) -> ExitStatus:
        """The last exit as the waiters see it."""
        state = self.state
        return ExitStatus(code=state.exit_code, oom_killed=state.oom_killed, finished_at_ns=state.finished_at_ns)

    def locked(self) -> asyncio.Lock:
        """The lock under which verbs change this instance; made on first use."""
        if self.lock is None:
            self.lock = asyncio.Lock()
        return self.lock

    def wait(self, condition: WaitCondition) -> asyncio.Future[ExitStatus]:
        """A future for the condition, registered at once."""
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        if condition == "not-running" and not self.active:
            future.set_result(self.exit_status())
        elif condition == "removed":
            self.remove_waiters = [*(self.remove_waiters or ()), future]
        else:
            self.exit_waiters = [*(self.exit_waiters or ()), future]
        return future

    def forget_waiter(self, future: asyncio.Future[ExitStatus]) -> None:
        """Drop a waiter whose client is gone."""
        future.cancel()
        if self.exit_waiters and future in self.exit_waiters:
            self.exit_waiters.remove(future)
        if self.remove_waiters and future in self.remove_waiters:
            self.remove_waiters.remove(future)

    def release_exit_waiters(self) -> None:
        _resolve(self.exit_waiters, self.exit_status())
        self.exit_waiters = None

    def release_remove_waiters(self) -> None:
        self.release_exit_waiters()
        _resolve(self.remove_waiters, self.exit_status())
        self.remove_waiters = None


def _resolve(waiters: list[asyncio.Future[ExitStatus]] | None, status: ExitStatus) -> None:
    for future in waiters or ():
        if not future.done():
            future.set_result(status)
