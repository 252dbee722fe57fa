"""Files of containers against a real engine: archive, cp, export, diff, commit, import; and what a hostile guest or a
hostile archive can make of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from bireme.client.engine import Engine
from bireme.client.errors import ApiError
from tests.support.daemon import RunningEngine, running_engine
from tests.support.dockercli import DOCKER
from tests.support.pace import eventually, patience

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module", params=["overlay", "native"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    config = tmp_path_factory.mktemp("config") / "bireme.toml"
    config.write_text(f'snapshotter = "{request.param}"\n')
    with running_engine(tmp_path_factory.mktemp("files"), "--config", str(config)) as made:
        made.env["DOCKER_CONFIG"] = str(tmp_path_factory.mktemp("docker-config"))
        yield made


@pytest.fixture(params=["running", "stopped"])
def box(request: pytest.FixtureRequest, engine: RunningEngine) -> Iterator[str]:
    """A container called `box`, with some files in it."""
    script = (
        "mkdir -p /data/sub; echo one >/data/one; echo two >/data/sub/two; ln -s /data/one /link; ln -s /data /dir; "
        "chown 12:34 /data/one; rm /bin/vi; echo ready; sleep 600"
    )
    _ok(engine, "run", "-d", "--name", "box", "busybox", "sh", "-c", script)
    eventually(lambda: "ready" in _ok(engine, "logs", "box"))
    if request.param == "stopped":
        _ok(engine, "stop", "-t", "0", "box")
    yield "box"
    engine.bireme("rm", "-f", "box")


def _ok(engine: RunningEngine, *words: str, **more: Any) -> str:
    done = engine.bireme(*words, **more)
    assert done.returncode == 0, (words, done)
    return str(done.stdout)


def _client(engine: RunningEngine) -> Engine:
    return engine.client()


def _get(engine: RunningEngine, name: str, path: str) -> tuple[dict[str, Any], bytes]:
    with _client(engine).open("GET", f"/containers/{name}/archive", {"path": path}) as response:
        stat = json.loads(base64.b64decode(response.headers["x-docker-container-path-stat"]))
        return stat, response.read()


def _put(engine: RunningEngine, name: str, path: str, data: bytes, **query: object) -> None:
    with _client(engine).open("PUT", f"/containers/{name}/archive", {"path": path, **query}, data) as response:
        response.read()


def _refused(engine: RunningEngine, name: str, path: str, data: bytes, **query: object) -> ApiError:
    with pytest.raises(ApiError) as caught:
        _put(engine, name, path, data, **query)
    return caught.value


def _names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def _tar(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                archive.addfile(member)
    return buffer.getvalue()


def _info(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_archive_of_a_path(engine: RunningEngine, box: str) -> None:
    stat, data = _get(engine, box, "/data")
    assert (stat["name"], stat["mode"] >> 31) == ("data", 1)
    assert _names(data) == ["data", "data/one", "data/sub", "data/sub/two"]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        one = archive.getmember("data/one")
        assert (one.uid, one.gid, one.size) == (12, 34, 4)
    assert _names(_get(engine, box, "/data/.")[1]) == [".", "./one", "./sub", "./sub/two"]
    stat, data = _get(engine, box, "/link")
    assert (stat["linkTarget"], bool(stat["mode"] & 1 << 27)) == ("/data/one", True)
    assert _names(data) == ["link"]
    assert _names(_get(engine, box, "/dir/")[1])[0] == "dir"
    assert "data/../../../etc" not in _names(_get(engine, box, "/../../data")[1])
    with pytest.raises(ApiError) as caught:
        _get(engine, box, "/nope")
    assert (caught.value.status, caught.value.message) == (404, "Could not find the file /nope in container box")
    for path, status in (("", 400), ("/data/one/", 400), ("/proc/1/environ", 404), ("/data/one/x", 404)):
        with pytest.raises(ApiError) as caught:
            _get(engine, box, path)
        assert caught.value.status == status, path


def test_put(engine: RunningEngine, box: str) -> None:
    owned = tarfile.TarInfo("deep/er/owned")
    owned.uid, owned.gid, owned.mode = 7, 8, 0o640
    _put(engine, box, "/data", _tar(("new", b"hello"), owned, ("/absolute", b"a"), (".wh.odd", b"")))
    found = _get(engine, box, "/data")[1]
    with tarfile.open(fileobj=io.BytesIO(found)) as archive:
        member = archive.getmember("data/deep/er/owned")
        assert (member.uid, member.gid, member.mode) == (7, 8, 0o640)
        assert {"data/new", "data/absolute", "data/.wh.odd"} <= set(archive.getnames())
    assert _refused(engine, box, "/data/one", _tar(("x", b""))).status == 400
    assert _refused(engine, box, "/nope", _tar(("x", b""))).status == 404
    clash = _refused(engine, box, "/data", _tar(("sub", b"file")), noOverwriteDirNonDir="1")
    assert (clash.status, "cannot overwrite directory" in clash.message) == (400, True)
    other = _refused(engine, box, "/data", _tar(_info("one", tarfile.DIRTYPE)), noOverwriteDirNonDir="1")
    assert "cannot overwrite non-directory" in other.message
    _put(engine, box, "/data", _tar(("sub", b"file")))
    assert _names(_get(engine, box, "/data/sub")[1]) == ["sub"]


@pytest.mark.parametrize(
    "members",
    [
        [("../escape", b"x")],
        [("a/../../escape", b"x")],
        [_info("hard", tarfile.LNKTYPE, "../../etc/passwd")],
        [_info("link", tarfile.SYMTYPE, "../../../etc")],
        [("file", b"x"), ("file/below", b"y")],
    ],
    ids=["climb", "climb-inside", "hard-link", "symlink", "below-a-file"],
)
def test_hostile_archives(engine: RunningEngine, box: str, members: list[Any]) -> None:
    before = set(os.listdir("/"))
    assert _refused(engine, box, "/data/sub", _tar(*members)).status == 400
    assert set(os.listdir("/")) == before
    assert _refused(engine, box, "/data", b"no archive at all" * 100).status == 400


def test_links_of_the_container_stay_inside(engine: RunningEngine, box: str, tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    _put(engine, box, "/data", _tar(_info("out", tarfile.SYMTYPE, str(secret))))
    assert _refused(engine, box, "/data/out", _tar(("x", b""))).status == 404
    with pytest.raises(ApiError):
        _get(engine, box, f"/data/out/../../../..{secret}")
    _put(engine, box, "/", _tar(("dir/through", b"ok")))
    assert "data/through" in _names(_get(engine, box, "/data")[1])
    assert not os.listdir(secret)


def test_a_guest_that_swaps_links_meanwhile(engine: RunningEngine, tmp_path: pathlib.Path) -> None:
    """A directory and a link to a directory of the host take turns; nothing is read from or written to the host."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("of the host")
    script = (
        f"mkdir -p /w/real /keep; echo mine >/w/real/secret; ln -s ../../../../../..{host} /keep/evil; echo ready; "
        "while :; do mv /w/real /w/x; cp -a /keep/evil /w/real; rm /w/real; mv /w/x /w/real; done"
    )
    _ok(engine, "run", "-d", "--name", "racer", "busybox", "sh", "-c", script)
    try:
        eventually(lambda: "ready" in _ok(engine, "logs", "racer"))
        payload = _tar(("written", b"by cp"))
        statuses = set()
        for _ in range(40):
            try:
                _put(engine, "racer", "/w/real", payload)
                _put(engine, "racer", "/w", _tar(("real/written", b"by cp")))
            except ApiError as error:
                statuses.add(error.status)
            for path in ("/w/real/secret", "/w/real/", "/w"):
                try:
                    assert b"of the host" not in _get(engine, "racer", path)[1]
                except ApiError as error:
                    statuses.add(error.status)
        assert statuses <= {400, 404}
        assert sorted(os.listdir(host)) == ["secret"]
    finally:
        engine.bireme("rm", "-f", "racer")


def test_mounts_are_seen(engine: RunningEngine, tmp_path: pathlib.Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("of the bind")
    binds = ("-v", f"{shared}:/mnt/shared", "-v", f"{shared}:/mnt/fixed:ro")
    _ok(engine, "run", "-d", "--name", "bound", *binds, "busybox", "sleep", "600")
    try:
        for _ in ("running", "stopped"):
            assert _names(_get(engine, "bound", "/mnt/shared")[1]) == ["shared", "shared/file"]
            assert "mnt/shared/file" in _names(_get(engine, "bound", "/mnt")[1])
            _put(engine, "bound", "/mnt/shared", _tar(("put", b"there")))
            assert (shared / "put").read_bytes() == b"there"
            (shared / "put").unlink()
            denied = _refused(engine, "bound", "/mnt/fixed", _tar(("put", b"")))
            assert (denied.status, denied.message) == (403, "mounted volume is marked read-only")
            with _client(engine).open("GET", "/containers/bound/export") as response:
                names = _names(response.read())
            assert "mnt/shared" in names
            assert "mnt/shared/file" not in names
            engine.bireme("stop", "-t", "0", "bound")
    finally:
        engine.bireme("rm", "-f", "bound")


def test_a_read_only_root(engine: RunningEngine) -> None:
    _ok(engine, "run", "-d", "--name", "fixed", "--read-only", "busybox", "sleep", "600")
    try:
        for _ in ("running", "stopped"):
            denied = _refused(engine, "fixed", "/etc", _tar(("x", b"")))
            assert (denied.status, denied.message) == (403, "container rootfs is marked read-only")
            engine.bireme("stop", "-t", "0", "fixed")
    finally:
        engine.bireme("rm", "-f", "fixed")


def test_copied_for_the_user(engine: RunningEngine) -> None:
    _ok(engine, "create", "--name", "user", "-u", "65534:3", "busybox", "true")
    try:
        _put(engine, "user", "/tmp", _tar(("mine", b"x")), copyUIDGID="1")
        with tarfile.open(fileobj=io.BytesIO(_get(engine, "user", "/tmp/mine")[1])) as archive:
            assert (archive.getmember("mine").uid, archive.getmember("mine").gid) == (65534, 3)
    finally:
        engine.bireme("rm", "user")


def _programs(engine: RunningEngine) -> list[Any]:
    return [engine.bireme, *([lambda *words, **more: engine.command(DOCKER, *words, **more)] if DOCKER else [])]


def test_cp(engine: RunningEngine, box: str, tmp_path: pathlib.Path) -> None:
    """docker cp's table of cases, by our program and by docker's own where there is one."""
    for number, program in enumerate(_programs(engine)):
        here = tmp_path / str(number)
        (here / "src" / "in").mkdir(parents=True)
        (here / "src" / "in" / "f").write_text("local")
        (here / "src" / "link").symlink_to("in/f")

        def done(*words: str, here: pathlib.Path = here, program: Any = program, **more: Any) -> str:
            result = program("cp", *words, cwd=here, **more)
            assert result.returncode == 0, (words, result)
            return str(result.stderr)

        def failed(*words: str, here: pathlib.Path = here, program: Any = program) -> str:
            result = program("cp", *words, cwd=here)
            assert result.returncode == 1, (words, result)
            return str(result.stderr)

        assert done("box:/data", "out") == ""
        assert {"one", "sub"} <= set(os.listdir(here / "out"))
        done("box:/data", "out")
        assert (here / "out" / "data" / "one").read_text() == "one\n"
        done("box:/data/.", "flat")
        assert (here / "flat" / "sub" / "two").read_text() == "two\n"
        done("box:/data/one", "renamed")
        assert (here / "renamed").read_text() == "one\n"
        done("box:link", "kept")
        assert os.readlink(here / "kept") == "/data/one"
        done("-L", "box:link", "followed")
        assert (here / "followed").read_text() == "one\n"
        assert done("box:/data/one", "quiet") == ""
        assert "no such directory" in failed("box:/data/one", "absent/")
        assert "cannot copy directory" in failed("box:/data", "renamed")
        assert "/nope" in failed("box:/nope", ".")  # clients before 23 have words of their own
        assert "does not exist" in failed("box:/data/one", "no/where/at/all")
        base = f"/data/in{number}"
        done("src", f"box:{base}")
        done("src", f"box:{base}")
        done("src/.", f"box:{base}")
        names = _names(_get(engine, box, base)[1])
        root = base.removeprefix("/data/")
        assert {f"{root}/in/f", f"{root}/src/in/f", f"{root}/link"} <= set(names)
        done("src/in/f", f"box:{base}/copy")
        done("-L", "src/link", f"box:{base}/target")
        assert _names(_get(engine, box, f"{base}/target")[1]) == ["target"]
        assert _get(engine, box, f"{base}/copy")[0]["size"] == 5
        assert "no such directory" in failed("src/in/f", f"box:{base}/none/")
        assert "cannot copy directory" in failed("src", f"box:{base}/copy")
        assert "no such file or directory" in failed("nothing", f"box:{base}")
        assert "between containers" in failed("box:/a", "box:/b")
        assert "at least one container" in failed("a", "b")
        assert "must be a directory" in failed("-", f"box:{base}/copy")


def test_cp_tells_what_it_did(engine: RunningEngine, box: str, tmp_path: pathlib.Path) -> None:
    said = engine.bireme("cp", "--quiet=false", "box:/data/one", str(tmp_path)).stderr
    assert said == f"Successfully copied 2.05kB to {tmp_path}\n"
    said = engine.bireme("cp", "--quiet=false", str(tmp_path / "one"), "box:/tmp").stderr
    assert said == "Successfully copied 2.05kB to box:/tmp\n"
    assert engine.bireme("cp", "-q", "box:/data/one", str(tmp_path)).stderr == ""


def test_cp_through_pipes(engine: RunningEngine, box: str) -> None:
    done = engine.bireme("cp", "box:/data", "-", text=False)
    assert "data/sub/two" in _names(done.stdout)
    _ok(engine, "cp", "-", "box:/tmp", input=_tar(("piped", b"through")), text=False)
    assert _get(engine, box, "/tmp/piped")[0]["size"] == 7


def test_diff(engine: RunningEngine, box: str) -> None:
    lines = _ok(engine, "diff", box).splitlines()
    wanted = "A /data,A /data/one,A /data/sub,A /data/sub/two,A /dir,A /link,C /bin,D /bin/vi".split(",")
    assert set(wanted) <= set(lines)
    assert not {line for line in lines if line.startswith(("A /bin", "C /usr", "D /etc"))}
    _ok(engine, "create", "--name", "untouched", "busybox", "true")
    with _client(engine).open("GET", "/containers/untouched/changes") as response:
        assert response.read() == b"null\n"
    _ok(engine, "rm", "untouched")


def test_export_and_import(engine: RunningEngine, box: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "root.tar"
    _ok(engine, "export", "-o", str(path), box)
    names = _names(path.read_bytes())
    assert {"data/one", "bin/sh"} <= set(names)
    assert "bin/vi" not in names
    packed = subprocess.run(["gzip", "-c", str(path)], capture_output=True, check=True).stdout
    change = ("-c", 'CMD ["cat", "/data/one"]', "--change", "ENV A=b", "-m", "made here")
    out = engine.bireme("import", *change, "-", "brought:in", input=packed, text=False)
    assert out.returncode == 0, out
    assert out.stdout.startswith(b"sha256:")
    assert _ok(engine, "run", "--rm", "brought:in") == "one\n"
    image = json.loads(_ok(engine, "inspect", "brought:in"))[0]
    assert (image["Comment"], image["Config"]["Env"], len(image["RootFS"]["Layers"])) == ("made here", ["A=b"], 1)
    _ok(engine, "rmi", "brought:in")
    assert "is not a valid change command" in engine.bireme("import", "-c", "RUN x", str(path)).stderr
    bad = engine.bireme("import", "-", "bad:1", input=b"x" * 4096, text=False)
    assert bad.returncode == 1
    assert "bad" not in _ok(engine, "images")


def test_commit(engine: RunningEngine, box: str) -> None:
    options = ("-a", "me", "-m", "words", "-c", "ENV A=b C=$A", "-c", 'ENTRYPOINT ["cat"]', "-c", "EXPOSE 80 90-91/udp")
    identity = _ok(engine, "commit", *options, box, "committed:1").strip()
    try:
        image = json.loads(_ok(engine, "inspect", "committed:1"))[0]
        assert (image["Id"], image["Author"], image["Comment"]) == (identity, "me", "words")
        assert set(image["Config"]["ExposedPorts"]) == {"80/tcp", "90/udp", "91/udp"}
        assert image["Config"]["Cmd"] is None
        assert _ok(engine, "run", "--rm", "committed:1", "/data/sub/two") == "two\n"
        gone = engine.bireme("run", "--rm", "--entrypoint", "ls", "committed:1", "/bin/vi")
        assert gone.returncode == 1
        owner = _ok(engine, "run", "--rm", "--entrypoint", "stat", "committed:1", "-c", "%u:%g", "/data/one")
        assert owner == "12:34\n"
    finally:
        _ok(engine, "rmi", "committed:1")
    for name, repository, status in (("absent", "x", 404), ("", "x", 404), (box, "UPPER", 400)):
        with contextlib.closing(_client(engine)) as client, pytest.raises(ApiError) as caught:
            client.call("POST", "/commit", {"container": name, "repo": repository})
        assert caught.value.status == status


def _memory_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def test_two_hundred_megabytes(engine: RunningEngine) -> None:
    """In and out bit-exact, and the engine holds none of it."""
    _ok(engine, "run", "-d", "--name", "big", "busybox", "sleep", "600")
    try:
        size, block = 200 << 20, os.urandom(1 << 20)
        info = tarfile.TarInfo("big")
        info.size = size

        def pieces() -> Iterator[bytes]:
            yield info.tobuf()
            for _ in range(200):
                yield block
            yield bytes(1024)

        pid = engine.pids("biremed")[0]
        before = _memory_kb(pid)
        with _client(engine).open("PUT", "/containers/big/archive", {"path": "/tmp"}, pieces()) as response:
            response.read()
        digest = hashlib.sha256()
        with _client(engine).open("GET", "/containers/big/archive", {"path": "/tmp/big"}) as response:
            skip, left = 512, size
            for chunk in response.chunks():
                cut = min(skip, len(chunk))
                skip -= cut
                part = chunk[cut : cut + left]
                left -= len(part)
                digest.update(part)
        assert digest.hexdigest() == hashlib.sha256(block * 200).hexdigest()
        assert _memory_kb(pid) - before < 48 << 10
    finally:
        engine.bireme("rm", "-f", "big")


def test_a_client_that_goes_away(engine: RunningEngine) -> None:
    """Half an archive in either direction leaves neither a worker nor a lock."""
    _ok(engine, "create", "--name", "left", "busybox", "true")
    try:
        response = _client(engine).open("GET", "/containers/left/export")
        next(response.chunks())
        response.close()
        connection = _client(engine).connection()
        head = "PUT /v1.47/containers/left/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"
        connection._open().sendall(head.encode() + bytes(100))
        connection.close()
        eventually(lambda: not _workers(engine), within_s=patience(20))
        _ok(engine, "start", "left")
        _ok(engine, "wait", "left")
    finally:
        engine.bireme("rm", "-f", "left")


def _workers(engine: RunningEngine) -> list[str]:
    """Every worker names a root of its engine."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"files_worker" in line and engine.data_root.encode() in line:
            found.append(pid)
    return found
