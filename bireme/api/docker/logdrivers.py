"""Where a container's output is kept: the log driver of a create request, with dockerd's checks.

`local` is Docker's in what it promises: bounded (20 MiB in each of 5 files, unless asked otherwise), read by `logs`
alone. Its files have the format of json-file (supervisor/jsonfile.py), under another name.
"""

from __future__ import annotations

from collections.abc import Mapping

from bireme.api.docker.bodies import HostConfig
from bireme.api.docker.sizes import parse_size
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import LogConfig

DRIVERS = ("json-file", "local", "none")
LOCAL_SIZE_BYTES = 20 << 20
LOCAL_FILES = 5
_NOT_YET = ("awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog")
_SIZES = frozenset({"max-size", "max-file"})
_REFUSED = frozenset({"labels", "labels-regex", "env", "env-regex", "tag", "compress", "mode"})


def log_of(host: HostConfig) -> LogConfig:
    """Invalid with dockerd's words; Unsupported for drivers and options that are not there."""
    kind, options = host.LogConfig.Type or "json-file", host.LogConfig.Config
    if kind == "none":
        return LogConfig(driver="none")
    if kind == "json-file":
        return _json_file(options)
    if kind == "local":
        return _local(options)
    if kind in _NOT_YET:
        raise Unsupported(f"log driver {kind} is not supported yet", subject=kind, hint=f"{', '.join(DRIVERS)} are")
    raise Invalid(f"logger: no log driver named '{kind}' is registered", subject=kind)


def _json_file(options: Mapping[str, str]) -> LogConfig:
    for name in options:
        if name in _REFUSED:
            raise Unsupported(f"log opt '{name}' is not supported for json-file log driver")
        if name not in _SIZES:
            raise Invalid(f"unknown log opt '{name}' for json-file log driver", subject=name)
    size = parse_size(options["max-size"]) if options.get("max-size", "-1") != "-1" else 0
    files = _files(options.get("max-file", "1"))
    if files > 1 and not size:
        raise Invalid("max-file has no effect without max-size", subject="max-file")
    return LogConfig(max_size_bytes=size, max_files=files)


def _local(options: Mapping[str, str]) -> LogConfig:
    for name, value in options.items():
        if name == "compress":
            if value.lower() not in ("0", "f", "false"):
                raise Unsupported("log opt 'compress' is not supported for log driver local", hint="compress=false")
        elif name == "mode":
            if value != "blocking":
                raise Unsupported(f"log opt 'mode={value}' is not supported for log driver local")
        elif name not in _SIZES:
            raise Invalid(f"unknown log opt '{name}' for log driver local", subject=name)
    size = parse_size(options["max-size"]) if options.get("max-size") else LOCAL_SIZE_BYTES
    if size <= 0:
        raise Invalid("max-size must be a positive number", subject=options["max-size"])
    files = _files(options.get("max-file") or str(LOCAL_FILES))
    return LogConfig(driver="local", max_size_bytes=size, max_files=files)


def _files(text: str) -> int:
    if not text.isdecimal() or int(text[:9]) < 1:
        raise Invalid("max-file cannot be less than 1", subject=text)
    return int(text[:9])
