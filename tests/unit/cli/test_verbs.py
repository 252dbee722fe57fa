"""What the verbs ask for and what they print, word for word where docker prints the same."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from bireme import __version__
from tests.support.cli import Cli, run_program
from tests.support.fakeserver import NO_CONTENT, Conversation, FakeServer, Reply, Request, refuse

WEB = "c0ffee" + "1" * 58
NOW = int(time.time())

CONTAINERS: list[dict[str, Any]] = [
    {
        "Id": WEB,
        "Names": ["/web", "/proxy/web"],
        "Image": "nginx:1.25",
        "ImageID": "sha256:" + "a" * 64,
        "Command": "/docker-entrypoint.sh nginx -g 'daemon off;'",
        "Created": NOW - 435 * 86400,
        "Ports": [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 443, "Type": "tcp"},
        ],
        "Labels": {"com.x": "y z", "a": "b"},
        "State": "running",
        "Status": "Up 2 minutes",
        "SizeRw": 1234,
        "SizeRootFs": 7654321,
        "NetworkSettings": {"Networks": {"bridge": {}}},
        "Mounts": [{"Source": "/srv/a/very/long/path"}, {"Name": "vol", "Driver": "local"}],
    },
    {
        "Id": "deadbeef" + "2" * 56,
        "Names": ["/db"],
        "Image": "sha256:" + "b" * 64,
        "ImageID": "sha256:" + "b" * 64,
        "Command": 'sleep "1"',
        "Created": NOW - 3 * 86400 - 60,
        "Ports": [],
        "Labels": None,
        "State": "exited",
        "Status": "Exited (0) 3 days ago",
    },
]


@pytest.fixture
def listed(server: FakeServer) -> FakeServer:
    server.on("GET /containers/json", CONTAINERS)
    return server


def test_ps(listed: FakeServer, cli: Cli) -> None:
    assert cli.ok("ps") == (
        "CONTAINER ID   IMAGE          COMMAND                  CREATED         STATUS                  PORTS"
        "                             NAMES\n"
        'c0ffee111111   nginx:1.25     "/docker-entrypoint.…"   14 months ago   Up 2 minutes            '
        "443/tcp, 0.0.0.0:8080->80/tcp   web\n"
        'deadbeef2222   bbbbbbbbbbbb   "sleep \\"1\\""            3 days ago      Exited (0) 3 days ago'
        "                                   db\n"
    ).replace("PORTS                             NAMES", "PORTS                           NAMES")
    assert listed.requests[0].query == {}


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (["-a"], {"all": "1"}),
        (["-l"], {"all": "1", "limit": "1"}),
        (["-n", "3"], {"all": "1", "limit": "3"}),
        (["-s"], {"size": "1"}),
        (["--format", "{{.Size}}"], {"size": "1"}),
        (
            ["-f", "status=exited", "-f", "label=a=b", "-f", "label=c"],
            {"filters": '{"status":{"exited":true},"label":{"a=b":true,"c":true}}'},
        ),
    ],
)
def test_ps_asks(listed: FakeServer, cli: Cli, words: list[str], query: dict[str, str]) -> None:
    cli.ok("ps", *words)
    assert listed.requests[0].query == query


def test_ps_forms(listed: FakeServer, cli: Cli) -> None:
    assert cli.ok("ps", "-q") == "c0ffee111111\ndeadbeef2222\n"
    assert cli.ok("container", "ls", "-q", "--no-trunc") == f"{WEB}\n{'deadbeef' + '2' * 56}\n"
    assert cli.ok(
        "container", "ps", "--format", "{{.Names}}: {{.Mounts}} {{.LocalVolumes}} {{.Networks}}"
    ).splitlines()[0] == ("web: /srv/a/very/lo…,vol 1 bridge")
    assert cli.ok("ps", "--no-trunc", "--format", "{{.Names}}").splitlines()[0] == "web,proxy/web"
    assert cli.ok("ps", "--format", 'table {{.ID}}\\t{{.Label "com.x"}}') == (
        "CONTAINER ID   x\nc0ffee111111   y z\ndeadbeef2222   \n"
    )
    first = json.loads(cli.ok("ps", "-s", "--format", "json").splitlines()[0])
    assert first["Size"] == "1.23kB (virtual 7.65MB)"
    assert first["Labels"] == "a=b,com.x=y z"
    result = cli("ps", "--format", "{{.Foo}}")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        'failed to execute template: template: :1:2: executing "" at <.Foo>: can\'t evaluate field Foo'
    )


def test_images(server: FakeServer, cli: Cli) -> None:
    digest = "sha256:" + "d" * 64
    server.on(
        "GET /images/json",
        [
            {
                "Id": "sha256:" + "a" * 64,
                "RepoTags": ["nginx:1.25", "r:5000/n:x"],
                "RepoDigests": [f"nginx@{digest}"],
                "Created": NOW - 40 * 86400,
                "Size": 187654321,
            },
            {"Id": "sha256:" + "b" * 64, "RepoTags": [], "RepoDigests": None, "Created": NOW - 7260, "Size": 4242},
        ],
    )
    assert cli.ok("images") == (
        "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE\n"
        "nginx        1.25      aaaaaaaaaaaa   5 weeks ago   188MB\n"
        "r:5000/n     x         aaaaaaaaaaaa   5 weeks ago   188MB\n"
        "<none>       <none>    bbbbbbbbbbbb   2 hours ago   4.24kB\n"
    )
    assert cli.ok("images", "--digests").splitlines()[1].split() == [
        "nginx",
        "1.25",
        digest,
        "aaaaaaaaaaaa",
        "5",
        "weeks",
        "ago",
        "188MB",
    ]
    assert cli.ok("image", "ls", "-q") == "aaaaaaaaaaaa\naaaaaaaaaaaa\nbbbbbbbbbbbb\n"
    cli.ok("images", "nginx", "-f", "dangling=true")
    assert json.loads(server.requests[-1].query["filters"]) == {
        "dangling": {"true": True},
        "reference": {"nginx": True},
    }


def test_networks(server: FakeServer, cli: Cli) -> None:
    server.on(
        "GET /networks",
        [
            {"Id": "n" * 64, "Name": "none", "Driver": "null", "Scope": "local"},
            {"Id": "b" * 64, "Name": "bridge", "Driver": "bridge", "Scope": "local"},
        ],
    )
    assert cli.ok("network", "ls") == (
        "NETWORK ID     NAME      DRIVER    SCOPE\n"
        "bbbbbbbbbbbb   bridge    bridge    local\n"
        "nnnnnnnnnnnn   none      null      local\n"
    )
    assert cli.ok("network", "list", "-q") == "bbbbbbbbbbbb\nnnnnnnnnnnnn\n"


def test_several_names_are_asked_for_at_once(server: FakeServer, cli: Cli) -> None:
    def stop(request: Request, conversation: Conversation) -> Reply:
        server.wait_for("POST /containers/b/stop")
        return NO_CONTENT

    server.on("POST /containers/a/stop", stop)
    server.on("POST /containers/b/stop", Reply(status="304 Not Modified"))
    result = cli("stop", "-t", "0", "-s", "INT", "a", "nope", "b")
    assert result.code == 1
    assert result.out == "a\nb\n"
    assert result.err == "Error response from daemon: page not found\n"
    assert server.requests[0].query == {"t": "0", "signal": "INT"}


@pytest.mark.parametrize(
    ("words", "asked", "query"),
    [
        (["restart", "--time", "3", "x"], "POST /containers/x/restart", {"t": "3"}),
        (["kill", "x"], "POST /containers/x/kill", {}),
        (["kill", "-s", "HUP", "x"], "POST /containers/x/kill", {"signal": "HUP"}),
        (["pause", "x"], "POST /containers/x/pause", {}),
        (["container", "unpause", "x"], "POST /containers/x/unpause", {}),
        (["rm", "-fv", "x"], "DELETE /containers/x", {"force": "1", "v": "1"}),
        (["container", "remove", "x"], "DELETE /containers/x", {}),
        (["start", "x"], "POST /containers/x/start", {}),
    ],
)
def test_actions(server: FakeServer, cli: Cli, words: list[str], asked: str, query: dict[str, str]) -> None:
    server.on(asked, NO_CONTENT)
    assert cli.ok(*words) == "x\n"
    assert server.paths() == [asked]
    assert server.requests[0].query == query


def test_start_names_those_that_failed(server: FakeServer, cli: Cli) -> None:
    server.on("POST /containers/x/start", NO_CONTENT)
    server.on("POST /containers/y/start", refuse("404 Not Found", "No such container: y"))
    result = cli("start", "y", "x", "y")
    assert result == (
        1,
        "x\n",
        "Error response from daemon: No such container: y\n" * 2 + "Error: failed to start containers: y, y\n",
    )


def test_wait_and_rename(server: FakeServer, cli: Cli) -> None:
    server.on("POST /containers/x/wait", {"StatusCode": 7})
    assert cli.ok("wait", "x", "x") == "7\n7\n"
    server.on("POST /containers/x/rename", NO_CONTENT)
    assert cli.ok("rename", "x", "y") == ""
    assert server.requests[-1].query == {"name": "y"}
    assert cli("rename", "x", " ") == (1, "", "Error: Neither old nor new names may be empty\n")


INSPECTED = {
    "Id": WEB,
    "Name": "/web",
    "State": {"Pid": 42, "Running": True},
    "Config": {"Labels": {"a": "b<c>"}, "Env": ["A=é"]},
    "HostConfig": {"Binds": None, "CapAdd": []},
    "NetworkSettings": {
        "Ports": {
            "443/tcp": None,
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
        }
    },
}


def test_inspect(server: FakeServer, cli: Cli) -> None:
    server.on("GET /containers/web/json", INSPECTED)
    server.on("GET /images/nginx/json", {"Id": "sha256:x"})
    assert json.loads(cli.ok("inspect", "web")) == [INSPECTED]
    assert cli.ok("inspect", "web") == json.dumps([INSPECTED], indent=4, ensure_ascii=False) + "\n"
    assert cli.ok("inspect", "-f", "{{.State.Pid}}", "web") == "42\n"
    assert cli.ok("inspect", "nginx") == '[\n    {\n        "Id": "sha256:x"\n    }\n]\n'
    assert server.paths()[-2:] == ["GET /containers/nginx/json", "GET /images/nginx/json"]
    assert cli("inspect", "nope") == (1, "[]\n", "Error: No such object: nope\n")
    result = cli("inspect", "-f", "{{.Id}}", "nope", "nginx")
    assert result == (1, "sha256:x\n", "Error: No such object: nope\n")
    assert cli("container", "inspect", "nginx") == (1, "[]\n", "Error response from daemon: page not found\n")
    assert cli("inspect", "--type", "image", "web").code == 1
    assert cli("inspect", "--type", "foo", "web") == (
        1,
        "",
        'unknown type: "foo": must be one of "container", "image", "network", "volume"\n',
    )
    assert cli("inspect", "-f", "{{.Foo", "web") == (64, "", "template parsing error: template: :1: unclosed action\n")


def test_port(server: FakeServer, cli: Cli) -> None:
    server.on("GET /containers/web/json", INSPECTED)
    assert cli.ok("port", "web") == "53/udp -> 127.0.0.1:5353\n80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
    assert cli.ok("port", "web", "80") == "0.0.0.0:8080\n[::]:8080\n"
    assert cli("port", "web", "443") == (1, "", "Error: No public port '443' published for web\n")
    assert cli("port", "web", "x") == (
        1,
        "",
        'Error: invalid port (x): strconv.ParseUint: parsing "x": invalid syntax\n',
    )


def test_logs(server: FakeServer, cli: Cli) -> None:
    frames = b"\x01\0\0\0\0\0\0\x04out\n" + b"\x02\0\0\0\0\0\0\x04err\n"
    kind = {"Content-Type": "application/vnd.docker.multiplexed-stream"}
    server.on("GET /containers/x/logs", Reply(chunks=[frames[:3], frames[3:14], frames[14:]], headers=kind))
    assert cli("logs", "-ft", "--tail", "5", "--since", "2024-01-02", "--details", "x") == (0, "out\n", "err\n")
    assert server.requests[0].query == {
        "stdout": "1",
        "stderr": "1",
        "follow": "1",
        "timestamps": "1",
        "details": "1",
        "tail": "5",
        "since": "1704153600",
    }
    server.on(
        "GET /containers/x/logs", Reply(b"raw\r\n", headers={"Content-Type": "application/vnd.docker.raw-stream"})
    )
    assert cli("logs", "x") == (0, "raw\r\n", "")
    server.on("GET /containers/x/logs", Reply(b"\x09garbage.", headers=kind))
    assert cli("logs", "x").code == 1


def test_top(server: FakeServer, cli: Cli) -> None:
    server.on("GET /containers/x/top", {"Titles": ["PID", "CMD"], "Processes": [["42", "sleep 1"]]})
    assert cli.ok("top", "x", "-o", "pid,cmd") == "PID                 CMD\n42                  sleep 1\n"
    assert server.requests[0].query == {"ps_args": "-o pid,cmd"}


def _reading(cpu: int, system: int) -> dict[str, Any]:
    return {
        "read": "2024-01-02T03:04:05Z",
        "id": WEB,
        "name": "/web",
        "pids_stats": {"current": 3},
        "cpu_stats": {"cpu_usage": {"total_usage": cpu}, "system_cpu_usage": system, "online_cpus": 2},
        "memory_stats": {"usage": 12345678, "limit": 104857600, "stats": {"inactive_file": 345678}},
        "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 2500000}},
        "blkio_stats": {
            "io_service_bytes_recursive": [{"op": "read", "value": 4096000}, {"op": "Write", "value": 1000}]
        },
    }


def test_stats(server: FakeServer, cli: Cli) -> None:
    server.on("GET /containers/web/stats", _reading(1_000_000, 100_000_000), _reading(51_000_000, 200_000_000))
    assert cli.ok("stats", "--no-stream", "web") == (
        "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O         BLOCK I/O     PIDS\n"
        "c0ffee111111   web       100.00%   11.44MiB / 100MiB   11.44%    1.5kB / 2.5MB   4.1MB / 1kB   3\n"
    )
    assert cli("stats", "--no-stream", "nope") == (1, "", "Error response from daemon: page not found\n")


def test_history(server: FakeServer, cli: Cli) -> None:
    server.on(
        "GET /images/nginx/history",
        [
            {
                "Id": "sha256:" + "a" * 64,
                "Created": NOW - 435 * 86400,
                "CreatedBy": "CMD nginx",
                "Size": 0,
                "Comment": "",
            },
            {
                "Id": "<missing>",
                "Created": NOW - 20 * 86400,
                "CreatedBy": "x\ty" + "z" * 50,
                "Size": 61234567,
                "Comment": "c",
            },
        ],
    )
    assert cli.ok("history", "nginx") == (
        "IMAGE          CREATED         CREATED BY                                      SIZE      COMMENT\n"
        "aaaaaaaaaaaa   14 months ago   CMD nginx                                       0B        \n"
        f"<missing>      2 weeks ago     x y{'z' * 41}…   61.2MB    c\n"
    )
    assert cli.ok("history", "-q", "nginx") == "aaaaaaaaaaaa\n<missing>\n"
    assert "61234567" in cli.ok("history", "-H=false", "nginx")


def test_rmi_and_tag(server: FakeServer, cli: Cli) -> None:
    server.on("DELETE /images/a:b", [{"Untagged": "a:b"}, {"Deleted": "sha256:x"}])
    result = cli("rmi", "-f", "a:b", "nope")
    assert result == (1, "Untagged: a:b\nDeleted: sha256:x\n", "Error response from daemon: page not found\n")
    assert server.requests[0].query == {"force": "1"}
    server.on("POST /images/a/tag", Reply(status="201 Created"))
    for target, query in (("r:5000/x", {"repo": "r:5000/x"}), ("x:y", {"repo": "x", "tag": "y"})):
        cli.ok("tag", "a", target)
        assert server.requests[-1].query == query


def test_events(server: FakeServer, cli: Cli) -> None:
    event = {
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": "x", "Attributes": {"name": "web", "image": "nginx"}},
        "time": 1700000000,
        "timeNano": 1700000000123456789,
    }
    server.on("GET /events", Reply(chunks=[json.dumps(event).encode() + b"\n"]))
    assert cli.ok("events", "--since", "1700000000", "-f", "type=container") == (
        "2023-11-14T22:13:20.123456789Z container start x (image=nginx, name=web)\n"
    )
    assert server.requests[0].query == {"since": "1700000000", "filters": '{"type":{"container":true}}'}
    assert json.loads(cli.ok("system", "events", "--format", "json")) == event
    assert (
        cli.ok("events", "--format", "{{.Type}} {{.Actor.ID}} {{.TimeNano}} {{.Status}}")
        == "container x 1700000000123456789 \n"
    )


VERSION = {
    "Platform": {"Name": "bireme"},
    "Components": [
        {
            "Name": "Engine",
            "Version": "0.1",
            "Details": {
                "ApiVersion": "1.55",
                "MinAPIVersion": "1.24",
                "Os": "linux",
                "Arch": "amd64",
                "BuildTime": "2024-01-02T03:04:05Z",
                "Experimental": "false",
            },
        },
        {"Name": "kernel", "Version": "6", "Details": {"x": "y"}},
    ],
    "Version": "0.1",
}


def test_version(server: FakeServer, cli: Cli) -> None:
    server.on("GET /version", VERSION)
    client, _, engine = cli.ok("version").partition("\n\n")
    assert client.startswith(f"Client:\n Version:           {__version__}\n API version:       1.47\n")
    assert engine == (
        "Server: bireme\n Engine:\n  Version:          0.1\n  API version:      1.55 (minimum version 1.24)\n"
        "  Built:            Tue Jan  2 03:04:05 2024\n  OS/Arch:          linux/amd64\n  Experimental:     false\n"
        " kernel:\n  Version:          6\n  x:                y\n"
    )
    assert cli.ok("version", "-f", "{{.Server.Version}} {{.Client.Version}}") == f"0.1 {__version__}\n"
    assert json.loads(cli.ok("version", "-f", "json"))["Server"]["Version"] == "0.1"


def test_info(server: FakeServer, cli: Cli) -> None:
    server.on(
        "GET /info",
        {
            "Containers": 3,
            "ContainersRunning": 1,
            "ContainersPaused": 0,
            "ContainersStopped": 2,
            "Images": 4,
            "ServerVersion": "0.1",
            "Driver": "overlay2",
            "DriverStatus": [["Backing Filesystem", "extfs"]],
            "Plugins": {"Network": ["bridge", "host"], "Volume": None},
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=userns"],
            "MemTotal": 25000000000,
            "NCPU": 2,
            "Warnings": ["no swap"],
        },
    )
    result = cli("info")
    assert (result.code, result.err) == (0, "\nno swap\n")
    expected = (
        " Containers: 3\n  Running: 1\n  Paused: 0\n  Stopped: 2\n Images: 4\n Server Version: 0.1\n"
        " Storage Driver: overlay2\n"
        "  Backing Filesystem: extfs\n Plugins:\n  Network: bridge host\n"
        " Security Options:\n  seccomp\n   Profile: builtin\n  userns\n"
        " CPUs: 2\n Total Memory: 23.28GiB\n"
    )
    assert expected in result.out
    assert cli.ok("info", "-f", "{{.Driver}}") == "overlay2\n"
    assert json.loads(cli.ok("system", "info", "-f", "json"))["NCPU"] == 2


def test_without_an_engine(cli: Cli) -> None:
    lost = Cli("unix:///run/nowhere/x.sock", cli._capture)
    for words in (["version"], ["info"]):
        result = lost(*words)
        assert result.code == 1
        assert result.out.startswith("Client:\n")
        assert result.err == (
            "Cannot connect to the bireme engine at unix:///run/nowhere/x.sock. Is biremed running?\n"
            "Hint: start it with `biremed --host unix:///run/nowhere/x.sock`, "
            "or name another engine with -H, BIREME_HOST or DOCKER_HOST\n"
        )
    assert lost("ps").code == 1
    result = lost("run", "x")
    assert result.code == 125
    assert result.err.startswith("bireme: Cannot connect to the bireme engine")
    assert result.err.endswith("\n\nRun 'bireme run --help' for more information\n")


def test_update(server: FakeServer, cli: Cli) -> None:
    server.on("POST /containers/x/update", {"Warnings": ["careful"]})
    assert cli.ok("update", "-m", "1m", "--restart", "always", "--pids-limit", "-1", "x") == "x\ncareful\n"
    assert server.requests[0].json() == {"Memory": 1048576, "PidsLimit": -1, "RestartPolicy": {"Name": "always"}}
    assert cli("update", "x") == (1, "", "you must provide one or more flags when using this command\n")


def test_prune(server: FakeServer, cli: Cli) -> None:
    server.on("POST /containers/prune", {"ContainersDeleted": ["a", "b"], "SpaceReclaimed": 12345})
    server.on(
        "POST /images/prune", {"ImagesDeleted": [{"Untagged": "x:y"}, {"Deleted": "sha256:z"}], "SpaceReclaimed": 99}
    )
    assert cli.ok("container", "prune", "-f") == "Deleted Containers:\na\nb\n\nTotal reclaimed space: 12.35kB\n"
    assert cli.ok("image", "prune", "-af", "--filter", "until=1h") == (
        "Deleted Images:\nuntagged: x:y\ndeleted: sha256:z\n\nTotal reclaimed space: 99B\n"
    )
    assert json.loads(server.requests[-1].query["filters"]) == {"dangling": {"false": True}, "until": {"1h": True}}
    assert cli.ok("system", "prune", "-f").endswith("Total reclaimed space: 12.44kB\n")
    question = "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] "
    count = len(server.requests)
    for answer in (b"", b"n\n", b"yess\n"):
        result = run_program("-H", server.host, "container", "prune", stdin=answer)
        assert (result.code, result.out.rstrip("\n")) == (0, question)
    assert len(server.requests) == count
    assert run_program("-H", server.host, "container", "prune", stdin=b"Y\n").out.startswith(question + "Deleted")


def test_usage_of_disk(server: FakeServer, cli: Cli) -> None:
    server.on(
        "GET /system/df",
        {
            "LayersSize": 1000,
            "Images": [
                {"Size": 600, "SharedSize": 0, "Containers": 1},
                {"Size": 400, "SharedSize": 0, "Containers": 0},
            ],
            "Containers": [{"State": "running", "SizeRw": 5}, {"State": "exited", "SizeRw": 15}],
            "Volumes": [{"UsageData": {"Size": 10, "RefCount": 0}}],
            "BuildCache": None,
        },
    )
    assert cli.ok("system", "df") == (
        "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n"
        "Images          2         1         1kB       400B (40%)\n"
        "Containers      2         1         20B       15B (75%)\n"
        "Local Volumes   1         0         10B       10B (100%)\n"
        "Build Cache     0         0         0B        0B\n"
    )


EXPLAINED = {
    "id": "c0ffee",
    "namespaces": {"pid": {"inode": 4026531836, "shared": False}, "net": {"inode": 4026531840, "shared": True}},
    "mounts": [
        {"target": "/proc", "type": "proc", "source": "proc", "root": "/", "flags": "rw,nosuid"},
        {"target": "/etc/hosts", "type": "ext4", "source": "/dev/vda", "root": "/srv/hosts", "flags": "ro"},
        {"target": "/", "type": "overlay", "source": "overlay", "root": "/", "flags": "rw"},
        {"target": "/sys/x", "type": "tmpfs", "source": "none", "root": "/.empty", "flags": "ro"},
    ],
    "security": {"capabilities": ["CAP_CHOWN", "CAP_KILL"], "bounding": ["CAP_CHOWN", "CAP_KILL"], "seccomp": "filter"},
    "processes": [{"pid": 42, "command": "sleep 1"}, {"pid": 4243, "command": "sh"}],
    "log": {"deep": {"deeper": ["/a" * 60, "b"]}, "empty": []},
}


def test_explain(server: FakeServer, cli: Cli) -> None:
    server.on("GET /bireme/v1/containers/web/explain", EXPLAINED)
    inspected = {
        "HostConfig": {"Memory": 64 << 20, "NanoCpus": 1_500_000_000, "PidsLimit": -1},
        "GraphDriver": {"Name": "overlay", "Data": {"LowerDir": "/b:/a", "UpperDir": "/up"}},
    }
    server.on("GET /containers/web/json", inspected)
    known = json.loads(cli.ok("explain", "--json", "web"))
    assert known == EXPLAINED | {
        "limits": {"memory": "64MiB", "cpus": "1.5", "pids": "unlimited"},
        "root": {"driver": "overlay", "layers": ["/b", "/a"], "changes": "/up"},
    }
    assert cli.ok("explain", "web") == (
        "web\n"
        "├─ id      c0ffee\n"
        "├─ limits  memory=64MiB  cpus=1.5  pids=unlimited\n"
        "├─ root\n"
        "│  ├─ driver   overlay\n"
        "│  ├─ layers   /b /a\n"
        "│  └─ changes  /up\n"
        "├─ mounts\n"
        "│  ├─ /           overlay  rw         overlay\n"
        "│  ├─ /etc/hosts  ext4     ro         /srv/hosts\n"
        "│  ├─ /proc       proc     rw,nosuid  proc\n"
        "│  └─ /sys/x      tmpfs    ro         none[/.empty]\n"
        "├─ namespaces\n"
        "│  ├─ pid  inode=4026531836  shared=false\n"
        "│  └─ net  inode=4026531840  shared=true\n"
        "├─ security\n"
        "│  ├─ capabilities  chown kill\n"
        "│  └─ seccomp       filter\n"
        "├─ processes\n"
        "│  ├─ PID    COMMAND\n"
        "│  ├─ 42     sleep 1\n"
        "│  └─ 4243   sh\n"
        "└─ log\n"
        "   ├─ deep\n"
        "   │  └─ deeper\n"
        f"   │     ├─ {'/a' * 60}\n"
        "   │     └─ b\n"
        "   └─ empty  none\n"
    )
    assert cli("explain", "nope") == (1, "", "Error response from daemon: page not found\n")


def test_bootstrap(server: FakeServer, cli: Cli) -> None:
    messages = [
        {"status": "Fetching", "id": "busybox"},
        {"status": "Fetching", "id": "busybox", "progressDetail": {"current": 1, "total": 2}},
        {"status": "Unpacking", "id": "busybox"},
        {"stream": "Loaded image: busybox:latest\n"},
    ]
    server.on(
        "POST /bireme/v1/bootstrap", Reply(chunks=[json.dumps(message).encode() + b"\r\n" for message in messages])
    )
    assert cli.ok("bootstrap", "busybox") == "busybox: Fetching\nbusybox: Unpacking\nLoaded image: busybox:latest\n"
    failure = {"errorDetail": {"message": "no network"}, "error": "no network"}
    server.on("POST /bireme/v1/bootstrap", Reply(chunks=[json.dumps(failure).encode()]))
    assert cli("bootstrap", "busybox") == (1, "", "no network\n")


@pytest.mark.parametrize("verb", ["pull"])
def test_what_is_not_there_says_so(cli: Cli, verb: str) -> None:
    result = cli(verb, "a", "b")
    assert result.code == 1
    assert result.err.startswith(f"bireme: 'bireme {verb}' is not there yet\nHint: ")
