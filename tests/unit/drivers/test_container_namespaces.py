"""Modes of namespaces in a launch plan."""

from __future__ import annotations

from typing import Any

import pytest

from bireme.drivers.container.config import Host, check
from bireme.errors import Invalid, Unsupported
from bireme.instance.driver import Placement, RootFilesystem
from bireme.instance.spec import InstanceId, InstanceSpec, Namespaces, NetworkRequest, ProcessSpec
from bireme.runtime.plan import LaunchPlan, spare_kind

ID = "c" * 64


def plan(network: str = "none", cgroup_parent: str = "", **modes: str) -> LaunchPlan:
    spec = InstanceSpec(
        image="i",
        process=ProcessSpec(args=("true",)),
        network=NetworkRequest(name=network),
        namespaces=Namespaces(**modes),
        cgroup_parent=cgroup_parent,
    )
    placed: dict[str, Any] = {"id": InstanceId("i"), "name": "n", "directory": "/d", "hostname": "h"}
    return check(Placement(spec=spec, root=RootFilesystem(lower=("/l",), upper="/u", work="/w"), **placed), Host())


def shm(made: LaunchPlan) -> list[str]:
    return [mount["source"] for mount in made["mounts"] if mount["target"] == "/dev/shm"]


def test_a_joined_namespace_brings_the_user_namespace() -> None:
    made = plan(f"container:{ID}", pid=f"container:{ID}")
    spaces = made["namespaces"]
    assert {kind for kind, path in spaces.items() if path} == {"net", "pid", "user"}
    assert {path for path in spaces.values() if path} == {f"/instance/{ID}"}
    assert spare_kind(made) == ""


def test_who_asks_for_the_hosts_user_namespace_gets_it() -> None:
    assert "user" not in plan(f"container:{ID}", user="host")["namespaces"]
    assert plan(f"container:{ID}", user="host")["namespaces"]["net"] == f"/instance/{ID}"


def test_ipc_modes() -> None:
    assert spare_kind(plan()) == spare_kind(plan(ipc="shareable")) == "none"
    assert shm(plan(ipc="host")) == ["/dev/shm"]
    assert shm(plan(ipc=f"container:{ID}")) == [f"/instance/{ID}/dev/shm"]
    none = plan(ipc="none")
    assert none["namespaces"]["ipc"] == ""
    assert none["skeleton"] is not None
    assert "/dev/shm" not in [mount["target"] for mount in none["skeleton"]["mounts"]]


@pytest.mark.parametrize("kind", ["user", "uts", "cgroup"])
def test_what_cannot_be_joined(kind: str) -> None:
    with pytest.raises(Unsupported, match=f"--{kind} container:x is not supported"):
        plan(**{kind: "container:x"})


@pytest.mark.parametrize(("given", "path"), [("/a/b", "/a/b"), ("a//b/", "/a/b"), ("../a", "/a"), ("/", "/")])
def test_a_parent_of_cgroups(given: str, path: str) -> None:
    made = plan(cgroup_parent=given)
    assert made["cgroup_path"] == path
    assert spare_kind(made) == ""


@pytest.mark.parametrize("given", ["a.slice", "/a/b.slice", "/" + "x" * 256, "/a\nb"])
def test_parents_that_cannot_be(given: str) -> None:
    with pytest.raises(Invalid, match="cgroup-parent"):
        plan(cgroup_parent=given)
