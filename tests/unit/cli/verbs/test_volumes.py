"""volume create, ls, inspect, rm and prune over a server of canned answers."""

from __future__ import annotations

import json

from tests.support.cli import Cli
from tests.support.fakeserver import NO_CONTENT, FakeServer, Reply

DATA = {"Name": "data", "Driver": "local", "Scope": "local", "Mountpoint": "/v/data/_data", "Labels": {"a": "b"}}
OTHER = {"Name": "a1", "Driver": "local", "Scope": "local", "Mountpoint": "/v/a1/_data", "Labels": None}


def test_create(server: FakeServer, cli: Cli) -> None:
    server.on("POST /volumes/create", Reply(DATA, "201 Created"))
    words = ("-o", "type=none", "--opt", "o=bind,ro", "-o", "device=/srv", "--label", "a=b", "data")
    assert cli.ok("volume", "create", *words) == "data\n"
    assert json.loads(server.requests[-1].body) == {
        "Name": "data",
        "Driver": "local",
        "DriverOpts": {"type": "none", "o": "bind,ro", "device": "/srv"},
        "Labels": {"a": "b"},
    }
    assert cli.ok("volume", "create") == "data\n"
    assert json.loads(server.requests[-1].body) == {"Driver": "local"}
    assert cli("volume", "create", "--name", "x", "data").code == 1
    assert cli("volume", "create", "x", "y").code == 1


def test_ls(server: FakeServer, cli: Cli) -> None:
    server.on("GET /volumes", {"Volumes": [DATA, OTHER], "Warnings": None})
    assert cli.ok("volume", "ls") == "DRIVER    VOLUME NAME\nlocal     a1\nlocal     data\n"
    assert cli.ok("volume", "list", "-q") == "a1\ndata\n"
    assert cli.ok("volume", "ls", "--format", "{{.Name}} {{.Mountpoint}} {{.Labels}} {{.Size}}") == (
        "a1 /v/a1/_data  N/A\ndata /v/data/_data a=b N/A\n"
    )
    cli.ok("volume", "ls", "-f", "dangling=true")
    assert json.loads(server.requests[-1].query["filters"]) == {"dangling": {"true": True}}
    server.on("GET /volumes", {"Volumes": None, "Warnings": None})
    assert cli.ok("volume", "ls") == "DRIVER    VOLUME NAME\n"


def test_inspect_and_rm(server: FakeServer, cli: Cli) -> None:
    server.on("GET /volumes/data", DATA)
    assert cli.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "data") == "/v/data/_data\n"
    assert json.loads(cli.ok("inspect", "--type", "volume", "data")) == [DATA]
    server.on("DELETE /volumes/data", NO_CONTENT)
    assert cli.ok("volume", "rm", "-f", "data") == "data\n"
    assert server.requests[-1].query["force"] in ("1", "true")
    assert cli("volume", "rm", "nope").code == 1


def test_prune(server: FakeServer, cli: Cli) -> None:
    server.on("POST /volumes/prune", {"VolumesDeleted": ["data"], "SpaceReclaimed": 12})
    assert cli.ok("volume", "prune", "-f") == "Deleted Volumes:\ndata\n\nTotal reclaimed space: 12B\n"
    assert "filters" not in server.requests[-1].query
    cli.ok("volume", "prune", "-af", "--filter", "label=a")
    assert json.loads(server.requests[-1].query["filters"]) == {"all": {"true": True}, "label": {"a": True}}


def test_system_prune_takes_anonymous_ones_when_told(server: FakeServer, cli: Cli) -> None:
    server.on("POST /containers/prune", {"ContainersDeleted": None, "SpaceReclaimed": 0})
    server.on("POST /images/prune", {"ImagesDeleted": None, "SpaceReclaimed": 0})
    server.on("POST /networks/prune", {"NetworksDeleted": None})
    server.on("POST /volumes/prune", {"VolumesDeleted": ["abc"], "SpaceReclaimed": 12})
    assert "Deleted Volumes" not in cli.ok("system", "prune", "-f")
    assert "Deleted Volumes:\nabc\n" in cli.ok("system", "prune", "-af", "--volumes")
    asked = [r for r in server.requests if r.path.endswith("/volumes/prune")]
    assert ["filters" in request.query for request in asked] == [False]
    refused = cli("system", "prune", "-f", "--volumes", "--filter", "until=1h")
    assert (refused.code, "until" in refused.err) == (1, True)
