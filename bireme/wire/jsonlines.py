"""JSON values, one a line: progress of long requests, events, statistics.

The shapes are the Engine API's JSON message: `status` with `progressDetail` and `id`, `stream` for plain text, `aux`
for results, and `error` with `errorDetail` as the last line of a request that failed after its head was sent.
No I/O here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

MAX_LINE_BYTES = 4 << 20
"""The longest value a Decoder keeps."""

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


def encode_line(value: object) -> bytes:
    """`value` as JSON and CR LF, as Docker separates messages."""
    return _encode(value).encode("utf-8", "replace") + b"\r\n"


def status(text: str, *, identity: str = "", current: int = 0, total: int = 0) -> dict[str, Any]:
    """A progress message; with `total` (bytes) it carries a bar."""
    message: dict[str, Any] = {"status": text}
    if total or current:
        detail = {"current": current, "total": total} if total else {"current": current}
        message["progressDetail"] = detail
    if identity:
        message["id"] = identity
    return message


def failure(text: str, code: int = 0) -> dict[str, Any]:
    """The last message of a stream that failed."""
    detail: dict[str, Any] = {"code": code, "message": text} if code else {"message": text}
    return {"errorDetail": detail, "error": text}


def failure_text(message: Mapping[str, Any]) -> str:
    """The error a message carries, empty when it is not one."""
    detail = message.get("errorDetail")
    if isinstance(detail, Mapping) and detail.get("message"):
        return str(detail["message"])
    return str(message.get("error") or "")


class LineError(ValueError):
    """A line is not JSON, or longer than MAX_LINE_BYTES."""


class Decoder:
    """Takes bytes as they come, gives back the values of the complete lines. Blank lines are skipped.

    `finish` gives what the last line without an end holds. Both raise LineError.
    """

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Any]:
        if b"\n" not in data:
            self._keep(data)
            return []
        *lines, rest = (b"".join(self._parts) + data).split(b"\n")
        self._parts = []
        self._size = 0
        self._keep(rest)
        return _decode(lines)

    def finish(self) -> list[Any]:
        line = b"".join(self._parts)
        self._parts = []
        self._size = 0
        return _decode([line])

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_LINE_BYTES:
            raise LineError(f"a line is longer than {MAX_LINE_BYTES} bytes")
        if data:
            self._parts.append(data)


def _decode(lines: Iterable[bytes]) -> list[Any]:
    values: list[Any] = []
    for line in lines:
        text = line.strip()
        if not text:
            continue
        try:
            values.append(json.loads(text))
        except ValueError as error:
            raise LineError(f"not a line of JSON: {text[:80]!r}") from error
    return values
