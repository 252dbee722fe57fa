"""From configuration to plan: pure, so every rule is checked here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.runtime import defaults
from bireme.runtime.plan import LaunchPlan, RootPlan, exec_namespaces, plan_exec, plan_launch, spare_kind

ROOT: RootPlan = {"lower": ["/l"], "upper": "/x/fs", "work": "/x/work"}


def _config(**linux: Any) -> Any:
    config: Any = defaults.default_config(["sh"])
    config["linux"].update(linux)
    return config


def _plan(config: Any = None, **options: Any) -> LaunchPlan:
    return plan_launch(config or _config(), options.pop("root", ROOT), **options)


def test_the_default_configuration_fits_a_spare_and_is_json() -> None:
    plan = _plan(seccomp="default")
    assert spare_kind(plan) == "none"
    assert plan["skeleton"] is None
    assert plan["process"]["seccomp"] == "default"
    assert json.loads(json.dumps(plan)) == plan
    assert set(exec_namespaces(plan)) == {"pid", "net", "ipc", "uts", "mnt", "cgroup", "user"}


def test_a_bridge_interface_fits_the_other_kind() -> None:
    plan = _plan()
    interface: Any = {"name": "eth0", "bridge": "bireme0"}
    plan["network"] = {"interfaces": [interface]}
    assert spare_kind(plan) == "bridge"
    plan["network"] = {"interfaces": [{**interface, "name": "eth1"}]}
    assert spare_kind(plan) == ""
    plan["network"] = {"interfaces": [interface, interface]}
    assert spare_kind(plan) == ""


def _drop(kind: str) -> Any:
    config = _config()
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != kind]
    if kind == "uts":
        config.pop("hostname")
    return config


@pytest.mark.parametrize("kind", ["user", "network", "pid", "ipc", "uts", "cgroup"])
def test_a_namespace_of_the_host_takes_the_cold_path(kind: str) -> None:
    assert spare_kind(_plan(_drop(kind))) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"maskedPaths": ["/proc/kcore"]},
        {"readonlyPaths": []},
        {
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
            "gidMappings": [{"containerID": 0, "hostID": 1, "size": 2}],
        },
    ],
)
def test_masks_and_maps_of_its_own_take_the_cold_path(change: dict[str, Any]) -> None:
    assert spare_kind(_plan(_config(**change))) == ""


def test_only_the_size_of_shared_memory_may_differ() -> None:
    config = _config()
    config["mounts"] = defaults.default_mounts(shm_size_bytes=123 << 20)
    plan = _plan(config)
    assert spare_kind(plan) == "none"
    assert plan["shm_size_bytes"] == 123 << 20
    config["mounts"][-1]["options"].append("ro")
    assert spare_kind(_plan(config)) == ""


@pytest.mark.parametrize(("text", "size"), [("64m", 0), ("65536k", 0), ("1g", 1 << 30), ("1000", 1000)])
def test_sizes_of_shared_memory(text: str, size: int) -> None:
    config = _config()
    config["mounts"][-1]["options"][-1] = f"size={text}"
    assert _plan(config)["shm_size_bytes"] == size


def test_mounts_are_divided() -> None:
    config = _config()
    config["mounts"] += [
        {"destination": "/etc/hosts", "type": "bind", "source": "/h", "options": ["rbind", "ro", "rslave"]},
        {"destination": "/proc/cpuinfo", "type": "bind", "source": "/c", "options": ["bind"]},
        {"destination": "/run//x/../y", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "noexec"]},
    ]
    plan = _plan(config)
    assert spare_kind(plan) == "none"
    assert [(m["target"], m["kind"]) for m in plan["mounts"]] == [
        ("/etc/hosts", "bind"),
        ("/proc/cpuinfo", "bind"),
        ("/run/y", "filesystem"),
    ]
    hosts, _, run = plan["mounts"]
    assert (hosts["add"], hosts["recursive"], hosts["propagation"]) == (1, True, 1 << 19)
    assert (run["add"], run["options"]) == (8, [["size", "1m"]])


def test_a_bind_over_dev_leaves_the_skeleton_without_it() -> None:
    config = _config()
    config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/dev")]
    config["mounts"].insert(1, {"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]})
    config["mounts"].append({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": []})
    plan = _plan(config)
    assert plan["skeleton"] is not None
    assert [m["target"] for m in plan["skeleton"]["mounts"]] == ["/proc", "/sys", "/sys/fs/cgroup"]
    assert [m["target"] for m in plan["mounts"]] == ["/dev", "/dev/shm"]


def test_devices_go_to_the_skeleton_or_are_bound() -> None:
    device = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}
    outside = {"path": "/srv/null", "type": "c", "major": 1, "minor": 3}
    stock = _plan(_config(devices=[device, outside, *defaults.default_devices()]))
    assert [d["path"] for d in stock["devices"]] == ["/dev/fuse", "/srv/null"]
    own = _plan(_config(devices=[device, outside], maskedPaths=[]))
    assert own["skeleton"] is not None
    assert [d["path"] for d in own["skeleton"]["devices"]] == ["/dev/fuse"]
    assert [d["path"] for d in own["devices"]] == ["/srv/null"]


def test_masks_outside_the_skeleton_come_last() -> None:
    plan = _plan(
        _config(maskedPaths=[*defaults.MASKED_PATHS, "/etc/secret"], readonlyPaths=[*defaults.READONLY_PATHS, "/srv"])
    )
    assert (plan["masked"], plan["readonly"]) == (["/etc/secret"], ["/srv"])
    assert spare_kind(plan) == "none"


def test_an_init_program_comes_first() -> None:
    plan = _plan(init="/lib/init")
    assert plan["process"]["args"] == ["/sbin/docker-init", "--", "sh"]
    assert plan["mounts"][-1]["source"] == "/lib/init"


def test_added_capabilities_change_the_default_filter() -> None:
    config = _config()
    config["process"]["capabilities"]["bounding"] = [*config["process"]["capabilities"]["bounding"], "CAP_SYS_ADMIN"]
    plan = _plan(config, seccomp="default")
    assert plan["process"]["seccomp"] not in ("", "default")


def _process(**changes: Any) -> Any:
    config = _config()
    config["process"].update(changes)
    return config


def _mount(**fields: Any) -> Any:
    config = _config()
    config["mounts"].append({"destination": "/x", "type": "bind", "source": "/s", "options": ["bind"], **fields})
    return config


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        (_process(args=[]), Invalid, "no command specified"),
        (_process(args=["a\0b"]), Invalid, "NUL"),
        (_process(cwd="relative"), Invalid, "absolute path"),
        (_process(user={"uid": -1, "gid": 0}), Invalid, "range 0-2147483647"),
        (_process(oomScoreAdj=2000), Invalid, "oom score adj"),
        (_process(rlimits=[{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]), Invalid, "unknown rlimit"),
        (_process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]), Invalid, "above the hard limit"),
        (_process(rlimits=[{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2), Invalid, "twice"),
        (_process(capabilities={"bounding": ["CAP_FLY"]}), Invalid, "unknown capability"),
        (_process(apparmorProfile="x"), Unsupported, "apparmorProfile"),
        (_process(selinuxLabel="x"), Unsupported, "selinuxLabel"),
        (_mount(destination="x"), Invalid, "absolute path"),
        (_mount(destination="/"), Invalid, "invalid mount destination"),
        (_mount(destination="/a/../.."), Invalid, "invalid mount destination"),
        (_mount(source="rel"), Invalid, "absolute path"),
        (_mount(options=["bind", "size=1"]), Invalid, "unknown option"),
        (_mount(type="nfs", options=[]), Invalid, "unknown file system type"),
        (_mount(type="cgroup", options=[]), Invalid, "below /sys"),
        (_mount(type="tmpfs", options=["tmpcopyup"]), Unsupported, "tmpcopyup"),
        (_config(namespaces=[{"type": "moon"}]), Invalid, "unknown namespace"),
        (_config(namespaces=[{"type": "mount", "path": "/p"}]), Unsupported, "mount namespace"),
        (_config(namespaces=[]), Unsupported, "mount namespace"),
        (_config(namespaces=[{"type": "mount"}, {"type": "mount"}]), Invalid, "twice"),
        (_config(sysctl={"kernel.panic": "1"}), Invalid, "not in a separate kernel namespace"),
        (_config(sysctl={"net/../kernel.panic": "1"}), Invalid, "invalid sysctl"),
        (_config(maskedPaths=["rel"]), Invalid, "plain absolute path"),
        (_config(maskedPaths=["/proc/../etc"]), Invalid, "plain absolute path"),
        (_config(rootfsPropagation="sideways"), Invalid, "rootfsPropagation"),
        (_config(uidMappings=[{"containerID": 0, "hostID": 1, "size": 2}]), Invalid, "go together"),
        (_config(devices=[{"path": "/dev/x", "type": "q"}]), Invalid, "invalid device"),
        (_config(devices=[{"path": "/dev/../x", "type": "c", "major": 1, "minor": 1}]), Invalid, "invalid device"),
        (_config(devices=[{"path": "/dev/x", "type": "c"}]), Invalid, "no numbers"),
        (_config(intelRdt={"a": 1}), Unsupported, "intelRdt"),
    ],
)
def test_what_is_wrong_is_said(config: Any, kind: type[BiremeError], words: str) -> None:
    with pytest.raises(kind, match=words):
        _plan(config)


@pytest.mark.parametrize(
    ("kind", "key"), [("network", "net.ipv4.ip_forward"), ("ipc", "kernel.shmmax"), ("uts", "kernel.domainname")]
)
def test_a_sysctl_of_a_namespace_of_the_host_is_refused(kind: str, key: str) -> None:
    _plan(_config(sysctl={key: "1"}))
    config = _drop(kind)
    config["linux"]["sysctl"] = {key: "1"}
    with pytest.raises(Invalid, match="not allowed"):
        _plan(config)


def test_roots_are_checked() -> None:
    with pytest.raises(Invalid, match="neither"):
        _plan(root={})
    with pytest.raises(Invalid, match="work"):
        _plan(root={"lower": ["/a"], "upper": "/b"})


def test_too_many_binds_are_refused() -> None:
    config = _config()
    bind = {"destination": "/x", "type": "bind", "source": "/s", "options": ["bind"]}
    config["mounts"] += [dict(bind, destination=f"/x{n}") for n in range(201)]
    with pytest.raises(Invalid, match="201 binds"):
        _plan(config)


def test_an_exec_plan() -> None:
    plan = plan_exec(_config()["process"], user="kim", groups=("staff",), seccomp="default")
    assert (plan["user"], plan["group_names"], plan["seccomp"]) == ("kim", ["staff"], "default")
    assert plan["capabilities"]["bounding"] == 0xA80425FB
    assert plan["capabilities"]["inheritable"] == plan["capabilities"]["ambient"] == 0


def test_flags_of_a_seccomp_profile_reach_the_load() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
    }
    assert _plan(_config(seccomp=profile))["process"]["seccomp_flags"] == 6
    assert _plan(seccomp="default")["process"]["seccomp_flags"] == 0
    with pytest.raises(Unsupported, match="SECCOMP_FILTER_FLAG_NEW_LISTENER"):
        _plan(_config(seccomp={**profile, "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]}))
