"""A whole engine in memory for tests of the API: instances are plain processes of this machine.

No isolation, no disk, no database: what is real are the streams (pipes, pseudo-terminals), exits and events, so that
the docker CLI can run against it. Commands run as they are, found on the test's PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import secrets
import select
import signal as signals
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from bireme.engine.events import Event, Events
from bireme.engine.record import Definition, Health
from bireme.engine.signals import parse_signal
from bireme.engine.sizes import InstanceSize, LayerUse
from bireme.engine.system import HostFacts, Info, Version
from bireme.engine.tasks import TaskGroup
from bireme.errors import Conflict, NotFound, NotModified
from bireme.instance.driver import (
    Endpoint,
    ExitStatus,
    PortMapping,
    ProcessRow,
    RootFilesystem,
    StartError,
    Stat,
    Streams,
)
from bireme.instance.logs import LogQuery, LogRecord
from bireme.instance.spec import ExecId, InstanceId, InstanceSpec, Limits, ProcessSpec, RestartPolicy
from bireme.instance.state import Status, Verb, apply
from bireme.wire.stdcopy import frame

IMAGE_ID = "sha256:" + "ab" * 32


class FakeImage:
    def __init__(self, identity: str, references: list[str]) -> None:
        self.id = identity
        self.references = references
        self.repo_digests: list[str] = []
        self.created_at_ns = 1_700_000_000 * 10**9
        self.size_bytes = 4_000_000
        self.architecture = "amd64"
        self.os = "linux"
        self.diff_ids = ["sha256:" + "cd" * 32]
        self.document: dict[str, Any] = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"], "Labels": {"kind": "test"}},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        }


class FakeHistory(msgspec.Struct, frozen=True):
    id: str
    created: str
    created_by: str
    tags: tuple[str, ...] = ()
    size: int = 0
    comment: str = ""


class FakeInstance:
    def __init__(self, spec: InstanceSpec, name: str) -> None:
        self.id = InstanceId(secrets.token_hex(32))
        self.name = name
        self.definition = Definition(spec=spec, root=RootFilesystem(lower=("/lower",), upper="/upper", work="/work"))
        self.status = Status.CREATED
        self.pid = 0
        self.exit_code = 0
        self.error = ""
        self.oom_killed = False
        self.created_at_ns = time.time_ns()
        self.started_at_ns = 0
        self.finished_at_ns = 0
        self.restart_count = 0
        self.health: Health | None = None
        self.endpoints: tuple[Endpoint, ...] = ()
        self.ports: tuple[PortMapping, ...] = ()
        self.log_path = ""
        self.etc_directory = f"/nowhere/{self.id}"
        self.waiters: list[tuple[str, asyncio.Future[ExitStatus]]] = []
        self.records: list[LogRecord] = []
        self.grown = asyncio.Event()
        self.sinks: list[tuple[socket.socket, bool, bool]] = []
        self.stdin_w = -1
        self.console = -1
        self.size = (0, 0)
        self.process: asyncio.subprocess.Process | None = None

    @property
    def spec(self) -> InstanceSpec:
        return self.definition.spec

    @property
    def hostname(self) -> str:
        return self.spec.hostname or self.id[:12]

    @property
    def running(self) -> bool:
        return self.status in (Status.RUNNING, Status.PAUSED)

    @property
    def active(self) -> bool:
        return self.running or self.status is Status.RESTARTING

    def exit_status(self) -> ExitStatus:
        return ExitStatus(code=self.exit_code, finished_at_ns=self.finished_at_ns, error=self.error)

    def forget_waiter(self, future: asyncio.Future[ExitStatus]) -> None:
        self.waiters = [w for w in self.waiters if w[1] is not future]

    def release(self, *conditions: str) -> None:
        for condition, future in self.waiters:
            if condition in conditions and not future.done():
                future.set_result(self.exit_status())


class FakeInstances:
    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self.held: dict[str, FakeInstance] = {}

    def find(self, reference: str) -> FakeInstance:
        for instance in self.held.values():
            if reference.removeprefix("/") == instance.name or instance.id.startswith(reference):
                return instance
        raise NotFound(f"No such container: {reference}", subject=reference)

    def all(self) -> list[FakeInstance]:
        return sorted(self.held.values(), key=lambda i: i.created_at_ns, reverse=True)

    def wait(self, reference: str, condition: str = "not-running") -> asyncio.Future[ExitStatus]:
        instance = self.find(reference)
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        if condition == "not-running" and not instance.running:
            future.set_result(instance.exit_status())
        else:
            instance.waiters.append((condition, future))
        return future

    async def create(self, spec: InstanceSpec, name: str = "") -> tuple[InstanceId, list[str]]:
        image = self._services.images.find(spec.image)
        if any(i.name == name for i in self.held.values()):
            raise Conflict(f'Conflict. The container name "/{name}" is already in use')
        args = (*spec.entrypoint, *(spec.command or ("sh",)))
        process = msgspec.structs.replace(spec.process, args=args, working_dir=spec.process.working_dir or "/")
        spec = msgspec.structs.replace(spec, process=process, command=args, image_id=image.id)
        instance = FakeInstance(spec, name or f"fake_{len(self.held)}")
        self.held[instance.id] = instance
        self.publish(instance, "create")
        return instance.id, []

    async def start(self, reference: str) -> None:
        instance = self.find(reference)
        apply(instance.status, Verb.START, instance.id)
        try:
            await self._services.spawn(instance)
        except OSError as error:
            word = instance.spec.process.args[0]
            code, text = (
                (126, "permission denied")
                if isinstance(error, PermissionError)
                else (127, "executable file not found in $PATH")
            )
            instance.exit_code = code
            if instance.spec.auto_remove:
                self._forget(instance)
            raise StartError(f'exec: "{word}": {text}', code, subject=word) from error
        instance.status = Status.RUNNING
        instance.started_at_ns = time.time_ns()
        self.publish(instance, "start")

    def exited(self, instance: FakeInstance, code: int) -> None:
        instance.status = Status.EXITED
        instance.exit_code = 128 - code if code < 0 else code
        instance.finished_at_ns = time.time_ns()
        instance.grown.set()
        self.publish(instance, "die", exitCode=str(instance.exit_code))
        instance.release("not-running", "next-exit")
        if instance.spec.auto_remove:
            self._forget(instance)

    def _forget(self, instance: FakeInstance) -> None:
        self.held.pop(instance.id, None)
        for sink, *_ in instance.sinks:
            sink.close()
        instance.sinks.clear()
        self.publish(instance, "destroy")
        instance.release("removed", "not-running", "next-exit")

    async def stop(self, reference: str, timeout_s: int | None = None, signal: str | None = None) -> None:
        instance = self.find(reference)
        if not instance.running:
            raise NotModified("already stopped")
        gone = self.wait(reference, "not-running")
        self._kill(instance, parse_signal(signal or "SIGTERM"))
        try:
            await asyncio.wait_for(asyncio.shield(gone), 10 if timeout_s is None else timeout_s)
        except TimeoutError:
            self._kill(instance, 9)
            await gone
        self.publish(instance, "stop")

    async def restart(self, reference: str, timeout_s: int | None = None, signal: str | None = None) -> None:
        if self.find(reference).running:
            await self.stop(reference, timeout_s, signal)
        await self.start(reference)

    async def kill(self, reference: str, signal: str = "SIGKILL") -> None:
        instance = self.find(reference)
        number = parse_signal(signal)
        if not instance.running:
            raise Conflict(f"cannot kill container: {reference}: container {instance.id} is not running")
        self._kill(instance, number)
        self.publish(instance, "kill", signal=str(number))

    def _kill(self, instance: FakeInstance, number: int) -> None:
        if instance.process is not None and instance.process.returncode is None:
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    kill(instance.process.pid, number)
                    return

    async def pause(self, reference: str) -> None:
        instance = self.find(reference)
        instance.status = apply(instance.status, Verb.PAUSE, instance.id)

    async def resume(self, reference: str) -> None:
        instance = self.find(reference)
        instance.status = apply(instance.status, Verb.RESUME, instance.id)

    async def remove(self, reference: str, force: bool = False, volumes: bool = False) -> None:
        instance = self.find(reference)
        if instance.running and force:
            gone = self.wait(reference, "not-running")
            self._kill(instance, 9)
            await gone
        apply(instance.status, Verb.REMOVE, instance.id)
        self._forget(instance)

    async def rename(self, reference: str, name: str) -> None:
        self.find(reference).name = name

    async def update(self, reference: str, limits: Limits, restart: RestartPolicy | None) -> None:
        instance = self.find(reference)
        instance.definition = msgspec.structs.replace(
            instance.definition, spec=msgspec.structs.replace(instance.spec, limits=limits, restart=restart)
        )

    def publish(self, instance: FakeInstance, action: str, **more: str) -> None:
        attributes = {**instance.spec.labels, "image": instance.spec.image, "name": instance.name, **more}
        self._services.events.publish("container", action, instance.id, attributes)


class FakeConsoles:
    def __init__(self, services: FakeServices) -> None:
        self._services = services

    async def attach(self, reference: str, stdout: bool, stderr: bool) -> int:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._services.instances.find(reference).sinks.append((ours, stdout, stderr))
        return theirs.detach()

    async def stdin(self, reference: str) -> int:
        instance = self._services.instances.find(reference)
        if not instance.running or (instance.stdin_w < 0 and instance.console < 0):
            raise Conflict(f"container {instance.id} is not running")
        return os.dup(instance.console if instance.console >= 0 else instance.stdin_w)

    async def close_stdin(self, reference: str) -> None:
        instance = self._services.instances.find(reference)
        if instance.stdin_w >= 0:
            os.close(instance.stdin_w)
            instance.stdin_w = -1

    async def resize(self, reference: str, rows: int, columns: int) -> None:
        instance = self._services.instances.find(reference)
        if not instance.running:
            raise Conflict(f"container {instance.id} is not running")
        instance.size = (rows, columns)

    async def top(self, reference: str) -> list[ProcessRow]:
        instance = self._services.instances.find(reference)
        return [ProcessRow(pid=instance.pid, ppid=1, uid=0, command=" ".join(instance.spec.process.args))]

    async def stats(self, reference: str) -> Stat:
        if not self._services.instances.find(reference).running:
            return Stat(read_at_ns=0)
        return Stat(read_at_ns=time.time_ns(), cpu_total_ns=5, memory_bytes=4096, memory_limit_bytes=1 << 20, pids=1)

    async def explain(self, reference: str) -> Mapping[str, Any]:
        return {"id": self._services.instances.find(reference).id, "processes": []}


class FakeExec:
    def __init__(
        self, instance_id: InstanceId, process: ProcessSpec, flags: tuple[bool, bool, bool], keys: str
    ) -> None:
        self.id = ExecId(secrets.token_hex(32))
        self.instance_id = instance_id
        self.process = process
        self.stdin, self.stdout, self.stderr = flags
        self.detach_keys = keys
        self.running = False
        self.exit_code: int | None = None
        self.pid = 0
        self.size = (0, 0)
        self.ending: asyncio.Task[None] | None = None


class FakeExecs:
    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self.held: dict[str, FakeExec] = {}

    def create(
        self,
        reference: str,
        process: ProcessSpec,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        detach_keys: str = "",
    ) -> ExecId:
        instance = self._services.instances.find(reference)
        if not instance.running:
            raise Conflict(f"container {instance.id} is not running")
        record = FakeExec(instance.id, process, (stdin, stdout, stderr), detach_keys)
        self.held[record.id] = record
        return record.id

    def find(self, identity: str) -> FakeExec:
        if identity not in self.held:
            raise NotFound(f"No such exec instance: {identity}", subject=identity)
        return self.held[identity]

    def of(self, instance_id: str) -> list[str]:
        return [r.id for r in self.held.values() if r.instance_id == instance_id and r.running]

    async def start(self, identity: str, detach: bool = False) -> Streams | None:
        record = self.find(identity)
        stdin_r, stdin_w = os.pipe()
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        console, slave = pty.openpty() if record.process.terminal else (-1, -1)
        ends = (slave, slave, slave) if slave >= 0 else (stdin_r, out_w, err_w)
        try:
            process = await launch(record.process.args, *ends, terminal=slave >= 0)
        except OSError as error:
            record.exit_code = 127
            raise StartError(f'exec: "{record.process.args[0]}": executable file not found in $PATH', 127) from error
        finally:
            for fd in (stdin_r, out_w, err_w, *([slave] if slave >= 0 else [])):
                os.close(fd)
        record.running, record.pid = True, process.pid
        record.ending = self._services.tasks.spawn(self._finish(record, process), "exec")
        if slave >= 0 or detach:
            for fd in (stdin_w, out_r, err_r):
                os.close(fd)
            return None if detach else Streams(console=console)
        if not record.stdin:
            os.close(stdin_w)
            stdin_w = -1
        return Streams(stdin=stdin_w, stdout=out_r, stderr=err_r)

    async def _finish(self, record: FakeExec, process: asyncio.subprocess.Process) -> None:
        record.exit_code = await process.wait()
        record.running = False

    async def wait(self, identity: str) -> None:
        ending = self.find(identity).ending
        if ending is not None:
            await asyncio.wait([ending])

    async def resize(self, identity: str, rows: int, columns: int) -> None:
        self.find(identity).size = (rows, columns)


class FakeLogs:
    def __init__(self, services: FakeServices) -> None:
        self._services = services

    def read(self, reference: str, query: LogQuery) -> AsyncIterator[LogRecord]:
        return self._stream(self._services.instances.find(reference), query)

    async def _stream(self, instance: FakeInstance, query: LogQuery) -> AsyncIterator[LogRecord]:
        position = max(0, len(instance.records) - query.tail) if query.tail >= 0 else 0
        while True:
            instance.grown.clear()
            while position < len(instance.records):
                record = instance.records[position]
                position += 1
                if query.until_ns and record.time_ns > query.until_ns:
                    return
                if query.wants(record):
                    yield record
            if not query.follow or not instance.running:
                return
            await instance.grown.wait()


class FakeImages:
    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self.held = {IMAGE_ID: FakeImage(IMAGE_ID, ["busybox:latest"])}
        self.loaded: list[bytes] = []

    def find(self, reference: str) -> FakeImage:
        for image in self.held.values():
            if reference in image.references or f"{reference}:latest" in image.references:
                return image
            if len(reference) > 3 and image.id.removeprefix("sha256:").startswith(reference.removeprefix("sha256:")):
                return image
        shown = reference if ":" in reference else f"{reference}:latest"
        raise NotFound(f"No such image: {shown}", subject=reference)

    def all(self) -> list[FakeImage]:
        return list(self.held.values())

    def history(self, reference: str) -> list[FakeHistory]:
        return [FakeHistory(self.find(reference).id, "2026-01-02T03:04:05Z", "ADD rootfs", ("busybox:latest",), 7)]

    async def tag(self, reference: str, target: str) -> None:
        self.find(reference).references.append(target if ":" in target else f"{target}:latest")

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        image = self.find(reference)
        name = reference if ":" in reference else f"{reference}:latest"
        if name in image.references:
            image.references.remove(name)
            done = [("untagged", name)]
        else:
            done = []
        if not image.references or force:
            del self.held[image.id]
            done.append(("deleted", image.id))
        return done

    async def load(self, chunks: AsyncIterator[bytes], emit: Any) -> None:
        self.loaded = [chunk async for chunk in chunks]
        emit({"status": "Loading layer", "id": "abc", "progressDetail": {"current": 1, "total": 2}})
        emit({"stream": "Loaded image: busybox:latest\n"})

    async def save(self, references: Sequence[str]) -> AsyncIterator[bytes]:
        for reference in references:
            yield self.find(reference).id.encode()

    async def bootstrap(self, name: str, emit: Any) -> None:
        if name != "busybox":
            raise NotFound(f"nothing is known of {name}")
        emit({"status": "making busybox"})


class FakeSizes:
    def __init__(self, services: FakeServices) -> None:
        self._services = services

    async def of(self, references: Iterable[str]) -> dict[str, InstanceSize]:
        found = (self._services.instances.find(reference) for reference in references)
        return {instance.id: InstanceSize(1234, 4_001_234) for instance in found}

    async def directories(self, paths: Iterable[str]) -> list[int]:
        return [99 for _ in paths]

    def layers(self) -> LayerUse:
        return LayerUse(sum(i.size_bytes for i in self._services.images.all()), {})


class FakeBridge:
    name = "br-fake"
    gateway = "172.30.0.1"
    subnet = "172.30.0.0/16"
    mtu = 1500


class FakeNetworks:
    bridge: FakeBridge | None = FakeBridge()


class FakeVolume:
    def __init__(self, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> None:
        self.name = name
        self.path = f"/nowhere/volumes/{name}/_data"
        self.created_at_ns = 1_700_000_000_123_456_789
        self.options = options
        self.labels = labels


class FakeVolumes:
    """`used` are the names of those that some instance has."""

    def __init__(self) -> None:
        self.held: dict[str, FakeVolume] = {}
        self.used: set[str] = set()

    def find(self, name: str) -> FakeVolume:
        if name not in self.held:
            raise NotFound(f"get {name}: no such volume", subject=name)
        return self.held[name]

    def all(self) -> list[FakeVolume]:
        return [self.held[name] for name in sorted(self.held)]

    def users(self, name: str) -> list[str]:
        return [name] if name in self.used else []

    async def create(self, name: str, driver: str, options: Mapping[str, str], labels: Mapping[str, str]) -> FakeVolume:
        return self.held.setdefault(name or "random", FakeVolume(name or "random", options, labels))

    async def remove(self, name: str, force: bool = False) -> None:
        if name in self.held or not force:
            del self.held[self.find(name).name]

    async def prune(self, chosen: Any) -> tuple[list[str], int]:
        gone = [v.name for v in self.all() if chosen(v) and v.name not in self.used]
        for name in gone:
            del self.held[name]
        return gone, 7 * len(gone)

    def measure(self, volume: FakeVolume) -> int:
        return 7


class FakeSystem:
    def __init__(self, services: FakeServices) -> None:
        self._services = services
        self._host = HostFacts(
            cgroup_version=1, cgroup_driver="cgroupfs", seccomp=True, userns=True, kernel="6.0", operating_system="Test"
        )

    def version(self) -> Version:
        return Version(version="0.1.0", os="linux", architecture="amd64", kernel="6.0", python="3.11", started_at_ns=1)

    def info(self) -> Info:
        held = self._services.instances.all()
        running = sum(i.running for i in held)
        return Info(
            id="fake",
            name="host",
            version="0.1.0",
            containers=len(held),
            running=running,
            paused=0,
            stopped=len(held) - running,
            images=len(self._services.images.held),
            storage_driver="overlay",
            data_root="/nowhere",
            cpus=2,
            memory_bytes=1 << 30,
            host=self._host,
            isolations=("container",),
            system_time_ns=time.time_ns(),
        )


class FakeServices:
    """Fits bireme.api.docker.services.Services. Call `close` at the end: it kills what still runs."""

    def __init__(self) -> None:
        self.tasks = TaskGroup()
        self.events = Events()
        self.images = FakeImages(self)
        self.instances = FakeInstances(self)
        self.consoles = FakeConsoles(self)
        self.execs = FakeExecs(self)
        self.logs = FakeLogs(self)
        self.networks = FakeNetworks()
        self.held_volumes = FakeVolumes()
        self._sizes = FakeSizes(self)
        self.system = FakeSystem(self)

    def volumes(self) -> FakeVolumes:
        return self.held_volumes

    def sizes(self) -> FakeSizes:
        return self._sizes

    async def spawn(self, instance: FakeInstance) -> None:
        process = instance.spec.process
        outputs: list[tuple[int, int]] = []
        if process.terminal:
            instance.console, slave = pty.openpty()
            ends = [slave, slave, slave]
            outputs.append((1, instance.console))
        else:
            stdin_r, stdin_w = os.pipe()
            out_r, out_w = os.pipe()
            err_r, err_w = os.pipe()
            ends = [stdin_r, out_w, err_w]
            outputs += [(1, out_r), (2, err_r)]
            if instance.spec.open_stdin:
                instance.stdin_w = stdin_w
            else:
                os.close(stdin_w)
        try:
            instance.process = await launch(process.args, *ends, terminal=process.terminal)
        finally:
            for fd in set(ends):
                os.close(fd)
        instance.pid = instance.process.pid
        pumps = [self.tasks.spawn(self._pump(instance, stream, fd), "pump") for stream, fd in outputs]
        self.tasks.spawn(self._reap(instance, pumps), "reap")

    async def _pump(self, instance: FakeInstance, stream: int, fd: int) -> None:
        while data := await asyncio.to_thread(_read, fd):
            instance.records += [LogRecord(stream, time.time_ns(), line) for line in data.splitlines(keepends=True)]
            instance.grown.set()
            for sink, *wanted in instance.sinks:
                if wanted[stream - 1]:
                    shown = data if instance.spec.process.terminal else frame(stream, data)
                    try:
                        await asyncio.get_running_loop().sock_sendall(sink, shown)
                    except OSError:
                        pass
        if not instance.spec.process.terminal:
            os.close(fd)

    async def _reap(self, instance: FakeInstance, pumps: list[asyncio.Task[None]]) -> None:
        assert instance.process is not None
        code = await instance.process.wait()
        await asyncio.gather(*pumps)
        for sink, *_ in instance.sinks:
            sink.close()
        instance.sinks.clear()
        for fd in (instance.stdin_w, instance.console):
            if fd >= 0:
                os.close(fd)
        instance.stdin_w = instance.console = -1
        self.instances.exited(instance, code)

    async def close(self) -> None:
        for instance in self.instances.all():
            if instance.running:
                gone = self.instances.wait(instance.id, "not-running")
                self.instances._kill(instance, signals.SIGKILL)
                await gone
            for sink, *_ in instance.sinks:
                sink.close()
        for record in self.execs.held.values():
            if record.running:
                os.kill(record.pid, signals.SIGKILL)
        await self.tasks.close()


def _read(fd: int) -> bytes:
    """Some bytes, b"" at the end (EIO of a terminal); others may have made the descriptor non-blocking."""
    while True:
        try:
            return os.read(fd, 65536)
        except BlockingIOError:
            select.select([fd], [], [], 0.1)
        except OSError:
            return b""


async def launch(
    args: Sequence[str], stdin: int, stdout: int, stderr: int, *, terminal: bool
) -> asyncio.subprocess.Process:
    command = ["setsid", "-c", *args] if terminal else list(args)
    return await asyncio.create_subprocess_exec(
        *command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=not terminal
    )


__all__ = ["Event", "FakeServices"]
