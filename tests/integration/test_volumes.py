"""Volumes of a real engine: what they hold, who sees it, what is refused, and what a killed engine leaves."""

from __future__ import annotations

import json
import os
import pathlib
import tarfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import image, tar
from tests.support.daemon import RunningEngine, running_engine
from tests.support.dockercli import DOCKER
from tests.support.pace import eventually

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("volumes")) as running:
        archive = tmp_path_factory.mktemp("image")
        load_image(running, archive)
        yield running


@pytest.fixture(autouse=True)
def _empty(engine: RunningEngine) -> Iterator[None]:
    yield
    if rows := engine.bireme("ps", "-aq").stdout.split():
        engine.bireme("rm", "-f", *rows)
    ok(engine, "volume", "prune", "-af")
    assert os.listdir(f"{engine.data_root}/volumes") == []


def ok(engine: RunningEngine, *words: str) -> str:
    done = engine.bireme(*words)
    assert (done.returncode, done.stderr) == (0, ""), (words, done)
    return done.stdout


def run(engine: RunningEngine, *words: str) -> str:
    return ok(engine, "run", "--rm", "--network", "none", *words)


def refusal(engine: RunningEngine, *words: str) -> str:
    done = engine.bireme(*words)
    assert done.returncode != 0, (words, done)
    return done.stderr


def load_image(engine: RunningEngine, directory: pathlib.Path) -> None:
    """`full`: busybox with two more layers, a VOLUME, and links at places where volumes get mounted."""
    saved = directory / "busybox.tar"
    ok(engine, "save", "-o", str(saved), "busybox")
    with tarfile.open(saved) as archive:

        def member(name: str) -> bytes:
            found = archive.extractfile(name)
            assert found is not None
            return found.read()

        entry = json.loads(member("manifest.json"))[0]
        layers = [image.layer_of(member(name)) for name in entry["Layers"]]
    owned = {"uid": tar.octal(999, 8), "gid": tar.octal(998, 8)}
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    layers.append(
        image.layer(
            tar.directory(b"data/", 0o1750, **owned),
            tar.file(b"data/file", b"from the image\n", mode=tar.octal(0o640, 8), **owned),
            tar.link(b"data/hard", b"data/file"),
            tar.symlink(b"data/link", b"/etc/passwd"),
            tar.file(b"data/gone", b"below a whiteout"),
            tar.directory(b"data/sub/", 0o711),
            tar.pax([(b"SCHILY.xattr.security.capability", capability)]),
            tar.file(b"data/sub/able", b"x"),
            tar.directory(b"declared/", 0o700, uid=tar.octal(7, 8)),
            tar.symlink(b"absolute", b"/data"),
            tar.symlink(b"climbing", b"data/../etc"),
            tar.symlink(b"host", b"/proc/1/root/etc"),
            tar.file(b"plain", b"a file"),
        )
    )
    layers.append(image.layer(tar.file(b"data/.wh.gone"), tar.file(b"data/upper", b"top")))
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin:/sbin"], "Volumes": {"/declared": {}}}
    made = directory / "full.tar"
    made.write_bytes(image.docker(layers, ["full:1"], image.config(layers, config=config)))
    ok(engine, "load", "-i", str(made))


def path_of(engine: RunningEngine, name: str) -> pathlib.Path:
    return pathlib.Path(ok(engine, "volume", "inspect", "-f", "{{.Mountpoint}}", name).strip())


def test_what_is_written_stays(engine: RunningEngine) -> None:
    assert ok(engine, "volume", "create", "--label", "a=b", "data") == "data\n"
    run(engine, "-v", "data:/d", "busybox", "sh", "-c", "echo kept >/d/file; chown 5:6 /d/file")
    assert run(engine, "-v", "data:/d:ro", "busybox", "sh", "-c", "cat /d/file; stat -c %u:%g /d/file") == "kept\n5:6\n"
    written = path_of(engine, "data") / "file"
    assert (written.stat().st_uid, written.stat().st_gid) == (5, 6)
    denied = engine.bireme("run", "--rm", "-v", "data:/d:ro", "busybox", "touch", "/d/x")
    assert "Read-only file system" in denied.stderr
    assert ok(engine, "volume", "ls", "-q", "-f", "label=a=b", "-f", "dangling=true") == "data\n"
    assert ok(engine, "volume", "ls", "-q", "-f", "name=at") == "data\n"
    assert ok(engine, "volume", "ls", "-q", "-f", "driver=nfs") == ""
    assert "data" in ok(engine, "system", "df", "-v") or "Local Volumes   1" in ok(engine, "system", "df")


@pytest.mark.parametrize("userns", ["", "host"])
def test_a_new_volume_starts_as_the_image_has_it(engine: RunningEngine, userns: str) -> None:
    script = "cd /data; stat -c '%n %u:%g %a %h' . file hard link sub upper; cat link | head -1; ls"
    shown = run(engine, "--userns", userns, "-v", "data:/data", "full:1", "sh", "-c", script).splitlines()
    assert shown[:6] == [
        ". 999:998 1750 3",
        "file 999:998 640 2",
        "hard 999:998 640 2",
        "link 0:0 777 1",
        "sub 0:0 711 2",
        "upper 0:0 644 1",
    ]
    assert shown[-6:] == ["root:x:0:0:root:/root:/bin/sh", "file", "hard", "link", "sub", "upper"]
    inside = path_of(engine, "data")
    assert (inside.stat().st_uid, inside.stat().st_mode & 0o7777) == (999, 0o1750)
    assert "security.capability" in os.listxattr(inside / "sub" / "able")


def test_only_an_empty_volume_is_filled_and_only_when_it_may_be(engine: RunningEngine) -> None:
    run(engine, "-v", "data:/x", "busybox", "touch", "/x/mine")
    assert run(engine, "-v", "data:/data", "full:1", "ls", "/data") == "mine\n"
    assert run(engine, "-v", "empty:/data:nocopy", "full:1", "ls", "/data") == ""
    assert run(engine, "--mount", "type=volume,src=other,dst=/data,volume-nocopy", "full:1", "ls", "/data") == ""
    assert "file" in run(engine, "-v", "empty:/data", "full:1", "ls", "/data")


@pytest.mark.parametrize(
    ("place", "contents"),
    [("/absolute", "file hard link sub upper"), ("/climbing", "group"), ("/host", ""), ("/data/link", None)],
)
def test_links_in_the_image_lead_nowhere_else(engine: RunningEngine, place: str, contents: str | None) -> None:
    """The image's root is the only root there is: what they name is looked for inside, or not found."""
    done = engine.bireme("create", "--name", "linked", "-v", f"data:{place}", "full:1")
    if contents is None:
        assert "cannot mount volume over existing file" in done.stderr
        assert ok(engine, "volume", "ls", "-q") == ""
        return
    assert done.returncode == 0, done.stderr
    names = set(os.listdir(path_of(engine, "data")))
    assert set(contents.split()) <= names
    assert not {"shadow-", "fstab", "debian_version", "systemd"} & names


def test_volumes_of_the_image_and_anonymous_ones(engine: RunningEngine) -> None:
    ok(engine, "create", "--name", "one", "-v", "/more", "full:1")
    mounts = json.loads(ok(engine, "inspect", "-f", "{{json .Mounts}}", "one"))
    shown = {m["Destination"]: (m["Type"], m["Driver"], m["Mode"], m["RW"], m["Propagation"]) for m in mounts}
    assert shown == dict.fromkeys(("/declared", "/more"), ("volume", "local", "", True, ""))
    declared = next(m for m in mounts if m["Destination"] == "/declared")
    assert (os.stat(declared["Source"]).st_uid, os.stat(declared["Source"]).st_mode & 0o777) == (7, 0o700)
    assert json.loads(ok(engine, "inspect", "-f", "{{json .Config.Volumes}}", "one")) == {"/declared": {}, "/more": {}}
    ok(engine, "create", "--name", "two", "--volumes-from", "one:ro", "busybox")
    ok(engine, "rm", "-v", "one")
    assert len(ok(engine, "volume", "ls", "-q").split()) == 2
    assert [m["RW"] for m in json.loads(ok(engine, "inspect", "-f", "{{json .Mounts}}", "two"))] == [False, False]
    assert ok(engine, "volume", "prune", "-f") == "Total reclaimed space: 0B\n"
    ok(engine, "rm", "-v", "two")
    run(engine, "-v", "/more", "full:1", "true")
    assert ok(engine, "volume", "ls", "-q") == ""
    ok(engine, "create", "--name", "three", "-v", "/more", "busybox")
    ok(engine, "rm", "three")
    assert "Deleted Volumes:\n" in ok(engine, "volume", "prune", "-f")


def test_one_in_use(engine: RunningEngine) -> None:
    identity = ok(engine, "run", "-d", "--name", "one", "-v", "data:/d", "busybox", "sleep", "600").strip()
    ok(engine, "volume", "create", "unused")
    assert refusal(engine, "volume", "rm", "data") == (
        f"Error response from daemon: remove data: volume is in use - [{identity}]\n"
    )
    assert "volume is in use" in refusal(engine, "volume", "rm", "-f", "data")
    assert ok(engine, "ps", "-q", "--filter", "volume=data", "--no-trunc").strip() == identity
    assert ok(engine, "ps", "-q", "--filter", "volume=/d", "--no-trunc").strip() == identity
    assert ok(engine, "ps", "-q", "--filter", "volume=unused") == ""
    assert ok(engine, "volume", "ls", "-q", "-f", "dangling=true") == "unused\n"
    assert ok(engine, "volume", "ls", "-q", "-f", "dangling=false") == "data\n"
    assert "get nope: no such volume" in refusal(engine, "volume", "inspect", "nope")
    assert ok(engine, "volume", "rm", "-f", "nope") == "nope\n"


def test_parts_of_a_volume(engine: RunningEngine) -> None:
    make = "mkdir -p /d/a/b; echo deep >/d/a/b/file; ln -s / /d/root; ln -s ../.. /d/up; ln -s a/b /d/inside"
    run(engine, "-v", "data:/d", "busybox", "sh", "-c", make)

    def part(name: str, *more: str) -> tuple[str, ...]:
        options = ",".join(("type=volume", "src=data", "dst=/p", f"volume-subpath={name}", *more))
        return ("run", "--rm", "--network", "none", "--mount", options, "busybox", "sh", "-c", "ls /p; cat /p/file")

    assert ok(engine, *part("a/b")) == "file\ndeep\n"
    assert ok(engine, *part("inside")) == "file\ndeep\n"
    assert ok(engine, *part("a/b", "readonly")) == "file\ndeep\n"
    for name in ("root", "up"):
        assert "it leads out of the volume" in refusal(engine, *part(name))
    assert "no such file or directory" in refusal(engine, *part("absent"))
    assert "subpath must be a relative path within the volume" in refusal(engine, *part("../x"))


def test_a_file_system_of_its_own(engine: RunningEngine) -> None:
    ok(engine, "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=711", "mem")
    ok(engine, "run", "-d", "--name", "one", "-v", "mem:/m", "busybox", "sh", "-c", "echo shared >/m/f; sleep 600")
    eventually(lambda: engine.bireme("exec", "one", "cat", "/m/f").stdout == "shared\n", within_s=10)
    assert run(engine, "-v", "mem:/m", "busybox", "sh", "-c", "cat /m/f; df /m | tail -1").startswith("shared\ntmpfs")
    assert mounts_of(engine) == [str(path_of(engine, "mem"))]
    engine.kill("biremed")
    engine.start()
    assert run(engine, "-v", "mem:/m", "busybox", "cat", "/m/f") == "shared\n"
    ok(engine, "rm", "-f", "one")
    eventually(lambda: mounts_of(engine) == [], within_s=10)
    assert run(engine, "-v", "mem:/m", "busybox", "ls", "/m") == ""


def mounts_of(engine: RunningEngine) -> list[str]:
    with open("/proc/self/mounts", encoding="utf-8") as file:
        return [line.split()[1] for line in file if f"{engine.data_root}/volumes" in line]


def test_a_directory_of_the_host(engine: RunningEngine, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("host\n")
    options = f"type=volume,src=host,dst=/h,volume-opt=type=none,volume-opt=o=bind,volume-opt=device={tmp_path}"
    assert run(engine, "--mount", options, "busybox", "sh", "-c", "cat /h/file; echo new >/h/new") == "host\n"
    assert (tmp_path / "new").read_text() == "new\n"
    assert mounts_of(engine) == []
    ok(engine, "volume", "rm", "host")
    assert (tmp_path / "file").exists()
    ok(engine, "volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/absent/here", "bad")
    assert "failed to mount local volume: mount /absent/here:" in refusal(engine, "run", "-v", "bad:/x", "busybox")
    ok(engine, "volume", "create", "-o", "type=nosuchfs", "-o", "device=x", "none")
    assert "this kernel has no file system nosuchfs" in refusal(engine, "run", "-v", "none:/x", "busybox")
    assert mounts_of(engine) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "-v", "x:/a", "busybox"), "volume name is too short"),
        (("run", "-v", "a/b:/a", "busybox"), "includes invalid characters for a local volume name"),
        (("run", "-v", "data:/a:rshared", "busybox"), "field BindOptions must not be specified"),
        (("run", "-v", "data:/a:what", "busybox"), "invalid mode: what"),
        (("run", "-v", "data:/", "busybox"), "destination can't be '/'"),
        (("run", "-v", "data:/a", "-v", "other:/a", "busybox"), "Duplicate mount point: /a"),
        (("run", "--volume-driver", "nfs", "-v", "data:/a", "busybox"), 'plugin "nfs" not found'),
        (("run", "--volumes-from", "nobody", "--pull", "never", "busybox"), "No such container: nobody"),
        (("volume", "create", "-d", "nfs", "data"), 'plugin "nfs" not found'),
        (("volume", "create", "-o", "what=x", "data"), 'create data: invalid option: "what"'),
        (("volume", "create", "-o", "type=tmpfs", "data"), 'create data: missing required option: "device"'),
        (("volume", "create", "../x"), "includes invalid characters"),
    ],
)
def test_what_is_refused_leaves_nothing(engine: RunningEngine, words: tuple[str, ...], message: str) -> None:
    assert message in refusal(engine, *words)
    assert ok(engine, "volume", "ls", "-q") == ""


def test_events_tell_the_life_of_a_volume(engine: RunningEngine) -> None:
    since = ok(engine, "run", "--rm", "busybox", "date", "+%s").strip()
    run(engine, "-v", "told:/d:ro", "busybox", "true")
    ok(engine, "volume", "rm", "told")
    until = str(int(ok(engine, "run", "--rm", "busybox", "date", "+%s")) + 1)
    shown = ok(
        engine,
        *("events", "--since", since, "--until", until, "--filter", "volume=told"),
        *("--format", '{{.Action}} {{index .Actor.Attributes "driver"}} {{index .Actor.Attributes "read/write"}}'),
    )
    actions = [line.split()[0] for line in shown.splitlines()]
    assert actions == ["create", "mount", "unmount", "destroy"]
    assert shown.splitlines()[1] == "mount local false"


@pytest.mark.parametrize("version", ["1.41", "1.42"])
def test_prune_means_anonymous_ones_since_1_42(engine: RunningEngine, version: str) -> None:
    ok(engine, "volume", "create", "named")
    client = engine.client()
    client.version = version
    try:
        answer: dict[str, Any] = client.call("POST", "/volumes/prune")
        assert answer["VolumesDeleted"] == (["named"] if version == "1.41" else None)
        again = client.call("POST", "/volumes/prune", {"filters": '{"all":["true"]}'})
        assert again["VolumesDeleted"] == (None if version == "1.41" else ["named"])
    finally:
        client.close()


def test_a_killed_engine_loses_no_volume_and_leaves_no_directory(engine: RunningEngine) -> None:
    """kill -9 while volumes are made, filled and removed: afterwards records and directories agree, and what was
    acknowledged is there."""
    ok(engine, "volume", "create", "before")
    for _ in range(3):
        acknowledged: list[str] = []
        stop = threading.Event()
        workers = [threading.Thread(target=_churn, args=(engine, n, acknowledged, stop)) for n in range(3)]
        for worker in workers:
            worker.start()
        eventually(lambda made=acknowledged: len(made) >= 3, within_s=60)
        engine.kill("biremed")
        stop.set()
        for worker in workers:
            worker.join()
        engine.start()
        known = set(ok(engine, "volume", "ls", "-q").split())
        assert {"before", *acknowledged} <= known
        assert set(os.listdir(f"{engine.data_root}/volumes")) - known == set()
        for name in acknowledged:
            assert "upper" in os.listdir(path_of(engine, name))


def _churn(engine: RunningEngine, number: int, acknowledged: list[str], stop: threading.Event) -> None:
    for turn in range(1000):
        if stop.is_set():
            return
        name = f"churn{number}-{turn}-{os.urandom(2).hex()}"
        done = engine.bireme("create", "--name", name, "-v", f"{name}:/data", "-v", "/anonymous", "full:1")
        if done.returncode == 0:
            acknowledged.append(name)
            engine.bireme("rm", "-v", name)


@pytest.mark.needs_docker
def test_the_docker_command_line(engine: RunningEngine) -> None:
    def docker(*words: str) -> str:
        done = engine.command(DOCKER, *words)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    assert docker("volume", "create", "--label", "a=b", "data") == "data\n"
    assert docker("volume", "ls") == "DRIVER    VOLUME NAME\nlocal     data\n"
    docker("run", "--rm", "-v", "data:/d", "busybox", "touch", "/d/file")
    assert docker("run", "--rm", "--mount", "type=volume,src=data,dst=/d", "busybox", "ls", "/d") == "file\n"
    assert json.loads(docker("volume", "inspect", "data"))[0]["Labels"] == {"a": "b"}
    assert docker("volume", "rm", "data") == "data\n"


def test_cp_into_a_stopped_container_reaches_the_part_that_it_mounts(
    engine: RunningEngine, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "file").write_text("copied\n")
    run(engine, "-v", "parts:/p", "busybox", "mkdir", "/p/one")
    part = "type=volume,src=parts,dst=/p,volume-subpath=one"
    ok(engine, "create", "--name", "stopped", "--mount", part, "busybox", "true")
    ok(engine, "cp", str(tmp_path / "file"), "stopped:/p/file")
    assert run(engine, "-v", "parts:/p", "busybox", "cat", "/p/one/file") == "copied\n"
    assert run(engine, "-v", "parts:/p", "busybox", "ls", "/p") == "one\n"


def test_cp_into_a_stopped_container_does_not_miss_its_file_system(
    engine: RunningEngine, tmp_path: pathlib.Path
) -> None:
    """What would be written below the place of the mount would be seen by nobody."""
    (tmp_path / "file").write_text("copied\n")
    ok(engine, "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "mem")
    ok(engine, "create", "--name", "stopped", "-v", "mem:/m", "busybox", "sleep", "1000")
    assert "only while the container runs" in refusal(engine, "cp", str(tmp_path / "file"), "stopped:/m/file")
    ok(engine, "start", "stopped")
    ok(engine, "cp", str(tmp_path / "file"), "stopped:/m/file")
    assert ok(engine, "exec", "stopped", "cat", "/m/file") == "copied\n"
