"""From method and path to a handler, by dictionaries.

Patterns are written `/containers/{id}/json`; `{name*}` takes one segment or more (image names have slashes) and may be
followed by one literal segment. Every pattern is served with and without `/vMAJOR.MINOR` in front, unless added with
`versioned=False`.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from bireme.api.http.message import Handler, HttpProblem, Request, Response

_VERSION_CHARACTERS = frozenset("0123456789.")


class Route:
    """A handler and how it is run: an interruptible one is cancelled when its client goes away."""

    __slots__ = ("handler", "interruptible", "pattern")

    def __init__(self, pattern: str, handler: Handler, interruptible: bool) -> None:
        self.pattern = pattern
        self.handler = handler
        self.interruptible = interruptible


class _Node:
    __slots__ = ("children", "greedy", "greedy_then", "has_greedy", "parameter", "route")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.route: Route | None = None
        self.greedy: Route | None = None
        self.greedy_then: dict[str, Route] | None = None
        self.has_greedy = False

    def add(self, segments: list[str], route: Route) -> None:
        node = self
        for index, segment in enumerate(segments):
            if segment.endswith("*}"):
                node._add_greedy(segments[index + 1 :], route)
                return
            node = node._step(segment)
        if node.route is not None:
            raise ValueError(f"two handlers for {route.pattern}")
        node.route = route

    def _step(self, segment: str) -> _Node:
        if segment.startswith("{"):
            if self.parameter is None:
                self.parameter = _Node()
            return self.parameter
        return self.children.setdefault(segment, _Node())

    def _add_greedy(self, rest: list[str], route: Route) -> None:
        self.has_greedy = True
        if not rest:
            self.greedy = route
        elif len(rest) == 1:
            self.greedy_then = {**(self.greedy_then or {}), rest[0]: route}
        else:
            raise ValueError(f"too much behind a name of several segments: {route.pattern}")

    def find(self, segments: list[str], start: int) -> tuple[Route, tuple[str, ...]] | None:
        node = self
        params: tuple[str, ...] = ()
        best: tuple[Route, tuple[str, ...]] | None = None
        for index in range(start, len(segments)):
            segment = segments[index]
            if node.has_greedy:
                best = node._greedy_match(segments, index, params) or best
            following = node.children.get(segment)
            if following is None:
                following = node.parameter
                if following is None or not segment:
                    return best
                params = (*params, segment)
            node = following
        return (node.route, params) if node.route is not None else best

    def _greedy_match(
        self, segments: list[str], index: int, params: tuple[str, ...]
    ) -> tuple[Route, tuple[str, ...]] | None:
        if self.greedy_then is not None and len(segments) - index >= 2:
            route = self.greedy_then.get(segments[-1])
            if route is not None:
                return route, (*params, "/".join(segments[index:-1]))
        if self.greedy is not None and segments[index]:
            return self.greedy, (*params, "/".join(segments[index:]))
        return None


Failure = Callable[[Request, BaseException], Response]


class Router:
    """Routes, the API versions they are served under, and how an exception becomes an answer.

    `oldest` and `newest` are minor versions of API 1.x; `headers` are header lines sent with every answer.
    """

    def __init__(self, failure: Failure, *, oldest: int, newest: int, headers: bytes = b"") -> None:
        self.failure = failure
        self.headers = headers
        self.oldest = oldest
        self.newest = newest
        self._versions = {f"1.{minor}": minor for minor in range(oldest, newest + 1)}
        self._static: dict[tuple[str, str], Route] = {}
        self._trees: dict[str, _Node] = {}
        self._unversioned: set[str] = set()

    def add(
        self, method: str, pattern: str, handler: Handler, *, interruptible: bool = False, versioned: bool = True
    ) -> None:
        route = Route(pattern, handler, interruptible)
        if not versioned:
            self._unversioned.add(pattern.split("/")[1])
        if "{" not in pattern:
            if (method, pattern) in self._static:
                raise ValueError(f"two handlers for {method} {pattern}")
            self._static[method, pattern] = route
        else:
            self._trees.setdefault(method, _Node()).add(pattern.split("/")[1:], route)

    def find(self, request: Request) -> Route:
        """The route of a request, whose `version` and `params` it sets; HttpProblem 404, or 400 for the version."""
        path = request.path
        request.version = self.newest
        versioned = path[:2] == "/v" and path[2:3].isdigit()
        if versioned:
            path = self._strip_version(request, path)
        if "%" in path:
            path = unquote(path)
        route = self._static.get((request.method, path))
        if route is None:
            tree = self._trees.get(request.method)
            segments = path.split("/")
            found = tree.find(segments, 1) if tree is not None else None
            if found is None or (versioned and segments[1] in self._unversioned):
                raise HttpProblem(404, "page not found")
            route, request.params = found
        elif versioned and path.split("/", 2)[1] in self._unversioned:
            raise HttpProblem(404, "page not found")
        return route

    def _strip_version(self, request: Request, path: str) -> str:
        version, slash, rest = path[2:].partition("/")
        minor = self._versions.get(version)
        if minor is None:
            if not slash or not _VERSION_CHARACTERS.issuperset(version):
                raise HttpProblem(404, "page not found")
            minor = self._judge_version(version)
        request.version = minor
        return "/" + rest

    def _judge_version(self, version: str) -> int:
        numbers = [int(part[:9] or "0") for part in version[:40].split(".")]
        wanted = [*numbers, 0][:2]
        if wanted < [1, self.oldest]:
            raise HttpProblem(
                400,
                f"client version {version} is too old. Minimum supported API version is 1.{self.oldest}, "
                "please upgrade your client to a newer version",
            )
        if wanted > [1, self.newest]:
            raise HttpProblem(
                400, f"client version {version} is too new. Maximum supported API version is 1.{self.newest}"
            )
        return wanted[1]
