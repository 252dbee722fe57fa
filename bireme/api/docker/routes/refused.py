"""What Docker's engine has and this one has not (yet): told apart from what does not exist at all.

The list of plugins is empty rather than refused, since clients ask for it in passing.
"""

from __future__ import annotations

from bireme.api.docker.answers import json
from bireme.api.http.message import Answer, Handler, Request
from bireme.api.http.router import Router
from bireme.errors import NotFound, Unavailable, Unsupported

_NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm '
    "and try again."
)
_SWARM_READS = ("/swarm", "/swarm/unlockkey", "/nodes", "/services", "/tasks", "/secrets", "/configs")
_SWARM_ONES = ("nodes", "services", "tasks", "secrets", "configs")

_LATER = (
    ("POST", "/build", "building images"),
    ("POST", "/build/prune", "building images"),
    ("POST", "/build/cancel", "building images"),
    ("POST", "/session", "BuildKit sessions"),
    ("POST", "/grpc", "BuildKit sessions"),
    ("GET", "/containers/{id}/checkpoints", "checkpoints"),
    ("POST", "/containers/{id}/checkpoints", "checkpoints"),
    ("GET", "/distribution/{name*}/json", "asking registries"),
    ("POST", "/swarm/init", "swarm mode"),
    ("POST", "/swarm/join", "swarm mode"),
    ("POST", "/swarm/unlock", "swarm mode"),
    ("POST", "/swarm/update", "swarm mode"),
    ("POST", "/plugins/pull", "plugins"),
    ("POST", "/plugins/create", "plugins"),
    ("GET", "/plugins/privileges", "plugins"),
)


def register(router: Router) -> None:
    for method, pattern, what in _LATER:
        router.add(method, pattern, _refusing(Unsupported(f"{what}: not supported yet")))
    for pattern in _SWARM_READS:
        router.add("GET", pattern, _refusing(Unavailable(_NOT_A_MANAGER)))
    for noun in _SWARM_ONES:
        for method, pattern in (
            ("GET", f"/{noun}/{{id}}"),
            ("DELETE", f"/{noun}/{{id}}"),
            ("POST", f"/{noun}/create"),
            ("POST", f"/{noun}/{{id}}/update"),
        ):
            router.add(method, pattern, _refusing(Unavailable(_NOT_A_MANAGER)))
    router.add("POST", "/swarm/leave", _refusing(Unavailable("This node is not part of a swarm")))
    router.add("GET", "/plugins", lambda _: json([]))
    router.add("GET", "/plugins/{name*}/json", _no_plugin)


def _refusing(error: Exception) -> Handler:
    def refuse(_: Request) -> Answer:
        raise error.with_traceback(None)

    return refuse


def _no_plugin(request: Request) -> Answer:
    raise NotFound(f'plugin "{request.params[0]}" not found', subject=request.params[0])
