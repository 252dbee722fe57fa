"""/images: list, inspect, history, tag, delete, load, save, prune; what needs a registry is refused."""

from __future__ import annotations

import fnmatch
from collections import Counter

from bireme.api.docker import images as shapes
from bireme.api.docker.answers import json
from bireme.api.docker.filters import Filters, read_filters
from bireme.api.docker.parameters import flag
from bireme.api.docker.progress import progress_stream
from bireme.api.docker.routes.files import import_image
from bireme.api.docker.services import Emit, Image, Services
from bireme.api.docker.times import parse_timestamp
from bireme.api.http.message import Answer, Request, Response, Stream
from bireme.api.http.router import Router
from bireme.errors import BiremeError, Invalid, NotFound, Unsupported

NO_REGISTRY = "this engine has no registry client yet"
NO_REGISTRY_HINT = "docker load takes archives, bireme bootstrap makes images from Debian's packages"


class Images:
    """Handlers over the engine's images."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._images = services.images
        self._storage = ""

    def register(self, router: Router) -> None:
        one = "/images/{name*}"
        router.add("GET", "/images/json", self.index)
        router.add("GET", "/images/get", self.save)
        router.add("POST", "/images/load", self.load)
        router.add("POST", "/images/create", self.pull)
        router.add("POST", "/images/prune", self.prune)
        router.add("GET", "/images/search", self.search)
        router.add("GET", one + "/json", self.inspect)
        router.add("GET", one + "/history", self.history)
        router.add("GET", one + "/get", self.save_one)
        router.add("POST", one + "/tag", self.tag)
        router.add("POST", one + "/push", self.push)
        router.add("DELETE", one, self.remove)

    def index(self, request: Request) -> Answer:
        filters = read_filters(request)
        filters.check(("before", "since", "reference", "dangling", "label", "until"))
        users: Counter[str] = Counter()
        counted = request.version >= 51
        if counted:
            users.update(i.spec.image_id.removeprefix("sha256:") for i in self._services.instances.all())
        rows = []
        for image in self._select(filters):
            containers = users[image.id.removeprefix("sha256:")] if counted else -1
            rows.append(shapes.summary(image, containers, request.version))
        rows.sort(key=lambda row: row["Created"], reverse=True)
        return json(rows)

    def _select(self, filters: Filters) -> list[Image]:
        before = [self._images.find(name).created_at_ns for name in filters.get("before")]
        since = [self._images.find(name).created_at_ns for name in filters.get("since")]
        until = [parse_timestamp(value) for value in filters.get("until")]
        dangling = filters.boolean("dangling", False) if "dangling" in filters else None
        chosen = []
        for image in self._images.all():
            created = image.created_at_ns
            labels = (image.document.get("config") or {}).get("Labels") or {}
            if any(created >= limit for limit in (*before, *until)) or any(created <= limit for limit in since):
                continue
            if dangling is not None and dangling == bool(shapes.tags_of(image)):
                continue
            if filters.labels("label", labels) and _named(image, filters.get("reference")):
                chosen.append(image)
        return chosen

    def inspect(self, request: Request) -> Answer:
        image = self._images.find(request.params[0])
        if not self._storage:
            self._storage = self._services.system.info().storage_driver
        return json(shapes.document(image, self._storage, request.version))

    def history(self, request: Request) -> Answer:
        return json(
            [
                {
                    "Comment": entry.comment,
                    "Created": _seconds(entry.created),
                    "CreatedBy": entry.created_by,
                    "Id": entry.id,
                    "Size": entry.size,
                    "Tags": list(entry.tags) or None,
                }
                for entry in self._images.history(request.params[0])
            ]
        )

    async def tag(self, request: Request) -> Answer:
        repository, tag = request.value("repo"), request.value("tag")
        if not repository:
            raise Invalid("invalid reference format")
        if "@" in repository:
            raise Invalid("cannot import digest reference")
        await self._images.tag(request.params[0], f"{repository}:{tag}" if tag else repository)
        return Response(201)

    async def remove(self, request: Request) -> Answer:
        if request.value("platforms"):
            raise Unsupported("removing single platforms of an image is not supported")
        name = request.params[0]
        if not name.strip():
            raise Invalid("image name cannot be blank")
        done = await self._images.remove(name, flag(request, "force"))
        return json([{action.capitalize(): subject} for action, subject in done])

    async def prune(self, request: Request) -> Answer:
        filters = read_filters(request)
        filters.check(("dangling", "label", "label!", "until"))
        until = [parse_timestamp(value) for value in filters.get("until")]
        dangling = filters.boolean("dangling", True)
        used = {i.spec.image_id.removeprefix("sha256:") for i in self._services.instances.all()}
        done: list[dict[str, str]] = []
        freed = 0
        for image in self._images.all():
            labels = (image.document.get("config") or {}).get("Labels") or {}
            if image.id.removeprefix("sha256:") in used or (dangling and shapes.tags_of(image)):
                continue
            if not filters.labels("label", labels) or any(image.created_at_ns >= limit for limit in until):
                continue
            if "label!" in filters and filters.labels("label!", labels):
                continue
            try:
                steps = await self._images.remove(image.id, True)
            except BiremeError:
                continue
            done += [{action.capitalize(): subject} for action, subject in steps]
            freed += image.size_bytes
        return json({"ImagesDeleted": done or None, "SpaceReclaimed": freed})

    def load(self, request: Request) -> Answer:
        if request.value("platform"):
            raise Unsupported("loading single platforms is not supported")
        quiet = flag(request, "quiet", True)

        async def work(emit: Emit) -> None:
            await self._images.load(request.body.chunks(), _without_bars(emit) if quiet else emit)

        return progress_stream(self._services.tasks, work)

    def save(self, request: Request) -> Answer:
        return self._archive(request, request.query.get("names", []))

    def save_one(self, request: Request) -> Answer:
        return self._archive(request, [request.params[0]])

    def _archive(self, request: Request, names: list[str]) -> Answer:
        if request.value("platform"):
            raise Unsupported("saving single platforms is not supported")
        if not names:
            raise Invalid("no images to save")
        for name in names:
            self._images.find(name)
        return Stream(self._images.save(names), b"application/x-tar", patient=False)

    # what needs a registry

    def pull(self, request: Request) -> Answer:
        name = request.value("fromImage")
        if not name:
            return import_image(self._services, request)
        tag = request.value("tag")
        shown = f"{name}@{tag}" if ":" in tag else f"{name}:{tag}" if tag else name
        raise NotFound(
            f"pull access denied for {shown}, repository does not exist: {NO_REGISTRY}",
            subject=name,
            hint=NO_REGISTRY_HINT,
        )

    def push(self, request: Request) -> Answer:
        raise Unsupported(f"cannot push {request.params[0]}: {NO_REGISTRY}")

    def search(self, request: Request) -> Answer:
        raise Unsupported(f"cannot search: {NO_REGISTRY}")


def _without_bars(emit: Emit) -> Emit:
    def quiet(message: object) -> None:
        if isinstance(message, dict) and "progressDetail" not in message and "id" not in message:
            emit(message)

    return quiet


def _named(image: Image, patterns: tuple[str, ...]) -> bool:
    """Whether a reference matches one of the patterns: with tag, without, or as a path pattern."""
    if not patterns:
        return True
    for reference in image.references:
        name = reference.partition("@")[0]
        slash = name.rfind("/")
        colon = name.rfind(":")
        bare = name[:colon] if colon > slash else name
        if any(fnmatch.fnmatchcase(text, pattern) for text in (reference, bare) for pattern in patterns):
            return True
    return False


def _seconds(text: str) -> int:
    try:
        return parse_timestamp(text) // 10**9
    except Invalid:
        return 0
