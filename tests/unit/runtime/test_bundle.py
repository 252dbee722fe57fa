"""Bundles that cannot be used say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bireme.errors import BiremeError, NotFound
from bireme.runtime.bundle import open_bundle


def write(path: Path, **changes: Any) -> Path:
    config: dict[str, Any] = {"ociVersion": "1.0.2", "process": {"args": ["x"]}, "root": {"path": "rootfs"}}
    config |= changes
    (path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return path


def test_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    bundle = open_bundle(str(write(tmp_path, annotations={"a": "b"})))
    assert bundle.path == str(tmp_path)
    assert bundle.rootfs == str(tmp_path / "rootfs")
    assert json.loads(bundle.text) == bundle.config
    write(tmp_path, root={"path": str(tmp_path / "rootfs")})
    assert open_bundle(str(tmp_path)).rootfs == bundle.rootfs


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ociVersion": None}, "OCI version"),
        ({"ociVersion": "2.0.0"}, "OCI version"),
        ({"ociVersion": 1}, "OCI version"),
        ({"process": None}, "process"),
        ({"process": []}, "process"),
        ({"root": None}, "root.path"),
        ({"root": {"path": 5}}, "root.path"),
        ({"root": {"path": "other"}}, "does not exist"),
        ({"linux": []}, "linux"),
        ({"mounts": {}}, "mounts"),
        ({"hooks": {"x": []}}, "hook"),
        ({"annotations": {"a": 1}}, "annotations"),
    ],
)
def test_configurations_that_are_none(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    (tmp_path / "rootfs").mkdir()
    with pytest.raises(BiremeError, match=text):
        open_bundle(str(write(tmp_path, **changes)))


@pytest.mark.parametrize("text", ["", "{", "[]", "nonsense", '{"a": 1,}'])
def test_text_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BiremeError, match=r"config\.json"):
        open_bundle(str(tmp_path))


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_bundle(str(tmp_path / "nowhere"))
