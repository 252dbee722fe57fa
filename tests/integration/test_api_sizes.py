"""Sizes against a real engine: what a container writes is what ps, inspect and system df tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bireme.client.engine import Engine
from bireme.client.errors import ApiError
from tests.support.daemon import RunningEngine, running_engine
from tests.support.dockercli import DOCKER, skip_before

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("sizes")) as running:
        yield running


@pytest.fixture
def container(engine: RunningEngine) -> Iterator[str]:
    """One that wrote 1,500,000 bytes under two names, replaced a file of its image, removed another and runs."""
    script = "head -c 1500000 /dev/zero > /data && ln /data /again && rm /bin/vi && ln -s / /l && sleep 600"
    done = engine.bireme("run", "-d", "--name", "writer", "busybox", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    ready = engine.bireme("exec", "writer", "sh", "-c", "while [ ! -L /l ]; do sleep 0.01; done")
    assert ready.returncode == 0, ready.stderr
    yield done.stdout.strip()
    engine.bireme("rm", "-f", "writer")


def _df(engine: RunningEngine, query: dict[str, object] | None = None, version: str = "1.47") -> dict[str, Any]:
    client = Engine(engine.host, version)
    try:
        return dict(client.call("GET", "/system/df", query))
    finally:
        client.close()


WRITTEN = 1_500_000 + 1
"""The file once, and the symbolic link."""


def test_ps_and_inspect(engine: RunningEngine, container: str) -> None:
    client = engine.client()
    row = client.containers({"size": True})[0]
    whole = client.image("busybox")["Size"] + WRITTEN
    assert (row["SizeRw"], row["SizeRootFs"]) == (WRITTEN, whole)
    assert "SizeRw" not in client.containers({})[0]
    shown = client.container("writer", size=True)
    assert (shown["SizeRw"], shown["SizeRootFs"]) == (WRITTEN, whole)
    assert "SizeRw" not in client.container("writer")
    client.close()
    table = engine.bireme("ps", "-s")
    assert table.returncode == 0
    assert "1.5MB (virtual " in table.stdout.splitlines()[1]
    assert engine.bireme("inspect", "-s", "-f", "{{.SizeRw}}", "writer").stdout == f"{WRITTEN}\n"


def test_a_container_that_never_ran(engine: RunningEngine) -> None:
    created = engine.bireme("create", "--name", "idle", "busybox", "true")
    assert created.returncode == 0
    client = engine.client()
    row = client.containers({"all": True, "size": True})[0]
    assert "SizeRw" not in row
    assert row["SizeRootFs"] == client.image("busybox")["Size"]
    assert client.container("idle", size=True)["SizeRw"] == 0
    client.close()
    assert engine.bireme("rm", "idle").returncode == 0


def test_disk_usage(engine: RunningEngine, container: str) -> None:
    usage = _df(engine)
    image = usage["Images"][0]
    assert usage["LayersSize"] == image["Size"]
    assert (image["Containers"], image["SharedSize"], "VirtualSize" in image) == (1, 0, False)
    assert [(row["Id"], row["SizeRw"]) for row in usage["Containers"]] == [(container, WRITTEN)]
    assert (usage["Volumes"], usage["BuildCache"], "ImageUsage" in usage) == ([], [], False)
    old = _df(engine, version="1.41")
    assert (old["BuilderSize"], old["Images"][0]["VirtualSize"]) == (0, image["Size"])


def test_disk_usage_by_type(engine: RunningEngine, container: str) -> None:
    only = _df(engine, {"type": ["image", "volume"]})
    assert (only["Containers"], only["BuildCache"], only["Volumes"]) == (None, None, [])
    assert only["LayersSize"] > 0
    rest = _df(engine, {"type": "container"})
    assert (rest["LayersSize"], rest["Images"]) == (0, None)
    assert _df(engine, {"type": "container"}, "1.41")["Images"]
    with pytest.raises(ApiError) as refused:
        _df(engine, {"type": "lake"})
    assert (refused.value.status, refused.value.message) == (400, "unknown object type: lake")


def test_disk_usage_in_sums(engine: RunningEngine, container: str) -> None:
    usage = _df(engine, version="1.52")
    sums = usage["ContainerUsage"]
    assert sums == {"ActiveCount": 1, "TotalCount": 1, "TotalSize": WRITTEN, "Reclaimable": 0}
    assert usage["Containers"][0]["SizeRw"] == WRITTEN
    assert usage["ImageUsage"]["ActiveCount"] == 1
    verbose = _df(engine, {"verbose": True, "type": ["container", "image"]}, "1.52")
    assert set(verbose) == {"ContainerUsage", "ImageUsage"}
    assert verbose["ContainerUsage"]["Items"][0]["Id"] == container
    engine.bireme("kill", "writer")
    engine.bireme("wait", "writer")
    assert _df(engine, version="1.52")["ContainerUsage"]["Reclaimable"] == WRITTEN


def test_volumes(engine: RunningEngine) -> None:
    script = "head -c 5000 /dev/zero > /v/data; ln /v/data /v/again"
    filled = engine.bireme("run", "--rm", "-v", "full:/v", "busybox", "sh", "-c", script)
    assert filled.returncode == 0, filled.stderr
    held = engine.bireme("create", "--name", "holder", "-v", "full:/v", "-v", "empty:/e", "busybox", "true")
    assert held.returncode == 0, held.stderr
    volumes = {row["Name"]: row["UsageData"] for row in _df(engine, {"type": "volume"})["Volumes"]}
    assert volumes == {"full": {"RefCount": 1, "Size": 5000}, "empty": {"RefCount": 1, "Size": 0}}
    engine.bireme("rm", "holder")
    sums = _df(engine, {"type": "volume"}, "1.52")["VolumeUsage"]
    assert sums == {"ActiveCount": 0, "TotalCount": 2, "TotalSize": 5000, "Reclaimable": 5000}
    document = json.loads(engine.bireme("system", "df", "-v", "--format", "json").stdout)
    assert [(row["Name"], row["Links"], row["Size"]) for row in document["Volumes"]] == [
        ("empty", "0", "0B"),
        ("full", "0", "5kB"),
    ]
    row = engine.bireme("system", "df").stdout.splitlines()[3]
    assert row.split()[2:] == ["2", "0", "5kB", "5kB", "(100%)"]
    for name in ("full", "empty"):
        client = engine.client()
        client.call("DELETE", f"/volumes/{name}")
        client.close()


def test_the_command_line(engine: RunningEngine, container: str) -> None:
    done = engine.bireme("system", "df")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert rows[2] == ["Containers", "1", "1", "1.5MB", "0B", "(0%)"]
    verbose = engine.bireme("system", "df", "-v")
    assert (verbose.returncode, verbose.stderr) == (0, "")
    assert "\nContainers space usage:\n\nCONTAINER ID   IMAGE" in verbose.stdout
    assert "\nBuild cache usage: 0B\n\nCACHE ID" in verbose.stdout
    shown = json.loads(engine.bireme("system", "df", "-v", "--format", "json").stdout)
    assert [row["Names"] for row in shown["Containers"]] == ["writer"]
    assert sorted(shown) == ["BuildCache", "Containers", "Images", "Volumes"]


@pytest.mark.needs_docker
@pytest.mark.parametrize(
    "words",
    [
        ["system", "df"],
        ["system", "df", "--format", "json"],
        ["system", "df", "-v", "--format", "{{json .Images}}"],
        ["ps", "-as", "--format", "{{.Names}} {{.Size}}"],
    ],
)
def test_docker_shows_the_same(engine: RunningEngine, container: str, words: list[str]) -> None:
    if words[-1] == "json":
        skip_before(23, "the format json is a template to it")
    theirs, ours = engine.command(DOCKER, *words), engine.bireme(*words)
    assert (theirs.returncode, theirs.stdout.rstrip()) == (ours.returncode, ours.stdout.rstrip())
    assert ours.stdout
