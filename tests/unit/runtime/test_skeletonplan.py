"""The steps of a skeleton: what comes in which order, and what a missing path costs."""

from __future__ import annotations

from bireme.linux.procfs import CgroupMount
from bireme.linux.steps import Step
from bireme.runtime.mountplan import STOCK, SkeletonPlan
from bireme.runtime.skeletonplan import plan_skeleton


def words(rows: list[Step]) -> list[str]:
    return [f"{row.call or row.function.__name__} {row.subject}".strip() for row in rows]


def a_plan(*targets: tuple[str, str]) -> SkeletonPlan:
    mounts = [{"target": t, "type": kind, "source": kind, "flags": 14, "data": ""} for t, kind in targets]
    return {"mounts": mounts, "masked": [], "readonly": [], "devices": []}  # type: ignore[typeddict-item]


def hierarchy(name: str, version: int = 1) -> CgroupMount:
    return CgroupMount(path=f"/sys/fs/cgroup/{name}", own="/x", options=name, version=version)


def test_stock_mounts_each_after_its_directory() -> None:
    found = words(plan_skeleton(STOCK, [hierarchy("cpu,cpuacct")], cgroup_private=True).mounts)
    for target in ("proc", "dev/pts", "sys", "sys/fs/cgroup/cpu,cpuacct", "dev/mqueue", "dev/shm"):
        assert found.index(f"mkdir {target}") < found.index(f"mount {target}")
    assert found.index("mount sys") < found.index("mount sys/fs/cgroup")
    assert "mkdir dev" not in found
    assert {"symlink dev/fd", "symlink sys/fs/cgroup/cpu", "symlink sys/fs/cgroup/cpuacct"} <= set(found)
    assert len(found) == len(set(found)) + 1, "the cgroup tmpfs is mounted, then made read-only"


def test_parents_are_made_once() -> None:
    found = words(plan_skeleton(a_plan(("/dev/a/b", "tmpfs"), ("/dev/a/c", "tmpfs")), [], cgroup_private=True).mounts)
    assert found == ["mkdir dev", "mkdir dev/a", "mkdir dev/a/b", "mount dev/a/b", "mkdir dev/a/c", "mount dev/a/c"]


def test_cgroups_of_version_2_come_by_descriptor_or_from_the_host() -> None:
    plan = a_plan(("/sys/fs/cgroup", "cgroup"))
    for private, function in ((True, "_mount_unified"), (False, "_bind_from_host")):
        found = words(plan_skeleton(plan, [hierarchy("", 2)], cgroup_private=private).mounts)
        assert found[-1] == function


def test_a_read_only_path_that_is_missing_is_not_remounted() -> None:
    plan = a_plan(("/proc", "proc"))
    plan["readonly"] = ["/proc/bus"]
    bind, remount = plan_skeleton(plan, [], cgroup_private=True).covers
    assert (bind.rest, remount.rest) == (1, 0)
    assert remount.tolerated == 0


def test_masks_need_a_null_of_their_own_to_be_planned() -> None:
    plan = a_plan(("/proc", "proc"))
    plan["masked"] = ["/proc/keys"]
    assert words(plan_skeleton(plan, [], cgroup_private=True).covers) == ["_mask"]
    plan = a_plan(("/proc", "proc"), ("/dev", "tmpfs"))
    plan["masked"] = ["/proc/keys", "/proc/self"]
    assert words(plan_skeleton(plan, [], cgroup_private=True).covers) == [
        "mount proc/keys",
        "mount proc/self",
        "mount proc/self",
    ]
