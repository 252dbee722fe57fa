"""From method and path to a handler, with and without a version in front."""

from __future__ import annotations

import pytest

from bireme.api.http.message import HttpProblem, Request, Response
from bireme.api.http.router import Router
from tests.support.rawhttp import plain_failure


def handler(_: Request) -> Response:
    return Response(200)


@pytest.fixture
def router() -> Router:
    made = Router(plain_failure, oldest=24, newest=55)
    for method, pattern in (
        ("GET", "/_ping"),
        ("GET", "/containers/json"),
        ("GET", "/containers/{id}/json"),
        ("DELETE", "/containers/{id}"),
        ("GET", "/images/json"),
        ("GET", "/images/{name*}/json"),
        ("GET", "/images/{name*}/history"),
        ("DELETE", "/images/{name*}"),
    ):
        made.add(method, pattern, handler)
    made.add("GET", "/own/v1/{id}/x", handler, versioned=False)
    made.add("GET", "/own/v1/status", handler, versioned=False)
    return made


def find(router: Router, method: str, path: str) -> tuple[str, tuple[str, ...], int]:
    request = Request(method, path, "", {}, 1)
    return router.find(request).pattern, request.params, request.version


@pytest.mark.parametrize(
    ("method", "path", "pattern", "params"),
    [
        ("GET", "/_ping", "/_ping", ()),
        ("GET", "/containers/json", "/containers/json", ()),
        ("GET", "/containers/a/json", "/containers/{id}/json", ("a",)),
        ("GET", "/containers/json/json", "/containers/{id}/json", ("json",)),
        ("GET", "/containers/a%2eb/json", "/containers/{id}/json", ("a.b",)),
        ("GET", "/images/json", "/images/json", ()),
        ("GET", "/images/json/json", "/images/{name*}/json", ("json",)),
        ("GET", "/images/a/b/c:1/json", "/images/{name*}/json", ("a/b/c:1",)),
        ("GET", "/images/a%2Fb/history", "/images/{name*}/history", ("a/b",)),
        ("DELETE", "/images/a/b/json", "/images/{name*}", ("a/b/json",)),
        ("DELETE", "/images/x", "/images/{name*}", ("x",)),
    ],
)
def test_routes(router: Router, method: str, path: str, pattern: str, params: tuple[str, ...]) -> None:
    assert find(router, method, path) == (pattern, params, 55)
    assert find(router, method, f"/v1.30{path}") == (pattern, params, 30)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", ""),
        ("GET", "//"),
        ("GET", "/containers"),
        ("GET", "/containers/"),
        ("GET", "/containers//json"),
        ("GET", "/containers/a/json/"),
        ("POST", "/_ping"),
        ("BREW", "/_ping"),
        ("DELETE", "/images/"),
        ("GET", "/v1.30"),
        ("GET", "/v1.x/_ping"),
        ("GET", "/v/_ping"),
        ("GET", "/v1.30/own/v1/status"),
        ("GET", "/v1.30/own/v1/a/x"),
        ("GET", "*"),
    ],
)
def test_not_found(router: Router, method: str, path: str) -> None:
    with pytest.raises(HttpProblem, match="page not found") as caught:
        find(router, method, path)
    assert caught.value.status == 404


def test_unversioned_rooms(router: Router) -> None:
    assert find(router, "GET", "/own/v1/status")[0] == "/own/v1/status"
    assert find(router, "GET", "/own/v1/a/x")[1] == ("a",)


@pytest.mark.parametrize("version", ["1.23", "1.0", "1", "0.9", "1.9", ".", "0"])
def test_too_old(router: Router, version: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        find(router, "GET", f"/v{version}/_ping") if version != "." else find(router, "GET", "/v0./_ping")
    shown = "0." if version == "." else version
    assert caught.value.message == (
        f"client version {shown} is too old. Minimum supported API version is 1.24, "
        "please upgrade your client to a newer version"
    )
    assert caught.value.status == 400


@pytest.mark.parametrize("version", ["1.56", "1.99", "2.0", "9", "1.999999999999999999999999999"])
def test_too_new(router: Router, version: str) -> None:
    with pytest.raises(HttpProblem) as caught:
        find(router, "GET", f"/v{version}/_ping")
    assert caught.value.message == f"client version {version} is too new. Maximum supported API version is 1.55"


def test_odd_spellings_of_a_version(router: Router) -> None:
    assert find(router, "GET", "/v1.047/_ping")[2] == 47
    assert find(router, "GET", "/v1.47.3/_ping")[2] == 47


def test_two_handlers_for_one_place(router: Router) -> None:
    with pytest.raises(ValueError, match="two handlers"):
        router.add("GET", "/_ping", handler)
    with pytest.raises(ValueError, match="two handlers"):
        router.add("GET", "/containers/{name}/json", handler)
