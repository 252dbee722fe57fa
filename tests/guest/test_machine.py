"""What the emulated machine promises the other tests; only meaningful inside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif("BIREME_GUEST" not in os.environ, reason="runs inside the emulated machine")


def test_systemd_is_the_first_process() -> None:
    assert Path("/proc/1/comm").read_text().strip() == "systemd"


def test_cgroup_v2_is_the_only_hierarchy() -> None:
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    assert "cgroup2" in kinds
    assert "cgroup" not in kinds


@pytest.mark.needs_kvm_linux
def test_kvm_is_there_with_guest_kernels() -> None:
    for name in ("cloud", "generic"):
        place = Path("/opt/kernels") / name
        release = (place / "release").read_text().strip()
        assert (place / "vmlinuz").read_bytes()[0x202:0x206] == b"HdrS"
        assert (place / "modules").resolve() == place / "lib/modules" / release
        assert list((place / "modules/kernel/fs/erofs").glob("*.ko"))


def test_the_checkout_is_importable_and_its_programs_are_installed() -> None:
    import bireme

    assert Path(bireme.__file__).is_relative_to("/srv/bireme")
    assert Path("/opt/venv/bin/biremed").exists()
