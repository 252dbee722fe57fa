"""/containers: create, list, inspect, the verbs, wait, attach, logs, stats, top, update, prune."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

from bireme.api.docker import attach as attaching
from bireme.api.docker import listing, mounts, parameters
from bireme.api.docker.answers import NO_CONTENT, OK_EMPTY, encode, json
from bireme.api.docker.bodies import CreateRequest, UpdateRequest
from bireme.api.docker.decode import MAX_BODY_BYTES, check_content_type, decode, read_body
from bireme.api.docker.filters import read_filters
from bireme.api.docker.inspect import instance_document
from bireme.api.docker.logs import log_stream
from bireme.api.docker.parameters import flag, integer
from bireme.api.docker.platforms import check_platform
from bireme.api.docker.policies import updated_restart
from bireme.api.docker.resources import updated_limits
from bireme.api.docker.services import Instance, Services, WaitCondition
from bireme.api.docker.stats import stats
from bireme.api.docker.times import parse_timestamp
from bireme.api.docker.top import process_table
from bireme.api.docker.translate import spec_of
from bireme.api.http.message import Answer, Deferred, Request, Response, Stream
from bireme.api.http.router import Router
from bireme.errors import BiremeError, Conflict, Invalid, NotFound, Unsupported
from bireme.instance.driver import ExitStatus

SIGNAL_SINCE = 42
EARLY_HEAD_SINCE = 30
_CONDITIONS: dict[str, WaitCondition] = {
    "": "not-running",
    "not-running": "not-running",
    "next-exit": "next-exit",
    "removed": "removed",
}


class Containers:
    """Handlers over the engine's instances."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._instances = services.instances
        self._storage = ""
        self._rows = listing.RowCache()

    def register(self, router: Router) -> None:
        one = "/containers/{id}"
        router.add("GET", "/containers/json", self.index)
        router.add("POST", "/containers/create", self.create)
        router.add("POST", "/containers/prune", self.prune)
        router.add("GET", one + "/json", self.inspect)
        router.add("POST", one + "/start", self.start)
        router.add("POST", one + "/stop", self.stop)
        router.add("POST", one + "/restart", self.restart)
        router.add("POST", one + "/kill", self.kill)
        router.add("POST", one + "/pause", self.pause)
        router.add("POST", one + "/unpause", self.unpause)
        router.add("POST", one + "/rename", self.rename)
        router.add("POST", one + "/update", self.update)
        router.add("POST", one + "/wait", self.wait, interruptible=True)
        router.add("POST", one + "/attach", self.attach)
        router.add("GET", one + "/attach/ws", self.attach_websocket)
        router.add("POST", one + "/resize", self.resize)
        router.add("GET", one + "/logs", self.logs, interruptible=True)
        router.add("GET", one + "/stats", self.stats, interruptible=True)
        router.add("GET", one + "/top", self.top)
        router.add("DELETE", one, self.remove)

    def _find(self, request: Request) -> Instance:
        return self._instances.find(request.params[0])

    # create, list, inspect

    async def create(self, request: Request) -> Answer:
        data = await request.body.read(MAX_BODY_BYTES)
        check_content_type(request, empty=not data)
        body = decode(data, CreateRequest)
        spec, warnings = spec_of(body, request.version)
        check_platform(self._services.images, spec.image, request.value("platform"))
        if spec.mounts:
            mounts.make_sources(body.HostConfig)
        identity, more = await self._instances.create(spec, request.value("name"))
        return json({"Id": identity, "Warnings": [*more, *warnings]}, 201)

    def index(self, request: Request) -> Answer | Awaitable[Answer]:
        filters = read_filters(request)
        limit = integer(request, "limit") or 0
        instances = self._instances.all()
        self._rows.trim(len(instances))
        chosen = listing.select(instances, filters, self._services.images, everything=flag(request, "all"), limit=limit)
        if flag(request, "size"):
            return self._index_sized(list(chosen), request.version)
        lister = listing.Lister(self._services.images, request.version, self._rows)
        return Response(200, lister.encode(chosen) + b"\n")

    async def _index_sized(self, chosen: list[Instance], version: int) -> Answer:
        sizes = await self._services.sizes().of(i.id for i in chosen)
        lister = listing.Lister(self._services.images, version, self._rows, sizes)
        return Response(200, lister.encode(i for i in chosen if i.id in sizes) + b"\n")

    def inspect(self, request: Request) -> Answer | Awaitable[Answer]:
        instance = self._find(request)
        if not self._storage:
            self._storage = self._services.system.info().storage_driver
        execs = self._services.execs.of(instance.id)
        shown = instance_document(instance, execs, self._storage, request.version)
        if flag(request, "size"):
            return self._with_size(instance, shown)
        return json(shown)

    async def _with_size(self, instance: Instance, shown: dict[str, object]) -> Answer:
        size = (await self._services.sizes().of([instance.id])).get(instance.id)
        if size is None:
            raise NotFound(f"No such container: {instance.name}", subject=instance.name)
        return json({**shown, "SizeRw": size.written, "SizeRootFs": size.whole})

    # verbs

    async def start(self, request: Request) -> Answer:
        if request.body.length > 7 or request.body.length < 0:
            raise Invalid(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
            )
        if request.value("checkpoint"):
            raise Unsupported("checkpoints are not supported yet")
        await self._instances.start(request.params[0])
        return NO_CONTENT

    def stop(self, request: Request) -> Awaitable[Answer]:
        signal = request.value("signal") if request.version >= SIGNAL_SINCE else ""
        return _done(self._instances.stop(request.params[0], integer(request, "t"), signal or None))

    def restart(self, request: Request) -> Awaitable[Answer]:
        signal = request.value("signal") if request.version >= SIGNAL_SINCE else ""
        return _done(self._instances.restart(request.params[0], integer(request, "t"), signal or None))

    async def kill(self, request: Request) -> Answer:
        name = request.params[0]
        try:
            await self._instances.kill(name, request.value("signal") or "SIGKILL")
        except BiremeError as error:
            if not error.message.startswith("cannot kill"):
                error.message = f"cannot kill container: {name}: {error.message}"
            raise
        return NO_CONTENT

    def pause(self, request: Request) -> Awaitable[Answer]:
        return _done(self._instances.pause(request.params[0]))

    def unpause(self, request: Request) -> Awaitable[Answer]:
        return _done(self._instances.resume(request.params[0]))

    def rename(self, request: Request) -> Awaitable[Answer]:
        return _done(self._instances.rename(request.params[0], request.value("name")))

    async def remove(self, request: Request) -> Answer:
        if flag(request, "link"):
            raise Unsupported("links are not supported")
        await self._instances.remove(request.params[0], flag(request, "force"), flag(request, "v"))
        return NO_CONTENT

    async def update(self, request: Request) -> Answer:
        instance = self._find(request)
        body = await read_body(request, UpdateRequest)
        limits = updated_limits(instance.spec.limits, body)
        restart = updated_restart(instance.spec, body.RestartPolicy)
        await self._instances.update(instance.id, limits, restart)
        return json({"Warnings": []})

    async def prune(self, request: Request) -> Answer:
        filters = read_filters(request)
        filters.check(("label", "label!", "until"))
        until_ns = _until(filters.get("until"))
        deleted: list[str] = []
        for instance in self._instances.all():
            labels = instance.spec.labels
            unwanted = any(_has(labels, part) for part in filters.get("label!"))
            if instance.active or unwanted or not filters.labels("label", labels):
                continue
            if until_ns and instance.created_at_ns >= until_ns:
                continue
            try:
                await self._instances.remove(instance.id)
            except (Conflict, BiremeError):
                continue
            deleted.append(instance.id)
        return json({"ContainersDeleted": deleted or None, "SpaceReclaimed": 0})

    # streams

    def wait(self, request: Request) -> Answer | Awaitable[Answer]:
        asked = request.value("condition") if request.version >= EARLY_HEAD_SINCE else ""
        condition = _CONDITIONS.get(asked)
        if condition is None:
            raise Invalid(f'invalid condition: "{asked}"', subject=asked)
        instance = self._find(request)
        exited = _exit_of(instance, self._instances.wait(instance.id, condition))
        if request.version >= EARLY_HEAD_SINCE:
            return Deferred(exited)
        return _whole(exited)

    def attach(self, request: Request) -> Awaitable[Answer]:
        return attaching.attach(self._services, request)

    def attach_websocket(self, request: Request) -> Awaitable[Answer]:
        from bireme.api.docker.websocket import attach_websocket  # rarely used: not part of an idle engine

        return attach_websocket(self._services, request)

    async def resize(self, request: Request) -> Answer:
        rows, columns = parameters.size(request, "h", "height"), parameters.size(request, "w", "width")
        await self._services.consoles.resize(request.params[0], rows, columns)
        return OK_EMPTY

    def logs(self, request: Request) -> Answer:
        return log_stream(self._services, request)

    def stats(self, request: Request) -> Answer:
        instance = self._find(request)
        streaming = flag(request, "stream", True)
        one_shot = request.version >= 41 and flag(request, "one-shot")
        return Stream(stats(self._services, instance, stream=streaming, one_shot=one_shot))

    async def top(self, request: Request) -> Answer:
        rows = await self._services.consoles.top(request.params[0])
        return json(process_table(rows, request.value("ps_args")))


async def _done(work: Awaitable[None]) -> Answer:
    await work
    return NO_CONTENT


async def _exit_of(instance: Instance, exited: asyncio.Future[ExitStatus]) -> bytes:
    try:
        status = await exited
    except asyncio.CancelledError:
        instance.forget_waiter(exited)
        raise
    answer: dict[str, object] = {"StatusCode": status.code}
    if status.error:
        answer["Error"] = {"Message": status.error}
    return encode(answer) + b"\n"


async def _whole(body: Awaitable[bytes]) -> Answer:
    return Response(200, await body)


def _until(values: tuple[str, ...]) -> int:
    if not values:
        return 0
    if len(values) > 1:
        raise Invalid("more than one until filter specified")
    try:
        return parse_timestamp(values[0])
    except Invalid:
        return time.time_ns() - _duration_ns(values[0])


def _duration_ns(text: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    total, digits = 0.0, ""
    for character in text:
        if character in units and digits:
            total += float(digits) * units[character]
            digits = ""
        elif character.isdigit() or character == ".":
            digits += character
        else:
            raise Invalid(f"invalid until filter: {text}", subject=text)
    if digits:
        raise Invalid(f"invalid until filter: {text}", subject=text)
    return int(total * 1e9)


def _has(labels: dict[str, str], part: str) -> bool:
    key, equals, value = part.partition("=")
    return key in labels and (not equals or labels[key] == value)
