"""Files of an instance, seen from the engine: what a worker (files_worker.py) is asked, and with which descriptors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bireme.instance.driver import RootFilesystem, RootView
from bireme.instance.spec import Mount
from bireme.storage.worker import run_worker

_WORKER = "bireme.storage.files_worker"


class Task(NamedTuple):
    """One run of the worker: its request and the descriptors it gets (the caller's to close)."""

    request: Mapping[str, Any]
    descriptors: tuple[int, ...]

    def run(self, said: Callable[[Any], object] | None = None) -> dict[str, Any]:
        """Run it to its end; blocks. `said` gets what it tells before that."""
        return run_worker(_WORKER, self.request, self.descriptors, said)

    def with_stream(self, name: str, descriptor: int) -> Task:
        """The same with the "input" or "output" that its verb needs."""
        return Task({**self.request, name: descriptor}, (*self.descriptors, descriptor))


def at_path(view: RootView, verb: str, container: str, path: str, *, write: bool, **more: Any) -> Task:
    """stat, get or put. `write`: what does not run is mounted so that it can be changed."""
    request = {
        "verb": verb,
        "container": container,
        "path": path,
        "namespaces": list(view.descriptors),
        "root": merged(view.root, write=write),
        "mounts": [_bind(mount) for mount in view.mounts],
        "readonly": view.read_only,
        **more,
    }
    return Task(request, view.descriptors)


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "source": mount.source,
        "subpath": mount.subpath,
        "mounted": mount.mounted,
        "target": mount.target,
        "recursive": mount.recursive,
        "read_only": mount.read_only,
    }


def of_layers(view: RootView, verb: str, container: str) -> Task:
    """export, changes or diff: the root without what is mounted over it, as it is on disk."""
    request = {
        "verb": verb,
        "container": container,
        "root": merged(view.root, write=False),
        "image": _image(view.root),
        "upper": view.root.upper if view.root.lower else "",
    }
    return Task(request, ())


def merged(root: RootFilesystem, *, write: bool) -> dict[str, Any]:
    """The plan of the whole root. To be read only, the upper directory is one more layer below nothing: such a mount
    does not claim it."""
    if not root.lower:
        return {"path": root.upper}
    if write:
        return {"lower": list(root.lower), "upper": root.upper, "work": root.work}
    return {"lower": [root.upper, *root.lower]}


def _image(root: RootFilesystem) -> dict[str, Any]:
    """The plan of the root as the image has it; empty when that has no layers."""
    if root.lower:
        return {"lower": list(root.lower)}
    return {"path": root.layers[0]} if root.layers else {}
