"""events."""

from __future__ import annotations

import sys
import time

from bireme.cli.filters import encode_filters
from bireme.cli.option import FORMAT_VALUE, Option, Verb
from bireme.cli.verbs.logs import moment
from bireme.client.jsontext import dumps_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from bireme.cli.invocation import Invocation


def format_event(event: dict[str, Any]) -> str:
    """`2026-01-02T15:04:05.000000000Z container start ID (image=busybox, name=x)` in local time."""
    nanoseconds = int(event.get("timeNano") or int(event.get("time") or 0) * 10**9)
    seconds, fraction = divmod(nanoseconds, 10**9)
    zone = time.strftime("%z", time.localtime(seconds))
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds))
    offset = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    line = f"{stamp}.{fraction:09}{offset} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    return f"{line} ({attributes})" if attributes else line


def _formatter(form: str) -> Callable[[dict[str, Any]], str]:
    if not form:
        return format_event
    if form == "json":
        return dumps_text
    from bireme.cli.template import Template

    template = Template(form.replace("\\t", "\t").replace("\\n", "\n"))

    def render(event: dict[str, Any]) -> str:
        old = {"Status": event.get("status", ""), "ID": event.get("id", ""), "From": event.get("from", "")}
        new = {"Scope": event.get("scope"), "Time": event.get("time"), "TimeNano": event.get("timeNano")}
        return template.render(event | old | new)

    return render


def show_events(invocation: Invocation) -> int:
    args = invocation.args
    render = _formatter(args["format"])
    query: dict[str, object] = {
        "since": moment(args["since"]),
        "until": moment(args["until"]),
        "filters": encode_filters(args["filter"]),
    }
    with invocation.engine.events(query) as response:
        for event in response.values():
            invocation.out(render(event))
            sys.stdout.flush()
    return 0


VERBS = {
    "system events": Verb(
        show_events,
        "[OPTIONS]",
        "Get real time events from the server",
        (
            Option("filter", "filter", "Filter output based on conditions provided", "f"),
            Option("format", "string", FORMAT_VALUE),
            Option("since", "string", "Show all events created since timestamp"),
            Option("until", "string", "Stream events until this timestamp"),
        ),
        aliases=("system events", "events"),
    ),
}
