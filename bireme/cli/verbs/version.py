"""version: of this client, and of the engine when there is one."""

from __future__ import annotations

import os
import sys
import time

from bireme import __version__
from bireme.cli.messages import error_text
from bireme.cli.option import FORMAT_VALUE, Option, Verb
from bireme.cli.units import parse_time
from bireme.client.jsontext import dumps_text
from bireme.errors import BiremeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_ENGINE_ROWS = (
    ("Version", "Version"),
    ("API version", "ApiVersion"),
    ("Go version", "GoVersion"),
    ("Git commit", "GitCommit"),
    ("Built", "BuildTime"),
    ("OS/Arch", "Os"),
    ("Experimental", "Experimental"),
)


def client_facts(invocation: Invocation) -> dict[str, Any]:
    machine = os.uname().machine
    return {
        "Version": __version__,
        "ApiVersion": invocation.engine.version,
        "DefaultAPIVersion": invocation.engine.default_version,
        "PythonVersion": ".".join(str(part) for part in sys.version_info[:3]),
        "Os": "linux",
        "Arch": _ARCHITECTURES.get(machine, machine),
        "Host": invocation.host,
    }


def _client_lines(facts: dict[str, Any]) -> list[str]:
    rows = (
        ("Version", facts["Version"]),
        ("API version", facts["ApiVersion"]),
        ("Python version", facts["PythonVersion"]),
        ("OS/Arch", f"{facts['Os']}/{facts['Arch']}"),
        ("Host", facts["Host"]),
    )
    return ["Client:", *(f" {label + ':':<18} {value}" for label, value in rows)]


def _built(text: str) -> str:
    """As Go's ANSIC layout writes it, whatever the engine sent."""
    seconds = parse_time(text)
    if not seconds:
        return text
    clock = time.gmtime(seconds)
    return time.strftime(f"%a %b {clock.tm_mday:2d} %H:%M:%S %Y", clock)


def _row_value(key: str, details: dict[str, Any], version: str) -> str:
    if key == "Version":
        return version
    if key == "Os":
        return f"{details.get('Os', '')}/{details.get('Arch', '')}"
    value = str(details.get(key) or "")
    if key == "ApiVersion" and value:
        return f"{value} (minimum version {details.get('MinAPIVersion', '')})"
    return _built(value) if key == "BuildTime" else value


def _server_lines(server: dict[str, Any]) -> list[str]:
    platform = str((server.get("Platform") or {}).get("Name") or "")
    lines = ["", f"Server: {platform}".rstrip()]
    components = server.get("Components") or [
        {"Name": "Engine", "Version": server.get("Version", ""), "Details": server}
    ]
    for component in components:
        details: dict[str, Any] = component.get("Details") or {}
        version = str(component.get("Version") or "")
        lines.append(f" {component.get('Name', '')}:")
        if component.get("Name") == "Engine":
            rows = [(label, _row_value(key, details, version)) for label, key in _ENGINE_ROWS]
        else:
            rows = [("Version", version), *((key, str(value)) for key, value in sorted(details.items()))]
        lines += [f"  {label + ':':<17} {value}" for label, value in rows if value]
    return lines


def show_version(invocation: Invocation) -> int:
    form, client = invocation.args["format"], client_facts(invocation)
    server: dict[str, Any] | None = None
    failure = ""
    try:
        server = invocation.engine.server_version()
    except BiremeError as error:
        failure = error_text(error)
    if form == "json":
        invocation.out(dumps_text({"Client": client, "Server": server}))
    elif form:
        from bireme.cli.template import Template

        template = Template(form)
        if not failure or ".Server" not in form:
            invocation.out(template.render({"Client": client, "Server": server}))
    else:
        for line in _client_lines(client) + (_server_lines(server) if server else []):
            invocation.out(line)
    if failure:
        invocation.err(failure)
        return 1
    return 0


VERBS = {
    "version": Verb(
        show_version,
        "[OPTIONS]",
        "Show the version information of client and engine",
        (Option("format", "string", FORMAT_VALUE, "f"),),
    ),
}
