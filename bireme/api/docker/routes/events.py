"""GET /events."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from bireme.api.docker.answers import encode
from bireme.api.docker.filters import Filters, read_filters
from bireme.api.docker.iterators import close
from bireme.api.docker.services import Services
from bireme.api.docker.times import parse_timestamp
from bireme.api.http.message import JSON, Answer, Request, Stream
from bireme.api.http.router import Router
from bireme.engine.events import Event
from bireme.errors import Invalid

LEGACY_FIELDS_UNTIL = 52
_SEQUENCE = b"application/json-seq"
_LINES = (b"application/jsonl", b"application/x-ndjson")
_PREFIXED = ("health_status", "exec_create", "exec_start", "exec_die")
_ACTORS = ("container", "image", "network", "volume", "daemon", "plugin", "service", "node", "secret", "config")
_FILTERS = frozenset({*_ACTORS, "event", "type", "label", "scope"})


class Events:
    """The engine's events as a stream."""

    def __init__(self, services: Services) -> None:
        self._events = services.events

    def register(self, router: Router) -> None:
        router.add("GET", "/events", self.stream, interruptible=True)

    def stream(self, request: Request) -> Answer:
        since, until = _bound(request, "since"), _bound(request, "until")
        if until and until < since:
            raise Invalid(
                f"`since` time ({request.value('since')}) cannot be after `until` time ({request.value('until')})"
            )
        filters = read_filters(request)
        filters.check(_FILTERS)
        if until and not since:
            since = 0 if until > time.time_ns() else 1
        kind = _content_type(request)
        prefix = b"\x1e" if kind == _SEQUENCE else b""
        subscribe = partial(self._events.subscribe, since or None, until or None)
        return Stream(_chunks(subscribe, filters, request.version < LEGACY_FIELDS_UNTIL, prefix), kind)


def _bound(request: Request, name: str) -> int:
    try:
        return parse_timestamp(request.value(name))
    except Invalid as error:
        raise Invalid(f"invalid value for '{name}': {error.message}", subject=name) from None


def _content_type(request: Request) -> bytes:
    accepted = request.headers.get(b"accept", b"")
    for kind in (*_LINES, _SEQUENCE):
        if kind in accepted:
            return kind
    return JSON if request.version < LEGACY_FIELDS_UNTIL else _LINES[0]


async def _chunks(
    subscribe: Callable[[], AsyncIterator[Event]], filters: Filters, legacy: bool, prefix: bytes
) -> AsyncIterator[bytes]:
    """Subscribed to when the stream begins, which is before the client can know that it does."""
    events = subscribe()
    try:
        async for event in events:
            if not filters or matches(event, filters):
                yield prefix + encode(document(event, legacy)) + b"\n"
    finally:
        await close(events)


def document(event: Event, legacy: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if legacy and event.type in ("container", "image"):
        shown = {"status": event.action, "id": event.id}
        if event.type == "container":
            shown["from"] = event.attributes.get("image", "")
    shown.update(
        Type=event.type,
        Action=event.action,
        Actor={"ID": event.id, "Attributes": event.attributes},
        scope="local",
        time=event.time_ns // 10**9,
        timeNano=event.time_ns,
    )
    return shown


def matches(event: Event, filters: Filters) -> bool:
    """Whether dockerd would show this event under these filters."""
    name = event.attributes.get("name", "")
    if not filters.exact("type", event.type) or not filters.labels("label", event.attributes):
        return False
    if not filters.exact("scope", "local") or not _action_matches(event.action, filters):
        return False
    for kind in _ACTORS:
        if kind not in filters or kind == "image":
            continue
        if event.type != kind or not (filters.prefix(kind, event.id) or filters.prefix(kind, name)):
            return False
    if "image" in filters:
        image = name if event.type == "image" else event.attributes.get("image", "")
        return filters.exact("image", event.id, image, _without_tag(image), _without_tag(event.id))
    return True


def _action_matches(action: str, filters: Filters) -> bool:
    if any(value in _PREFIXED for value in filters.get("event")):
        return filters.prefix("event", action)
    return filters.exact("event", action)


def _without_tag(reference: str) -> str:
    name = reference.partition("@")[0]
    colon = name.rfind(":")
    return name[:colon] if colon > name.rfind("/") else name
