"""The program as a whole: where it writes, what it does when it cannot."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.cli import DEADLINE_S, command, environment, run_program
from tests.support.fakeserver import FakeServer, Reply


def test_version_of_the_program() -> None:
    assert run_program("--version").out.startswith("bireme version ")
    assert run_program("-v").code == 0


def test_a_full_disk_is_an_error(server: FakeServer) -> None:
    server.on("GET /containers/json", Reply([]))
    with open("/dev/full", "wb") as full:
        for words in (["ps"], ["--help"]):
            done = subprocess.run(
                command("-H", server.host, *words),
                stdout=full,
                stderr=subprocess.PIPE,
                env=environment(),
                timeout=DEADLINE_S,
                check=False,
            )
            assert (done.returncode, done.stderr) == (1, b"bireme: No space left on device\n")


def test_a_reader_that_is_gone_is_none(server: FakeServer) -> None:
    server.on("GET /containers/json", Reply([]))
    child = subprocess.Popen(
        command("-H", server.host, "ps"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.wait(DEADLINE_S) == 141
    assert child.stderr.read() == b""
    child.stderr.close()


def test_characters_that_cannot_be_shown(server: FakeServer) -> None:
    server.on("GET /containers/x/json", {"Id": "…é"})
    latin = environment(PYTHONIOENCODING="latin-1")
    del latin["LC_ALL"]
    latin["PYTHONUTF8"] = "0"
    words = command("-H", server.host, "inspect", "-f", "{{.Id}}", "x")
    done = subprocess.run(
        [word for word in words if word != "-I"],
        capture_output=True,
        env=latin,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout == b"?\xe9\n"


def test_the_engine_is_found_by_the_environment(server: FakeServer) -> None:
    server.on("GET /containers/json", Reply([]))
    for name in ("BIREME_HOST", "DOCKER_HOST"):
        assert run_program("ps", "-q", env=environment(**{name: server.host})).code == 0
    other = environment(BIREME_HOST=server.host, DOCKER_HOST="unix:///nowhere", DOCKER_API_VERSION="1.41")
    assert run_program("ps", "-q", env=other).code == 0
    assert server.requests[-1].target.startswith("/v1.41/")


def test_nothing_goes_in_the_clear_when_tls_was_asked_for() -> None:
    where = {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_CERT_PATH": "/nowhere"}
    result = run_program("ps", env=environment(DOCKER_TLS_VERIFY="1", **where))
    assert (result.code, result.out) == (1, "")
    assert "unable to resolve docker endpoint: open /nowhere/ca.pem: no such file or directory" in result.err


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_bug_of_ours_is_said_to_be_one(server: FakeServer, debug: list[str]) -> None:
    server.on("GET /containers/json", Reply([{"no": "id"}]))
    result = run_program("-H", server.host, *debug, "ps")
    assert result.code == 1
    assert ("Traceback" in result.err) == bool(debug)
    assert "KeyError" in result.err
    if not debug:
        assert result.err == "bireme: internal error: KeyError: 'Id'\nRun with --debug for more\n"
