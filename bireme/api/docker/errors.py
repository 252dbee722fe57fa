"""One table from error kinds to HTTP status, and Docker's error body."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from bireme.api.http.message import NO_BODY, TEXT, HttpProblem, Request, Response
from bireme.errors import BiremeError

log = logging.getLogger(__name__)

STATUS = {
    "not_found": 404,
    "conflict": 409,
    "not_modified": 304,
    "invalid": 400,
    "denied": 403,
    "unavailable": 503,
    "unsupported": 501,
    "deadline": 500,
    "internal": 500,
}

_encode = msgspec.json.Encoder().encode


def error_body(message: str) -> bytes:
    return _encode({"message": message}) + b"\n"


def failure(request: Request, error: BaseException) -> Response:
    """The answer to a request that failed; unexpected exceptions are logged and become 500."""
    if isinstance(error, BiremeError):
        status = STATUS.get(error.kind, 500)
        if status in NO_BODY:
            return Response(status)
        if status >= 500 and error.kind == "internal":
            log.error("%s %s: %s", request.method, request.path, error, exc_info=error)
        return Response(status, error_body(str(error)))
    if isinstance(error, HttpProblem):
        if error.status == 400 and "too old" in error.message:
            return Response(400, error.message.encode() + b"\n", TEXT)
        return Response(error.status, error_body(error.message))
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return Response(500, error_body(str(error) or "the operation took too long"))
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return Response(500, error_body(f"internal error: {type(error).__name__}: {error}"))
