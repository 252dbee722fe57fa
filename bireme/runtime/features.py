"""What the runtime can do, as features.md of the runtime specification wants it told. Nothing here asks the kernel:
the words are those this code understands."""

from __future__ import annotations

from typing import Any

from bireme import __version__
from bireme.linux import capabilities
from bireme.linux.seccomp import table
from bireme.oci.runtime_spec import VERSION
from bireme.runtime import hooks, options
from bireme.runtime.plan import KINDS


def describe() -> dict[str, Any]:
    """The features document."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": list(hooks.KINDS),
        "mountOptions": sorted(options.known_words()),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": sorted(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": _seccomp(),
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": False},
        },
        "annotations": {"org.bireme.version": __version__},
        "potentiallyUnsafeConfigAnnotations": [],
    }


def _seccomp() -> dict[str, Any]:
    return {
        "enabled": True,
        "actions": sorted(table.ACTIONS),
        "operators": sorted(table.OPERATORS),
        "archs": sorted(table.ARCHITECTURES),
        "knownFlags": sorted(table.FLAGS),
        "supportedFlags": sorted(table.FLAGS),
    }
