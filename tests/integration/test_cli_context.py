"""Where `bireme` finds its engine: contexts shared with docker, TLS, config.json."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.integration.test_api_tls import tls_engine
from tests.support.certificates import Certificates
from tests.support.cli import Result, command, environment, run_program
from tests.support.dockercli import DOCKER
from tests.support.fakerun import FakeContainer, Streams
from tests.support.fakeserver import FakeServer, Reply
from tests.support.pace import patience

ROW = {"Id": "c0ffee" + "1" * 58, "Names": ["/web"], "Image": "i", "Command": "c", "State": "running", "Ports": []}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


class Config:
    """A configuration directory and the programs that use it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.path = root / "config"
        self.path.mkdir()

    def env(self, **more: str) -> dict[str, str]:
        return environment(DOCKER_CONFIG=str(self.path), **more)

    def __call__(self, *words: str, **more: str) -> Result:
        return run_program(*words, env=self.env(**more))

    def ok(self, *words: str, **more: str) -> str:
        result = self(*words, **more)
        assert result.code == 0, result
        return result.out

    def docker(self, *words: str) -> str:
        done = subprocess.run([DOCKER, *words], env=self.env(), capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def write(self, **values: object) -> None:
        (self.path / "config.json").write_text(json.dumps(values))

    def read(self) -> dict[str, object]:
        return dict(json.loads((self.path / "config.json").read_text()))


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Config:
    return Config(tmp_path)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "pki")


# contexts


def test_a_context_from_its_making_to_its_end(config: Config, server: FakeServer) -> None:
    server.on("GET /containers/json", Reply([ROW]))
    made = config("context", "create", "lab", "--description", "the lab", "--docker", f"host={server.host}")
    assert (made.code, made.out, made.err) == (0, "lab\n", 'Successfully created context "lab"\n')
    assert config.ok("-c", "lab", "ps", "-q") == "c0ffee111111\n"
    assert config.ok("ps", "-q", DOCKER_CONTEXT="lab") == "c0ffee111111\n"
    config.write(auths={}, HttpHeaders={"X-A": "b"}, other=[1])
    used = config("context", "use", "lab")
    assert (used.out, used.err) == ("lab\n", 'Current context is now "lab"\n')
    assert config.read() == {"auths": {}, "HttpHeaders": {"X-A": "b"}, "other": [1], "currentContext": "lab"}
    assert config.ok("context", "show") == "lab\n"
    assert config.ok("ps", "-q") == "c0ffee111111\n"
    assert server.requests[-1].headers["x-a"] == "b"
    busy = config("context", "rm", "lab")
    assert (busy.code, busy.err) == (1, 'context "lab" is in use, set -f flag to force remove\n')
    assert config.ok("context", "update", "lab", "--description", "ours") == "lab\n"
    rows = [json.loads(line) for line in config.ok("context", "ls", "--format", "json").splitlines()]
    assert rows[1] == {
        "Current": True,
        "Description": "ours",
        "DockerEndpoint": server.host,
        "Error": "",
        "Name": "lab",
    }
    assert config.ok("context", "rm", "-f", "lab") == "lab\n"
    assert "currentContext" not in config.read()
    assert config.ok("context", "ls", "-q") == "default\n"


def test_the_order_in_which_an_engine_is_chosen(config: Config, server: FakeServer) -> None:
    config.ok("context", "create", "far", "--docker", "host=tcp://127.0.0.1:1")
    config.ok("context", "use", "far")
    assert config.ok("context", "show") == "far\n"
    assert config.ok("context", "show", DOCKER_HOST="unix:///x") == "default\n"
    assert config.ok("context", "show", BIREME_HOST="unix:///x", DOCKER_CONTEXT="other") == "default\n"
    assert config.ok("context", "show", DOCKER_CONTEXT="other") == "other\n"
    assert config.ok("-c", "far", "context", "show", DOCKER_HOST="unix:///x") == "far\n"
    assert config.ok("-H", "unix:///x", "context", "show") == "default\n"
    server.on("GET /containers/json", Reply([]))
    config.ok("-H", server.host, "ps")
    both = config("-H", server.host, "-c", "far", "ps")
    assert (both.code, both.err) == (1, "conflicting options: cannot specify both --host and --context\n")
    assert "Cannot connect to the bireme engine at tcp://127.0.0.1:1" in config("ps").err
    listed = config("context", "ls", DOCKER_HOST="unix:///x")
    assert listed.err.startswith("Warning: DOCKER_HOST environment variable overrides the active context.")


def test_directories_of_the_configuration(config: Config, tmp_path: pathlib.Path, server: FakeServer) -> None:
    config.ok("context", "create", "one", "--docker", f"host={server.host}")
    other = str(tmp_path / "other")
    assert config.ok("--config", other, "context", "ls", "-q") == "default\n"
    assert config.ok("context", "ls", "-q", BIREME_CONFIG=other) == "default\n"
    assert config.ok("--config", str(config.path), "context", "ls", "-q", BIREME_CONFIG=other) == "default\none\n"
    home = environment(HOME=str(tmp_path))
    shutil.copytree(config.path, tmp_path / ".docker")
    assert run_program("context", "ls", "-q", env=home).out == "default\none\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["create", "x"],
            'context name "x" is invalid, names are validated against regexp "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"',
        ),
        (["create", "../../etc"], 'context name "../../etc" is invalid'),
        (["create", "default"], '"default" is a reserved context name'),
        (["create", "have"], 'context "have" already exists'),
        (
            ["create", "new", "--docker", "foo=bar"],
            "docker endpoint config: unrecognized config key: foo",
        ),
        (["create", "new", "--docker", "host=bad"], "unable to parse docker host `bad`"),
        (
            ["create", "new", "--docker", "ca=/nope"],
            "docker endpoint config: open /nope: no such file",
        ),
        (["create", "new", "--docker", "host=unix:///x,skip-tls-verify=maybe"], 'skip-tls-verify: parsing "maybe"'),
        (["create", "new", "--docker", "host=unix:///x", "--from", "have"], "give only one of them"),
        (["create", "new", "--from", "nope"], 'context "nope": context not found: open '),
        (["use", "nope"], 'context "nope": context not found: open '),
        (["update", "nope", "--description", "d"], 'context "nope": context not found: open '),
        (["rm", "nope"], 'context "nope" does not exist'),
        (["rm", "default"], 'context "default" cannot be removed'),
        (["inspect", "nope"], 'context "nope": context not found: open '),
    ],
)
def test_what_is_refused(config: Config, words: list[str], text: str) -> None:
    config.ok("context", "create", "have", "--docker", "host=unix:///x")
    result = config("context", *words)
    assert result.code == 1
    assert text in result.err
    assert config.ok("context", "ls", "-q") == "default\nhave\n"


def test_a_context_that_is_gone_or_broken(config: Config) -> None:
    config.write(currentContext="gone")
    assert "context not found" in config("ps").err
    assert config("ps").err.startswith('Failed to initialize: unable to resolve docker endpoint: context "gone"')
    listed = config.ok("context", "ls")
    assert "gone *" in listed
    assert "…" in listed
    config.ok("context", "use", "default")
    config.ok("context", "create", "have", "--docker", "host=unix:///x")
    meta = next((config.path / "contexts" / "meta").glob("*/meta.json"))
    meta.write_text("{")
    assert "not a JSON text" in config("-c", "have", "ps").err


def test_an_ssh_context_says_what_to_do(config: Config) -> None:
    config.ok("context", "create", "far", "--docker", "host=ssh://me@far")
    result = config("-c", "far", "ps")
    assert result.code == 1
    assert "only unix:// and tcp:// addresses are supported" in result.err
    assert "ssh -nNT -L /tmp/bireme.sock:/run/bireme/bireme.sock me@far" in result.err


@pytest.mark.needs_docker
def test_docker_and_bireme_share_their_contexts(config: Config, certificates: Certificates) -> None:
    pair = ",".join(f"{key}={certificates.client}/{key}.pem" for key in ("ca", "cert", "key"))
    config.ok("context", "create", "ours", "--description", "ä<b>", "--docker", f"host=tcp://h:1,{pair}")
    config.docker("context", "create", "theirs", "--description", "ä<b>", "--docker", f"host=tcp://h:1,{pair}")
    assert config.docker("context", "ls", "-q") == config.ok("context", "ls", "-q") == "default\nours\ntheirs\n"
    for name in ("ours", "theirs"):
        assert json.loads(config.docker("context", "inspect", name)) == json.loads(
            config.ok("context", "inspect", name)
        )
    assert _tree(config.path, "ours") == _tree(config.path, "theirs")
    config.docker("context", "use", "ours")
    assert config.ok("context", "show") == "ours\n"
    config.ok("context", "use", "theirs")
    assert config.docker("context", "inspect", "-f", "{{.Name}}") == "theirs\n"  # show is new in 23
    config.docker("context", "rm", "ours")
    assert config.ok("context", "ls", "-q") == "default\ntheirs\n"
    config.ok("context", "rm", "-f", "theirs")
    assert config.docker("context", "ls", "-q") == "default\n"


def _tree(root: pathlib.Path, name: str) -> list[tuple[str, int]]:
    """Names below the context's directories with their modes."""
    from hashlib import sha256

    identity = sha256(name.encode()).hexdigest()
    found = [path for part in ("meta", "tls") for path in (root / "contexts" / part / identity).rglob("*")]
    return sorted((path.name, stat.S_IMODE(os.stat(path).st_mode)) for path in found)


# config.json


def test_formats_of_the_settings(config: Config, server: FakeServer) -> None:
    server.on("GET /containers/json", Reply([ROW]))
    server.on("GET /images/json", Reply([{"Id": "sha256:" + "a" * 64, "RepoTags": ["i:1"], "Created": 1}]))
    server.on("GET /volumes", Reply({"Volumes": [{"Name": "data", "Driver": "local"}], "Warnings": None}))
    config.write(psFormat="{{.Names}}!", imagesFormat="{{.Repository}}?", volumesFormat="{{.Name}};")
    assert config.ok("-H", server.host, "ps") == "web!\n"
    assert config.ok("-H", server.host, "ps", "--format", "{{.ID}}") == "c0ffee111111\n"
    assert config.ok("-H", server.host, "ps", "-q") == "c0ffee111111\n"
    assert config.ok("-H", server.host, "images") == "i?\n"
    assert config.ok("-H", server.host, "volume", "ls") == "data;\n"
    assert config.ok("-H", server.host, "volume", "ls", "--format", "{{.Driver}}") == "local\n"
    assert config.ok("-H", server.host, "volume", "ls", "-q") == "data\n"


def test_detach_keys_of_the_settings(config: Config, server: FakeServer) -> None:
    def hello(streams: Streams) -> int:
        streams.out(b"hello\n")
        return 0

    FakeContainer(server, hello)
    config.write(detachKeys="ctrl-x,y")
    assert config.ok("-H", server.host, "run", "--rm", "busybox", "true") == "hello\n"
    asked = next(request for request in server.requests if request.path.endswith("/attach"))
    assert asked.query["detachKeys"] == "ctrl-x,y"
    config.ok("-H", server.host, "run", "--rm", "--detach-keys", "a", "busybox", "true")
    assert [r for r in server.requests if r.path.endswith("/attach")][-1].query["detachKeys"] == "a"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{bad", "not a JSON text"),
        ("[]", "not a JSON object"),
        ('{"psFormat": 3}', "psFormat is not a string"),
        ('{"HttpHeaders": ["a"]}', "HttpHeaders is not a map of strings"),
        ('{"HttpHeaders": {"A": "b\\r\\nX: y"}}', "HttpHeaders: invalid header 'A'"),
        ('{"HttpHeaders": {"A: b": "c"}}', "HttpHeaders: invalid header 'A: b'"),
    ],
)
def test_settings_that_are_not_understood(config: Config, server: FakeServer, text: str, complaint: str) -> None:
    server.on("GET /containers/json", Reply([ROW]))
    (config.path / "config.json").write_text(text)
    result = config("-H", server.host, "ps", "-q")
    assert (result.code, result.out) == (0, "c0ffee111111\n")
    path = config.path / "config.json"
    assert result.err == f"WARNING: Error parsing config file ({path}): {complaint}\n"
    config.ok("context", "create", "lab", "--docker", f"host={server.host}")
    assert config("context", "use", "lab").code == 1
    assert path.read_text() == text


# TLS

Run = Callable[..., Awaitable[tuple[int, bytes, str]]]


def with_tls(config: Config, certificates: Certificates, scenario: Callable[[Run, str], Awaitable[None]]) -> None:
    """An engine behind mutual TLS, and `bireme` as a program beside it."""

    async def run(*words: str, stdin: bytes = b"", **more: str) -> tuple[int, bytes, str]:
        process = await asyncio.create_subprocess_exec(
            *command(*words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=config.env(**more),
        )
        out, err = await asyncio.wait_for(process.communicate(stdin), patience(60))
        assert process.returncode is not None
        return process.returncode, out, err.decode()

    async def main() -> None:
        async with tls_engine(certificates) as (_, _, port):
            await scenario(run, f"tcp://localhost:{port}")

    asyncio.run(main())


def test_tls_by_environment_options_and_context(config: Config, certificates: Certificates) -> None:
    async def scenario(run: Run, host: str) -> None:
        good = str(certificates.client)
        expected = (0, b"", "")
        assert await run("ps", "-q", DOCKER_HOST=host, DOCKER_TLS_VERIFY="1", DOCKER_CERT_PATH=good) == expected
        files = [
            f"--tls{option}={good}/{file}.pem" for option, file in (("cacert", "ca"), ("cert", "cert"), ("key", "key"))
        ]
        assert await run("--tlsverify", *files, "-H", host, "ps", "-q") == expected
        assert await run("--tls", *files[1:], "-H", host, "ps", "-q") == expected
        assert await run("--tlsverify=false", *files[1:], "-H", host, "ps", "-q") == expected
        pair = ",".join(f"{key}={good}/{key}.pem" for key in ("ca", "cert", "key"))
        assert (await run("context", "create", "far", "--docker", f"host={host},{pair}"))[0] == 0
        assert await run("-c", "far", "ps", "-q") == expected
        assert (await run("context", "create", "copy", "--from", "far"))[0] == 0
        assert await run("-c", "copy", "ps", "-q") == expected
        for file in ("ca", "cert", "key"):
            shutil.copy(f"{good}/{file}.pem", config.path)
        assert await run("--tlsverify", "-H", host, "ps", "-q") == expected

    with_tls(config, certificates, scenario)


def test_tls_that_cannot_be(config: Config, certificates: Certificates) -> None:
    async def scenario(run: Run, host: str) -> None:
        verify = {"DOCKER_HOST": host, "DOCKER_TLS_VERIFY": "1"}
        code, out, err = await run("ps", DOCKER_CERT_PATH=str(certificates.stranger), **verify)
        assert (code, out) == (1, b"")
        assert "is not trusted" in err
        code, out, err = await run("ps", **verify)
        assert (code, out) == (1, b"")
        missing = f"open {config.path}/ca.pem: no such file or directory"
        assert err.startswith(f"Failed to initialize: unable to resolve docker endpoint: {missing}\n")
        ca = f"{certificates.client}/ca.pem"
        code, _, err = await run("--tlsverify", "--tlscacert", ca, "-H", host, "ps")
        assert code == 1
        assert "does it ask for a client certificate?" in err
        key = f"{certificates.client}/key.pem"
        code, _, err = await run("--tlsverify", "--tlscacert", key, "-H", host, "ps")
        assert code == 1
        assert "could not load TLS certificates" in err
        code, _, err = await run("--tlsverify", "--tlscacert", ca, "--tlskey", key, "-H", host, "ps")
        assert "the certificate is missing" in err
        code, _, err = await run("--tls", "-H", "unix:///x", "ps")
        assert (code, err) == (1, "bireme: TLS is for tcp:// addresses, and the engine is at unix:///x\n")
        code, _, err = await run("ps", DOCKER_HOST=host)
        assert code == 1
        assert "the engine closed the connection without an answer" in err

    with_tls(config, certificates, scenario)


def test_streams_over_tls_both_ways(config: Config, certificates: Certificates) -> None:
    async def scenario(run: Run, host: str) -> None:
        env = {"DOCKER_HOST": host, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates.client)}
        assert await run("run", "--rm", "busybox", "echo", "hi", **env) == (0, b"hi\n", "")
        assert await run("run", "--rm", "busybox", "sh", "-c", "echo e >&2; exit 3", **env) == (3, b"", "e\n")
        data = bytes(range(256)) * 8192
        for program in (["cat"], ["sh", "-c", "x=$(head -c 1); sleep 0.1; cat"]):
            code, out, err = await run("run", "-i", "--rm", "busybox", *program, stdin=b"." + data, **env)
            assert (code, err) == (0, "")
            assert out.removeprefix(b".") == data or program[0] == "sh"
            assert out.endswith(data[-1000:])

    with_tls(config, certificates, scenario)


# what it costs

_WATCHED = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from bireme.cli.main import main; main(); "
    "print('MODULES', *sys.modules, file=sys.stderr)"
)


@pytest.mark.parametrize("words", [["version"], ["ps"], ["context", "show"]])
def test_what_is_not_asked_for_is_not_loaded(config: Config, words: list[str]) -> None:
    arguments = command(*words)
    arguments[arguments.index("-c") + 1] = _WATCHED
    done = subprocess.run(arguments, env=config.env(), capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stderr.rpartition("MODULES ")[2].split())
    assert "bireme.cli.main" in modules
    assert not modules & {"ssl", "_ssl", "socket", "re", "json", "bireme.client.tls", "bireme.cli.target"}
    if words[0] != "context":
        assert not modules & {"hashlib", "shutil", "bireme.cli.contextstore"}
    assert sys.executable in arguments
