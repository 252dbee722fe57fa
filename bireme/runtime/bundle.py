"""A bundle on disk: config.json read and checked as far as the command line needs it (bundle.md)."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from bireme.errors import Invalid, NotFound
from bireme.runtime import hooks

_MAX_CONFIG_BYTES = 16 << 20


class Bundle(NamedTuple):
    """`rootfs` is absolute; `text` the bytes of config.json."""

    path: str
    config: Any
    text: bytes
    rootfs: str
    hooks: dict[str, list[dict[str, Any]]]


def read_json(path: str, what: str) -> tuple[Any, bytes]:
    """A JSON object from a file and its bytes; NotFound or Invalid with the file's name."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"{what} {path} not found", subject=path) from None
    if len(text) > _MAX_CONFIG_BYTES:
        raise Invalid(f"{what} {path} is larger than {_MAX_CONFIG_BYTES >> 20} MiB", subject=path)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Invalid(f"{what} {path}: {error}", subject=path) from None
    if not isinstance(value, dict):
        raise Invalid(f"{what} {path} is not an object", subject=path)
    return value, text


def open_bundle(directory: str) -> Bundle:
    """Read and check the bundle in `directory`."""
    path = os.path.realpath(directory or ".")
    config, text = read_json(f"{path}/config.json", "JSON specification file")
    version = config.get("ociVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise Invalid(f"unsupported OCI version {version!r}", place="ociVersion")
    for key, kind in (("process", dict), ("root", dict), ("linux", dict), ("hooks", dict), ("mounts", list)):
        if not isinstance(config.get(key, kind()), kind):
            raise Invalid(f"{key} in config.json is not {'an object' if kind is dict else 'a list'}", place=key)
    if "process" not in config:
        raise Invalid("process property must not be empty", place="process")
    given = config.get("root", {}).get("path")
    if not isinstance(given, str) or not given:
        raise Invalid("root.path in config.json is missing", place="root.path")
    rootfs = os.path.normpath(os.path.join(path, given))
    if not os.path.isdir(rootfs):
        raise NotFound(f"rootfs ({rootfs}) does not exist", subject=rootfs)
    annotations = config.get("annotations", {})
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise Invalid("annotations are not texts by name", place="annotations")
    return Bundle(path, config, text, os.path.realpath(rootfs), hooks.check(config.get("hooks", {})))
