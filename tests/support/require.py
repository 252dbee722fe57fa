"""What this machine offers a test, and the promise that turns "not here" into a failure.

A marker `needs_x` asks for feature x. Where the feature is missing the test is skipped with the reason, unless the
environment promises it: BIREME_REQUIRE=kvm,cgroup_v2 (or `all`) makes the same test fail, so that a lane made to
run those tests can never pass by skipping them.
"""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

from tests.support.dockercli import DOCKER

CGROUP_ROOT = Path("/sys/fs/cgroup")


def _root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def _kvm() -> str:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return ""


def _kvm_linux() -> str:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    return _kvm() or ("" if flags & {"vmx", "svm"} else "the CPU has neither VMX nor SVM: Linux does not boot in KVM")


def _cgroup_v1() -> str:
    return "" if (CGROUP_ROOT / "memory" / "cgroup.procs").exists() else "no cgroup v1 controllers are mounted"


def _cgroup_v2() -> str:
    controllers = CGROUP_ROOT / "cgroup.controllers"
    if not controllers.exists():
        return "cgroup v2 is not mounted as the only hierarchy"
    missing = {"cpu", "memory", "pids"} - set(controllers.read_text().split())
    return f"cgroup v2 lacks {sorted(missing)}" if missing else ""


def _qemu() -> str:
    return "" if shutil.which("qemu-system-x86_64") else "qemu-system-x86_64 is not installed"


def _docker() -> str:
    return "" if DOCKER else "no docker command line client"


FEATURES = {
    "root": _root,
    "kvm": _kvm,
    "kvm_linux": _kvm_linux,
    "cgroup_v1": _cgroup_v1,
    "cgroup_v2": _cgroup_v2,
    "qemu": _qemu,
    "docker": _docker,
}


@cache
def missing(feature: str) -> str:
    """Why `feature` cannot be used here, "" when it can."""
    return FEATURES[feature]()


def promised(feature: str) -> bool:
    """Whether this run was told that the feature is there."""
    names = os.environ.get("BIREME_REQUIRE", "").split(",")
    return feature in names or "all" in names


def require(feature: str) -> None:
    """Skip the running test when the feature is missing; fail it when the run promised the feature."""
    reason = missing(feature)
    if not reason:
        return
    if promised(feature):
        pytest.fail(f"{feature} is required (BIREME_REQUIRE) and missing: {reason}", pytrace=False)
    pytest.skip(f"needs {feature}: {reason}")
