"""POST /containers/{id}/attach and /exec/{id}/start: sessions from descriptors of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from bireme.api.docker.descriptors import Sink, Source
from bireme.api.docker.detach import KeyWatcher, parse_keys
from bireme.api.docker.iterators import close
from bireme.api.docker.parameters import flag
from bireme.api.docker.services import Exec, Instance, Services
from bireme.api.docker.session import Connected, Input, Output, Session, close_all
from bireme.api.http.message import MULTIPLEXED_STREAM, RAW_STREAM, Hijack, Request
from bireme.api.http.raw import RawStream
from bireme.errors import BiremeError, Conflict
from bireme.instance.driver import Streams
from bireme.instance.logs import LogQuery, LogRecord
from bireme.instance.state import Status
from bireme.wire.stdcopy import STDERR, STDOUT, frame

MULTIPLEXED_SINCE = 42
"""From this version on the content type tells frames from raw bytes."""


def content_type(terminal: bool, version: int) -> bytes:
    return RAW_STREAM if terminal or version < MULTIPLEXED_SINCE else MULTIPLEXED_STREAM


class Streamed(NamedTuple):
    """Which streams the client wants."""

    stdin: bool
    stdout: bool
    stderr: bool


class Joined:
    """A client joined to an instance: `run` serves it on its connection."""

    def __init__(
        self, services: Services, instance: Instance, session: Session, history: AsyncIterator[bytes] | None
    ) -> None:
        self._services = services
        self._instance = instance
        self._history = history
        self.session = session
        self.terminal = instance.spec.process.terminal

    async def run(self, raw: Connected) -> None:
        await self.session.run(raw, self._history)
        if self.session.detached:
            instance = self._instance
            attributes = {**instance.spec.labels, "image": instance.spec.image, "name": instance.name}
            self._services.events.publish("container", "detach", instance.id, attributes)


async def attach(services: Services, request: Request) -> Hijack:
    """Join the client to an instance, which need not run yet: attach, then start, loses nothing."""
    wanted = Streamed(flag(request, "stdin"), flag(request, "stdout"), flag(request, "stderr"))
    joined = await join(services, request, wanted)
    return Hijack(joined.run, joined.session.leave, content_type(joined.terminal, request.version))


async def join(services: Services, request: Request, wanted: Streamed, *, half_close: bool = True) -> Joined:
    """What the request asks for, ready to run. `half_close`: the client can end its input and go on reading."""
    keys = parse_keys(request.value("detachKeys"))
    instance = services.instances.find(request.params[0])
    if instance.status is Status.PAUSED:
        raise Conflict(f"container {request.params[0]} is paused, unpause the container before attach")
    if instance.status is Status.RESTARTING:
        raise Conflict(f"Container {request.params[0]} is restarting, wait until the container is running")
    spec = instance.spec
    terminal = spec.process.terminal
    stdout, stderr = wanted.stdout, wanted.stderr
    streaming = flag(request, "stream")
    history = _history(services, instance, stdout, stderr) if flag(request, "logs") else None
    outputs: list[Output] = []
    if streaming and (stdout or stderr):
        fd = await services.consoles.attach(instance.id, stdout, stderr)
        outputs.append(Output(Source(fd), None))
    given = None
    if streaming and wanted.stdin and spec.open_stdin:
        given = _instance_input(services, instance, KeyWatcher(keys) if terminal else None)
    ends_with_input = terminal or not spec.stdin_once or not half_close
    session = Session(services.tasks, outputs, given, ends_with_input=ends_with_input)
    return Joined(services, instance, session, history)


def _instance_input(services: Services, instance: Instance, keys: KeyWatcher | None) -> Input:
    async def open_sink() -> Sink | None:
        if not await _runs(services, instance):
            return None
        try:
            return Sink(await services.consoles.stdin(instance.id))
        except BiremeError:
            return None

    async def at_end() -> None:
        if instance.spec.stdin_once and not instance.spec.process.terminal:
            try:
                await services.consoles.close_stdin(instance.id)
            except BiremeError:
                pass

    return Input(open_sink, at_end, keys)


async def _runs(services: Services, instance: Instance) -> bool:
    """Wait until the instance runs; False when it never will."""
    if instance.running:
        return True
    events = services.events.subscribe()
    try:
        async for event in events:
            if event.type != "container" or event.id != instance.id:
                continue
            if event.action == "start" or instance.running:
                return True
            if event.action in ("die", "destroy"):
                return False
    finally:
        await close(events)
    return False


def _history(services: Services, instance: Instance, stdout: bool, stderr: bool) -> AsyncIterator[bytes]:
    """The log up to now; raises at once when there is none to read."""
    query = LogQuery(stdout=stdout, stderr=stderr, until_ns=time.time_ns())
    return _shown(services.logs.read(instance.id, query), instance.spec.process.terminal)


async def _shown(records: AsyncIterator[LogRecord], terminal: bool) -> AsyncIterator[bytes]:
    try:
        async for record in records:
            yield record.data if terminal else frame(record.stream, record.data)
    finally:
        await close(records)


def start_exec(services: Services, request: Request, record: Exec, terminal: bool, size: tuple[int, int]) -> Hijack:
    """Run an exec with its streams on this connection.

    The connection is taken over first: clients that read the head with a buffer (docker-py) would lose output that
    comes together with it. So a command that cannot be executed is told in its output, as dockerd does; its exit code
    says the rest.
    """
    _check_runs(services, record)

    async def run(raw: RawStream) -> None:
        try:
            streams = await services.execs.start(record.id, detach=False)
        except BiremeError as error:
            complaint = f"{error}\r\n".encode()
            await raw.send(complaint if terminal else frame(STDOUT, complaint))
            return
        assert streams is not None
        session = _exec_session(services, record, streams, terminal)
        if size != (0, 0):
            with contextlib.suppress(BiremeError):
                await services.execs.resize(record.id, *size)
        await session.run(raw)
        if not raw.gone and not session.detached:
            await services.execs.wait(record.id)

    def discard() -> None:
        """The client went before it was connected; what it asked for still runs."""
        services.tasks.spawn(services.execs.start(record.id, detach=True), "exec without client")

    return Hijack(run, discard, content_type(terminal, request.version))


def _check_runs(services: Services, record: Exec) -> None:
    instance = services.instances.find(record.instance_id)
    if instance.status is Status.PAUSED:
        raise Conflict(f"Container {instance.id} is paused, unpause the container before exec", subject=instance.id)
    if instance.status is Status.RESTARTING:
        raise Conflict(f"Container {instance.id} is restarting, wait until the container is running")
    if not instance.running:
        raise Conflict(f"container {instance.id} is not running", subject=instance.id)


def _exec_session(services: Services, record: Exec, streams: Streams, terminal: bool) -> Session:
    outputs: list[Output] = []
    stdin = streams.stdin
    if streams.console >= 0:
        stdin = os.dup(streams.console)
        outputs.append(Output(Source(streams.console), None if terminal else STDOUT))
    else:
        for fd, stream, wanted in ((streams.stdout, STDOUT, record.stdout), (streams.stderr, STDERR, record.stderr)):
            if fd >= 0:
                outputs.append(Output(Source(fd), None if terminal else stream, muted=not wanted))
    given = None
    if record.stdin and stdin >= 0:
        keys = KeyWatcher(parse_keys(record.detach_keys)) if streams.console >= 0 else None
        given = Input(_opened(Sink(stdin)), _nothing, keys)
    else:
        close_all([stdin])
    return Session(services.tasks, outputs, given, outlived=True)


def _opened(sink: Sink) -> Callable[[], asyncio.Future[Sink | None]]:
    def open_sink() -> asyncio.Future[Sink | None]:
        future: asyncio.Future[Sink | None] = asyncio.get_running_loop().create_future()
        future.set_result(sink)
        return future

    return open_sink


async def _nothing() -> None:
    return
