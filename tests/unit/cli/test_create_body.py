"""The body of create for every option, against bodies recorded from the docker command line (create_bodies.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bireme.cli.create_body import create_body, read_lines
from bireme.cli.errors import BadValue
from bireme.cli.parse import parse_words
from bireme.cli.verbs.create_options import CREATE_OPTIONS

_RECORDED = json.loads(Path(__file__).with_name("create_bodies.json").read_text("utf-8"))
_FILES = {
    "env": "# c\nFOO=bar\n\nHOME2\nNOPE\n  X=y z\n",
    "labels": "l1=v1\n# x\nl2\n",
    "seccomp": '{ "defaultAction": "SCMP_ACT_ALLOW",\n "syscalls": [] }',
}


def _body(words: list[str]) -> dict[str, Any]:
    arguments = parse_words(CREATE_OPTIONS, words, interspersed=False)
    return json.loads(json.dumps(create_body(arguments, {"HOME2": "/h"})))  # type: ignore[no-any-return]


def _comparable(body: dict[str, Any]) -> dict[str, Any]:
    """In the shape of the recordings: sets as sorted lists, endpoints on top, nothing empty."""
    endpoints = body.pop("NetworkingConfig", {}).get("EndpointsConfig", {})
    for key in ("Volumes", "ExposedPorts"):
        if key in body:
            body[key] = sorted(body[key])
    body["HostConfig"].get("Binds", []).sort()
    for bindings in body["HostConfig"].get("PortBindings", {}).values():
        bindings[:] = [{key: value for key, value in binding.items() if value} for binding in bindings]
    if endpoints:
        body["Endpoints"] = endpoints
    if "LogConfig" in body["HostConfig"]:
        body["HostConfig"]["LogConfig"] = {k: v for k, v in body["HostConfig"]["LogConfig"].items() if v}
    return {key: value for key, value in body.items() if value not in (False, {}) or key == "StopTimeout"} | {
        "HostConfig": body["HostConfig"]
    }


@pytest.mark.parametrize("recorded", _RECORDED, ids=lambda recorded: " ".join(recorded["args"]))
def test_bodies_are_those_of_docker(recorded: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in _FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir("/")
    words = [word.replace("@", f"{tmp_path}/") for word in recorded["args"]]
    body = json.loads(json.dumps(_body(words)).replace(f"{tmp_path}/", "@"))
    expected = {"HostConfig": {}} | recorded["body"]
    assert _comparable(body) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory-swappiness", "200"], "invalid value: 200. Valid memory swappiness range is 0-100"),
        (["--pid", "x"], "--pid: invalid PID mode"),
        (["--uts", "x"], "--uts: invalid UTS mode"),
        (["--userns", "x"], "--userns: invalid USER mode"),
        (["--cgroupns", "x"], "--cgroupns: invalid CGROUP mode"),
        (["--restart", "always", "--rm"], "conflicting options: cannot specify both --restart and --rm"),
        (["--restart", "on-failure:x"], "invalid restart policy format: maximum retry count must be an integer"),
        (["--restart", ":3"], "invalid restart policy format: no policy provided before colon"),
        (["--mac-address", "x"], "x is not a valid mac address"),
        (["--device", "/dev/null:/x:q"], "bad mode specified: q"),
        (["--device", "null"], "null is not an absolute path"),
        (["--device-cgroup-rule", "x"], "invalid device cgroup format 'x'"),
        (["--security-opt", "foo"], 'Invalid --security-opt: "foo"'),
        (["--health-cmd", "x", "--no-healthcheck"], "--no-healthcheck conflicts with --health-* options"),
        (["--health-interval=-1s"], "--health-interval cannot be negative"),
        (["-p", "x"], "invalid containerPort: x"),
        (["-p", "80/foo"], "invalid proto: foo"),
        (["-p", "1:2:3"], "invalid IP address: 1"),
        (["-p", "a:80"], "invalid hostPort: a"),
        (["-p", "70000"], "invalid containerPort: 70000"),
        (["-p", "::"], "no port specified: ::<empty>"),
        (["-p", "80-82:80-81"], "invalid ranges specified for container and host Ports: 80-81 and 80-82"),
        (["--expose", "80:80"], "invalid port format for --expose: 80:80"),
        (["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
        (["--storage-opt", "x"], "invalid storage option"),
        (["--label-file", "/nope"], "open /nope: no such file or directory"),
        (["--env-file", "/nope"], "open /nope: no such file or directory"),
        (
            ["--security-opt", "seccomp=/nope"],
            "opening seccomp profile (/nope) failed: open /nope: no such file or directory",
        ),
        (
            ["--network", "name=foo,alias=x", "--network-alias", "z"],
            "conflicting options: cannot specify both --network-alias and per-network alias",
        ),
    ],
)
def test_complaints(words: list[str], message: str) -> None:
    with pytest.raises(BadValue) as caught:
        _body([*words, "image"])
    assert caught.value.message == message


def test_files_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"\xef\xbb\xbfA=1\r\n#x\n")
    assert read_lines(str(path), "env", {}) == ["A=1"]
    for text, complaint in (("=x\n", "no variable name"), ("a b=c\n", "contains whitespaces")):
        path.write_text(text)
        with pytest.raises(BadValue, match=complaint):
            read_lines(str(path), "env", {})
    path.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(BadValue, match="invalid utf8"):
        read_lines(str(path), "env", {})


def test_a_broken_profile(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("{")
    with pytest.raises(BadValue, match="compacting json for seccomp profile"):
        _body(["--security-opt", f"seccomp={tmp_path}/p", "image"])


def test_detached_attaches_nothing() -> None:
    arguments = parse_words(CREATE_OPTIONS, ["-it", "image"], interspersed=False)
    body = create_body(arguments, {}, detached=True, console=(24, 80))
    assert not any(body.get(key) for key in ("AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"))
    assert body["OpenStdin"]
    assert body["HostConfig"]["ConsoleSize"] == [24, 80]
