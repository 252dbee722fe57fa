"""Images as the Engine API shows them."""

from __future__ import annotations

from typing import Any

from bireme.api.docker.services import Image
from bireme.api.docker.times import format_time

Shown = dict[str, Any]

VIRTUAL_SIZE_UNTIL = 44
FULL_CONFIG_UNTIL = 50

_CONFIG_DEFAULTS: Shown = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def full_id(image: Image) -> str:
    return image.id if ":" in image.id else f"sha256:{image.id}"


def tags_of(image: Image) -> list[str]:
    return [reference for reference in image.references if "@" not in reference]


def summary(image: Image, containers: int, version: int) -> Shown:
    """A row of GET /images/json; `containers` is how many use it, -1 when not counted."""
    config = image.document.get("config") or {}
    shown: Shown = {
        "Containers": containers,
        "Created": image.created_at_ns // 10**9,
        "Id": full_id(image),
        "Labels": config.get("Labels"),
        "ParentId": "",
        "RepoDigests": list(image.repo_digests),
        "RepoTags": tags_of(image),
        "SharedSize": -1,
        "Size": image.size_bytes,
    }
    if version < VIRTUAL_SIZE_UNTIL:
        shown["VirtualSize"] = image.size_bytes
        if not shown["RepoTags"] and not shown["RepoDigests"]:
            shown["RepoTags"], shown["RepoDigests"] = ["<none>:<none>"], ["<none>@<none>"]
    return shown


def document(image: Image, storage: str, version: int) -> Shown:
    """GET /images/{name}/json."""
    source = image.document
    config: Shown = dict(source.get("config") or {})
    if version < FULL_CONFIG_UNTIL:
        config = {**_CONFIG_DEFAULTS, **config}
    shown: Shown = {
        "Id": full_id(image),
        "RepoTags": tags_of(image),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": _last_comment(source),
        "Created": format_time(image.created_at_ns),
        "DockerVersion": "",
        "Author": source.get("author", ""),
        "Config": config,
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size_bytes,
        "GraphDriver": {"Name": storage, "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": format_time(0)},
    }
    if source.get("variant"):
        shown["Variant"] = source["variant"]
    if version < VIRTUAL_SIZE_UNTIL:
        shown["VirtualSize"] = image.size_bytes
    return shown


def _last_comment(source: Any) -> str:
    history = source.get("history") or []
    return str(history[-1].get("comment", "")) if history else ""
