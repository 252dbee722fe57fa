"""What a CDI specification brings into a container."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from bireme.drivers.container.cdi import inject
from bireme.errors import BiremeError, Invalid, Unsupported
from bireme.instance.driver import Placement, RootFilesystem
from bireme.instance.spec import DeviceRequest, InstanceId, InstanceSpec, Mount, ProcessSpec


def placement(*names: str) -> Placement:
    spec = InstanceSpec(image="i", process=ProcessSpec(args=("true",), env=("A=1",)), cdi_devices=names)
    return Placement(
        id=InstanceId("i"), name="n", spec=spec, root=RootFilesystem(lower=()), directory="/d", hostname="h"
    )


def write(directory: pathlib.Path, name: str, **edits: Any) -> None:
    devices = [{"name": n, "containerEdits": {"env": [f"DEVICE={n}"], **edits}} for n in ("one", "two")]
    specification = {
        "cdiVersion": "0.6.0",
        "kind": "example.com/thing",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": devices,
    }
    (directory / name).write_text(json.dumps(specification))


def test_what_a_device_brings(tmp_path: pathlib.Path) -> None:
    mount = {"hostPath": "/usr/lib/x", "containerPath": "/lib/x", "options": ["ro", "nosuid", "rbind", "rslave"]}
    nodes = [{"path": "/dev/x", "hostPath": "/dev/null", "permissions": "rw"}, {"path": "/dev/zero"}]
    write(tmp_path, "x.json", deviceNodes=nodes, mounts=[mount], additionalGids=[44])
    made = inject(placement("example.com/thing=one"), (str(tmp_path), "/nowhere")).spec
    assert made.process.env == ("A=1", "ALL=1", "DEVICE=one")
    assert made.process.groups == ("44",)
    assert made.devices == (
        DeviceRequest(host_path="/dev/null", path="/dev/x", permissions="rw"),
        DeviceRequest(host_path="/dev/zero", path="/dev/zero"),
    )
    assert made.mounts == (
        Mount(
            kind="bind",
            source="/usr/lib/x",
            target="/lib/x",
            read_only=True,
            propagation="rslave",
            options=("nosuid",),
        ),
    )


def test_what_all_devices_of_a_specification_need_comes_once(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "x.yaml")
    made = inject(placement("example.com/thing=two", "example.com/thing=one"), (str(tmp_path),)).spec
    assert made.process.env == ("A=1", "ALL=1", "DEVICE=two", "DEVICE=one")


def test_the_last_directory_wins(tmp_path: pathlib.Path) -> None:
    first, last = tmp_path / "etc", tmp_path / "run"
    first.mkdir()
    last.mkdir()
    write(first, "x.json")
    write(last, "x.json", additionalGids=[7])
    made = inject(placement("example.com/thing=one"), (str(first), str(last))).spec
    assert made.process.groups == ("7",)


@pytest.mark.parametrize(
    ("name", "edits", "kind", "message"),
    [
        ("example.com/thing=three", {}, Invalid, "unresolvable CDI devices example.com/thing=three"),
        ("other.com/thing=one", {}, Invalid, "unresolvable CDI devices other.com/thing=one"),
        ("example.com/thing=one", {"hooks": [{"path": "/x"}]}, Unsupported, "needs hooks"),
        ("example.com/thing=one", {"deviceNodes": [{"path": "/dev/x", "uid": 7}]}, Unsupported, "sets uid"),
        ("example.com/thing=one", {"mounts": [{"type": "tmpfs"}]}, Unsupported, "type tmpfs"),
    ],
)
def test_refused(
    tmp_path: pathlib.Path, name: str, edits: dict[str, Any], kind: type[BiremeError], message: str
) -> None:
    write(tmp_path, "x.json", **edits)
    with pytest.raises(kind, match=message):
        inject(placement(name), (str(tmp_path),))


@pytest.mark.parametrize(
    "edits",
    [
        {"deviceNodes": [{"hostPath": "/dev/null"}]},
        {"mounts": [{"hostPath": "/x"}]},
        {"mounts": [{"containerPath": "/x"}]},
        {"mounts": "/x"},
        {"env": 5},
        {"env": [5]},
        {"additionalGids": ["wheel"]},
        {"deviceNodes": ["/dev/null"]},
    ],
)
def test_edits_of_another_shape(tmp_path: pathlib.Path, edits: dict[str, Any]) -> None:
    write(tmp_path, "x.json", **edits)
    with pytest.raises(Invalid, match="CDI"):
        inject(placement("example.com/thing=one"), (str(tmp_path),))


@pytest.mark.parametrize(
    "text", ["kind: example.com/thing\n", "[]", '{"devices": 1}', '{"containerEdits": "x"}', "\xff"]
)
def test_files_that_cannot_be_read(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(Invalid, match=r"cannot read .*x\.yaml"):
        inject(placement("example.com/thing=one"), (str(tmp_path),))
