import os
from pathlib import Path

import pytest

from bireme.errors import Unsupported
from bireme.linux import probe


def test_every_feature_has_an_answer_and_leaves_no_child_or_descriptor() -> None:
    probe.report()
    before = os.listdir("/proc/self/fd")
    for feature in probe.FEATURES.values():
        clear = getattr(feature.probe, "cache_clear", None)
        if clear is not None:
            clear()
    found = probe.report()
    assert found.keys() == probe.FEATURES.keys()
    assert all(isinstance(reason, str) for reason in found.values())
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert probe.cgroup_version() in (0, 1, 2)


def test_kvm_that_cannot_run_linux_says_why_and_what_helps() -> None:
    reason = probe.kvm_runs_linux()
    assert reason == "" or reason == f"{probe.hardware_virtualisation()}: {probe.FEATURES['kvm'].hint}"


def test_what_is_missing_is_unsupported_with_reason_and_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probe.FEATURES, "nothing_such", probe.Feature(lambda: "not built", "build it"))
    with pytest.raises(Unsupported, match="nothing such not available: not built") as caught:
        probe.require("nothing_such")
    assert caught.value.hint == "build it"
    monkeypatch.setitem(probe.FEATURES, "there", probe.Feature(lambda: "", ""))
    probe.require("there")


@pytest.mark.needs_root
def test_idmapped_mounts_of_a_file_system(tmp_path: Path) -> None:
    assert "mount_setattr" in probe.idmapped_mounts("/proc")
    with pytest.raises(Unsupported, match="no idmapped mounts at /proc"):
        probe.require_idmapped_mounts("/proc")
    reason = probe.idmapped_mounts(str(tmp_path))
    if not reason:
        probe.require_idmapped_mounts(str(tmp_path))
