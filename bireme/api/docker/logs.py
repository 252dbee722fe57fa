"""GET /containers/{id}/logs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bireme.api.docker.attach import content_type
from bireme.api.docker.iterators import close
from bireme.api.docker.parameters import flag
from bireme.api.docker.services import Services
from bireme.api.docker.times import format_log_time, parse_timestamp
from bireme.api.http.message import Request, Stream
from bireme.errors import Conflict, Invalid
from bireme.instance.logs import LogQuery, LogRecord
from bireme.instance.state import Status
from bireme.wire.stdcopy import frame


def log_stream(services: Services, request: Request) -> Stream:
    """The log as frames (raw bytes for a terminal); what is wrong with the request is raised before the head."""
    query = _query(request)
    instance = services.instances.find(request.params[0])
    if instance.status in (Status.REMOVING, Status.DEAD):
        raise Conflict("can not get logs from container which is dead or marked for removal", subject=instance.name)
    terminal = instance.spec.process.terminal
    records = services.logs.read(instance.id, query)
    timestamps, details = flag(request, "timestamps"), flag(request, "details")
    chunks = _chunks(records, terminal=terminal, timestamps=timestamps, details=details)
    return Stream(chunks, content_type(terminal, request.version))


def _query(request: Request) -> LogQuery:
    stdout, stderr = flag(request, "stdout"), flag(request, "stderr")
    if not stdout and not stderr:
        raise Invalid("must specify at least one of 'stdout' or 'stderr'")
    return LogQuery(
        follow=flag(request, "follow"),
        stdout=stdout,
        stderr=stderr,
        since_ns=_time(request, "since"),
        until_ns=_time(request, "until"),
        tail=_tail(request.value("tail")),
    )


def _time(request: Request, name: str) -> int:
    try:
        return parse_timestamp(request.value(name))
    except Invalid as error:
        raise Invalid(f'invalid value for "{name}": {error.message}', subject=name) from None


def _tail(text: str) -> int:
    """Everything for "all", for whatever is no number and for negative ones, as dockerd; a plus sign may lead."""
    digits = text[1:] if text[:1] == "+" else text
    return int(digits[:18]) if digits.isascii() and digits.isdigit() else -1


async def _chunks(
    records: AsyncIterator[LogRecord], *, terminal: bool, timestamps: bool, details: bool
) -> AsyncIterator[bytes]:
    try:
        async for record in records:
            line = record.data
            if details:
                line = b" " + line
            if timestamps:
                line = format_log_time(record.time_ns) + b" " + line
            yield line if terminal else frame(record.stream, line)
    finally:
        await close(records)
