"""From errors to answers."""

from __future__ import annotations

import json

import pytest

from bireme.api.docker.errors import STATUS, failure
from bireme.api.http.message import HttpProblem, Request
from bireme.errors import BiremeError, Conflict, Internal, NotFound, NotModified, Unsupported

REQUEST = Request("GET", "/x", "", {}, 1)


def all_kinds(kind: type[BiremeError] = BiremeError) -> set[str]:
    return {kind.kind}.union(*(all_kinds(sub) for sub in kind.__subclasses__()))


def test_every_kind_has_a_status() -> None:
    assert all_kinds() == set(STATUS)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (NotFound("No such container: x"), 404, "No such container: x"),
        (Conflict("in use"), 409, "in use"),
        (Unsupported("not here", hint="go there"), 501, "not here (go there)"),
        (HttpProblem(413, "too large"), 413, "too large"),
        (TimeoutError(), 500, "the operation took too long"),
    ],
)
def test_answers(error: Exception, status: int, message: str) -> None:
    answer = failure(REQUEST, error)
    assert answer.status == status
    assert json.loads(answer.body) == {"message": message}


def test_not_modified_has_no_body() -> None:
    answer = failure(REQUEST, NotModified("already"))
    assert (answer.status, answer.body) == (304, b"")


def test_bugs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    for error in (KeyError("x"), Internal("broken")):
        caplog.clear()
        assert failure(REQUEST, error).status == 500
        assert "/x" in caplog.text
