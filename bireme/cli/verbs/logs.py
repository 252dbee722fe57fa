"""logs."""

from __future__ import annotations

import sys
import time

from bireme.cli.errors import CommandFailed
from bireme.cli.kinds import parse_duration
from bireme.cli.option import Option, Verb
from bireme.cli.output import write_all
from bireme.cli.units import parse_time
from bireme.client.errors import BrokenReply
from bireme.client.http import quote
from bireme.errors import Invalid
from bireme.wire.stdcopy import STDERR, STDOUT, Decoder, FrameError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from bireme.cli.invocation import Invocation

_RAW = "application/vnd.docker.raw-stream"


def moment(text: str) -> str:
    """--since and --until as the API takes them: a duration back from now becomes seconds since the epoch."""
    if not text:
        return ""
    try:
        return f"{time.time() - parse_duration(text) / 1e9:.9f}"
    except Invalid:
        return text if text.replace(".", "", 1).isdecimal() else _absolute(text)


def _absolute(text: str) -> str:
    """A time of RFC 3339 whose end may be missing (2013-01-02T13), in local time unless it names a zone."""
    date, _, clock = text.partition("T")
    zone = "Z" if clock.endswith("Z") else clock[-6:] if clock[-6:-5] in ("+", "-") else ""
    whole, dot, fraction = clock[: len(clock) - len(zone)].partition(".")
    whole += "00:00:00"[len(whole) :]
    seconds = int(parse_time(f"{date}T{whole}{zone or 'Z'}"))
    if seconds <= 0 or (dot and not fraction.isdecimal()):
        raise CommandFailed(f'invalid time: "{text}": give a duration (10m) or a time (2013-01-02T13:23:37Z)')
    if not zone:
        seconds = int(time.mktime((*time.gmtime(seconds)[:8], -1)))
    return f"{seconds}.{fraction[:9].ljust(9, '0')}" if dot else str(seconds)


def show_logs(invocation: Invocation) -> int:
    args = invocation.args
    response = invocation.engine.open(
        "GET",
        f"/containers/{quote(args.rest[0])}/logs",
        {
            "stdout": True,
            "stderr": True,
            "follow": args["follow"],
            "timestamps": args["timestamps"],
            "details": args["details"],
            "tail": args["tail"],
            "since": moment(args["since"]),
            "until": moment(args["until"]),
        },
    )
    sys.stdout.flush()
    raw = response.headers.get("content-type") == _RAW
    with response:
        copy_output(response.chunks(), raw=raw)
    return 0


def copy_output(chunks: Iterable[bytes], raw: bool) -> None:
    """Write an output stream to where it belongs; `raw` has no frames."""
    decoder = Decoder()
    for chunk in chunks:
        try:
            pieces = [(STDOUT, chunk)] if raw else decoder.feed(chunk)
        except FrameError as error:
            raise BrokenReply(str(error)) from error
        for stream, payload in pieces:
            write_all(2 if stream >= STDERR else 1, payload)


VERBS = {
    "container logs": Verb(
        show_logs,
        "[OPTIONS] CONTAINER",
        "Fetch the logs of a container",
        (
            Option("details", "bool", "Show extra details provided to logs"),
            Option("follow", "bool", "Follow log output", "f"),
            Option(
                "since",
                "string",
                'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            ),
            Option("tail", "string", "Number of lines to show from the end of the logs", "n", default="all"),
            Option("timestamps", "bool", "Show timestamps", "t"),
            Option(
                "until",
                "string",
                'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            ),
        ),
        args=(1, 1),
        aliases=("container logs", "logs"),
        complete="containers",
    ),
}
