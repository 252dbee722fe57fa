"""The files of containers: archive, export, changes; images made of them: commit and import."""

from __future__ import annotations

import base64

from bireme.api.docker.answers import OK_EMPTY, encode, json
from bireme.api.docker.bodies import ContainerConfig
from bireme.api.docker.decode import MAX_BODY_BYTES, decode
from bireme.api.docker.parameters import flag
from bireme.api.docker.progress import progress_stream
from bireme.api.docker.services import Emit, PathStat, Services
from bireme.api.docker.times import format_time
from bireme.api.http.message import Answer, Request, Response, Stream
from bireme.api.http.router import Router
from bireme.errors import Invalid, Unsupported
from bireme.oci.image_spec import Healthcheck, ImageConfig

_TAR = b"application/x-tar"


class Files:
    """Handlers over the engine's copying and derivation."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def register(self, router: Router) -> None:
        one = "/containers/{id}"
        router.add("HEAD", one + "/archive", self.stat)
        router.add("GET", one + "/archive", self.get)
        router.add("PUT", one + "/archive", self.put)
        router.add("GET", one + "/export", self.export)
        router.add("GET", one + "/changes", self.changes)
        router.add("POST", "/commit", self.commit)

    async def stat(self, request: Request) -> Answer:
        found = await self._services.copying().stat(request.params[0], _path(request))
        return Response(200, headers=_stat_header(found))

    async def get(self, request: Request) -> Answer:
        found, archive = await self._services.copying().get(request.params[0], _path(request))
        return Stream(archive, _TAR, _stat_header(found))

    async def put(self, request: Request) -> Answer:
        await self._services.copying().put(
            request.params[0],
            _path(request),
            request.body.chunks(),
            keep_kinds=flag(request, "noOverwriteDirNonDir"),
            owned=flag(request, "copyUIDGID"),
        )
        return OK_EMPTY

    async def export(self, request: Request) -> Answer:
        return Stream(
            await self._services.copying().export(request.params[0]), b"application/octet-stream", patient=False
        )

    async def changes(self, request: Request) -> Answer:
        return Stream(await self._services.copying().changes(request.params[0]), patient=False)

    async def commit(self, request: Request) -> Answer:
        data = await request.body.read(MAX_BODY_BYTES)
        config = _image_config(decode(data, ContainerConfig)) if data.strip() not in (b"", b"null") else None
        repository, tag = request.value("repo"), request.value("tag")
        identity = await self._services.derivation().commit(
            request.value("container"),
            f"{repository}:{tag}" if repository and tag else repository,
            author=request.value("author"),
            comment=request.value("comment"),
            changes=request.query.get("changes", ()),
            config=config,
            pause=flag(request, "pause", True),
        )
        return json({"Id": identity}, 201)


def import_image(services: Services, request: Request) -> Answer:
    """POST /images/create with fromSrc: the root file system in the body becomes an image."""
    source, repository, tag = request.value("fromSrc"), request.value("repo"), request.value("tag")
    if source != "-":
        raise Unsupported(
            "importing from a URL is not supported", subject=source, hint="fetch the file and import it, or pipe it in"
        )

    async def work(emit: Emit) -> None:
        await services.derivation().import_root(
            request.body.chunks(),
            f"{repository}:{tag}" if repository and tag else repository,
            emit,
            message=request.value("message"),
            changes=request.query.get("changes", ()),
            platform=request.value("platform"),
        )

    return progress_stream(services.tasks, work)


def _path(request: Request) -> str:
    path = request.value("path")
    if not path:
        raise Invalid("missing parameter path", subject="path")
    return path


def _stat_header(found: PathStat) -> bytes:
    document = {
        "name": found["name"],
        "size": found["size"],
        "mode": found["mode"],
        "mtime": format_time(found["mtime_ns"]),
        "linkTarget": found["linkTarget"],
    }
    return b"X-Docker-Container-Path-Stat: " + base64.b64encode(encode(document)) + b"\r\n"


def _image_config(config: ContainerConfig) -> ImageConfig:
    """The part of a container's configuration that images have."""
    health = config.Healthcheck
    return ImageConfig(
        user=config.User,
        exposed_ports=dict(config.ExposedPorts) or None,
        env=list(config.Env) or None,
        entrypoint=list(config.Entrypoint) or None,
        cmd=list(config.Cmd) or None,
        volumes=dict(config.Volumes) or None,
        working_dir=config.WorkingDir,
        labels=dict(config.Labels) or None,
        stop_signal=config.StopSignal,
        stop_timeout=config.StopTimeout,
        shell=list(config.Shell) or None,
        on_build=list(config.OnBuild) or None,
        healthcheck=None
        if health is None
        else Healthcheck(
            test=list(health.Test) or None,
            interval=health.Interval,
            timeout=health.Timeout,
            start_period=health.StartPeriod,
            start_interval=health.StartInterval,
            retries=health.Retries,
        ),
    )
