"""The Dockerfile instructions that commit and import take as changes of a configuration: CMD, ENTRYPOINT, ENV, EXPOSE,
HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR. Pure; words and messages are Docker's.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bireme.errors import Invalid
from bireme.image.words import pairs, words
from bireme.oci.image_spec import Healthcheck, ImageConfig

_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_NOT_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")


def apply_changes(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    """`config` after the instructions, in their order; Invalid for one that is no such instruction or malformed."""
    command_given = False
    for line in (line.strip() for change in changes for line in change.splitlines()):
        if not line or line.startswith("#"):
            continue
        name, rest = _instruction(line)
        handler = _HANDLERS.get(name)
        if handler is None:
            raise Invalid(f"{name} is not a valid change command", subject=line)
        if not rest:
            raise Invalid(f"{name} requires at least one argument", subject=line)
        config = handler(config, rest)
        if name == "ENTRYPOINT" and not command_given:
            config = msgspec.structs.replace(config, cmd=None)
        command_given = command_given or name == "CMD"
    return config


def _instruction(line: str) -> tuple[str, str]:
    name, *rest = line.split(None, 1)
    return name.upper(), rest[0].strip() if rest else ""


def _command(text: str) -> list[str]:
    """The exec form when it is a JSON list of strings, else the shell form."""
    found = _json_list(text)
    return ["/bin/sh", "-c", text] if found is None else found


def _json_list(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.MsgspecError:
        return None


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, cmd=_command(text))


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, entrypoint=_command(text) or None)


def _variables(config: ImageConfig) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in config.env or () if "=" in entry)


def _env(config: ImageConfig, text: str) -> ImageConfig:
    env = _variables(config)
    for name, value in pairs("ENV", text, dict(env)):
        env[name] = value
    return msgspec.structs.replace(config, env=[f"{name}={value}" for name, value in env.items()])


def _label(config: ImageConfig, text: str) -> ImageConfig:
    labels = {**(config.labels or {}), **dict(pairs("LABEL", text, _variables(config)))}
    return msgspec.structs.replace(config, labels=labels)


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = dict(config.exposed_ports or {})
    for word in words(text, _variables(config)):
        ports.update((port, {}) for port in _ports(word))
    return msgspec.structs.replace(config, exposed_ports=ports)


def _ports(word: str) -> list[str]:
    numbers, _, protocol = word.rpartition(":")[2].partition("/")
    protocol = (protocol or "tcp").lower()
    first, dash, last = numbers.partition("-")
    if protocol not in ("tcp", "udp", "sctp"):
        raise Invalid(f"invalid proto: {protocol}", subject=word)
    if not all(part.isascii() and part.isdigit() and int(part[:6]) < 65536 for part in (first, last or first)):
        raise Invalid(f"invalid containerPort: {word}", subject=word)
    low, high = int(first), int(last) if dash else int(first)
    if high < low:
        raise Invalid(f"invalid range specified for port: {word}", subject=word)
    return [f"{number}/{protocol}" for number in range(low, high + 1)]


def _onbuild(config: ImageConfig, text: str) -> ImageConfig:
    trigger, _ = _instruction(text)
    if trigger == "ONBUILD":
        raise Invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", subject=text)
    if trigger in _NOT_TRIGGERS:
        raise Invalid(f"{trigger} isn't allowed as an ONBUILD trigger", subject=text)
    return msgspec.structs.replace(config, on_build=[*(config.on_build or ()), text])


def _one(name: str, config: ImageConfig, text: str) -> str:
    found = words(text, _variables(config))
    if len(found) != 1:
        raise Invalid(f"{name} requires exactly one argument", subject=text)
    return found[0]


def _user(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, user=_one("USER", config, text))


def _stop_signal(config: ImageConfig, text: str) -> ImageConfig:
    return msgspec.structs.replace(config, stop_signal=_one("STOPSIGNAL", config, text))


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    paths: Sequence[str] | None = _json_list(text)
    found = [path.strip() for path in (words(text, _variables(config)) if paths is None else paths)]
    if not all(found):
        raise Invalid("VOLUME specified can not be an empty string", subject=text)
    return msgspec.structs.replace(config, volumes={**(config.volumes or {}), **{path: {} for path in found}})


def _workdir(config: ImageConfig, text: str) -> ImageConfig:
    path = " ".join(words(text, _variables(config)))
    return msgspec.structs.replace(
        config, working_dir=posixpath.normpath(posixpath.join("/", config.working_dir, path))
    )


def _healthcheck(config: ImageConfig, text: str) -> ImageConfig:
    options: dict[str, int] = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option[2:].partition("=")
        key = name.replace("-", "_")
        if key not in ("interval", "timeout", "start_period", "start_interval", "retries"):
            raise Invalid(f"Unknown flag: {name}", subject=option)
        options[key] = _duration(value) if key != "retries" else _retries(value)
        text = text.strip()
    kind, rest = _instruction(text or "-")
    if kind == "NONE" and not rest and not options:
        return msgspec.structs.replace(config, healthcheck=Healthcheck(test=["NONE"]))
    if kind != "CMD" or not rest:
        raise Invalid(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)', subject=text)
    command = _json_list(rest)
    test = ["CMD-SHELL", rest] if command is None else ["CMD", *command]
    return msgspec.structs.replace(config, healthcheck=Healthcheck(test=test, **options))


def _retries(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise Invalid(f'strconv.ParseInt: parsing "{text}": invalid syntax', subject="retries")
    return int(text[:9])


def _duration(text: str) -> int:
    """Nanoseconds of a Go duration of whole or decimal numbers."""
    total, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        unit = rest[: len(rest) - len(rest.lstrip("numshµ"))]
        rest = rest[len(unit) :]
        if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
            raise Invalid(f'time: invalid duration "{text}"', subject=text)
        total += float(number) * _UNITS[unit]
    return int(total)


_HANDLERS: dict[str, Callable[[ImageConfig, str], ImageConfig]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
