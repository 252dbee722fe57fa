"""Answers most routes give."""

from __future__ import annotations

import msgspec

from bireme.api.http.message import Response

encode = msgspec.json.Encoder().encode

NO_CONTENT = Response(204)
OK_EMPTY = Response(200)


def json(value: object, status: int = 200) -> Response:
    """`value` as JSON with a newline at its end, as Go's encoder writes it."""
    return Response(status, encode(value) + b"\n")
