"""info: the engine's own account of itself."""

from __future__ import annotations

from bireme import __version__
from bireme.cli.messages import error_text
from bireme.cli.option import FORMAT_VALUE, Option, Verb
from bireme.cli.units import binary_size
from bireme.client.jsontext import dumps_text
from bireme.errors import BiremeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation

_BEFORE_STORAGE = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
)
_LOGGING = (("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"), ("Cgroup Version", "CgroupVersion"))
_HOST = (
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
)
_IDENTITY = (("Name", "Name"), ("ID", "ID"), ("Root Dir", "DockerRootDir"))


def _rows(info: dict[str, Any], rows: tuple[tuple[str, str], ...]) -> list[str]:
    return [f"{label}: {info[key]}" for label, key in rows if info.get(key) not in (None, "")]


def _plugins(info: dict[str, Any]) -> list[str]:
    plugins = info.get("Plugins") or {}
    kinds = [(kind, plugins.get(kind)) for kind in ("Volume", "Network", "Authorization", "Log")]
    lines = [f" {kind}: {' '.join(names)}" for kind, names in kinds if names]
    return ["Plugins:", *lines] if lines else []


def _security(info: dict[str, Any]) -> list[str]:
    lines = []
    for option in info.get("SecurityOptions") or ():
        fields = [field.partition("=") for field in str(option).split(",")]
        name = next((value for key, _, value in fields if key == "name"), str(option))
        lines.append(f" {name}")
        lines += [f"  {key.capitalize()}: {value}" for key, _, value in fields if key != "name"]
    return ["Security Options:", *lines] if lines else []


def _yes(value: object) -> str:
    return "true" if value else "false"


def _list(label: str, values: list[Any]) -> list[str]:
    return [f"{label}:", *(f" {value}" for value in values)] if values else []


def server_lines(info: dict[str, Any]) -> list[str]:
    lines = _rows(info, _BEFORE_STORAGE)
    lines += [f" {key}: {value}" for key, value in info.get("DriverStatus") or ()]
    lines += _rows(info, _LOGGING) + _plugins(info)
    swarm = (info.get("Swarm") or {}).get("LocalNodeState")
    lines += [f"Swarm: {swarm}"] if swarm else []
    runtimes = info.get("Runtimes") or {}
    lines += [f"Runtimes: {' '.join(sorted(runtimes))}"] if runtimes else []
    lines += _rows(info, (("Default Runtime", "DefaultRuntime"), ("Init Binary", "InitBinary")))
    lines += _security(info) + _rows(info, _HOST)
    lines += [f"Total Memory: {binary_size(int(info.get('MemTotal') or 0))}", *_rows(info, _IDENTITY)]
    lines += [f"Debug Mode: {_yes(info.get('Debug'))}"]
    lines += _list("Labels", info.get("Labels") or [])
    lines += [f"Experimental: {_yes(info.get('ExperimentalBuild'))}"]
    registries = (info.get("RegistryConfig") or {}).get("InsecureRegistryCIDRs") or []
    lines += _list("Insecure Registries", registries)
    return [*lines, f"Live Restore Enabled: {_yes(info.get('LiveRestoreEnabled'))}"]


def _fetch(invocation: Invocation) -> tuple[dict[str, Any], str]:
    try:
        return invocation.engine.info(), ""
    except BiremeError as error:
        return {}, error_text(error)


def show_info(invocation: Invocation) -> int:
    form = invocation.args["format"]
    info, failure = _fetch(invocation)
    client = {"Version": __version__, "Host": invocation.host}
    if form == "json":
        errors = [failure] if failure else []
        invocation.out(dumps_text(info | {"ClientInfo": client} | ({"ServerErrors": errors} if errors else {})))
    elif form:
        from bireme.cli.template import Template

        invocation.out(Template(form).render(info | {"ClientInfo": client}))
    else:
        invocation.out(f"Client:\n Version:    {__version__}\n Host:       {invocation.host}\n\nServer:")
        for line in server_lines(info) if info else ():
            invocation.out(f" {line}")
    if failure:
        invocation.err(failure)
        return 1
    warnings = info.get("Warnings") or []
    if warnings and not form:
        invocation.err("\n" + "\n".join(str(warning) for warning in warnings))
    return 0


VERBS = {
    "system info": Verb(
        show_info,
        "[OPTIONS]",
        "Display system-wide information",
        (Option("format", "string", FORMAT_VALUE, "f"),),
        aliases=("system info", "info"),
    ),
}
