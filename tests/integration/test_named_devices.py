"""Rules of the devices cgroup, and devices that a specification on the host describes, against a real engine."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator

import pytest

from tests.support.daemon import RunningEngine, running_engine

pytestmark = pytest.mark.needs_root

KMSG = "mknod /k c 1 11 && : > /k && echo opened"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(tmp_path_factory.mktemp("devices")) as running:
        yield running


@pytest.fixture
def kind() -> Iterator[str]:
    """A kind of device that only this test has."""
    name = f"thing{secrets.token_hex(4)}"
    directory = pathlib.Path("/var/run/cdi")
    there = directory.is_dir()
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.json"
    edits = {
        "env": ["THING=1"],
        "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/thing", "options": ["ro", "bind"]}],
    }
    specification = {
        "cdiVersion": "0.6.0",
        "kind": f"example.com/{name}",
        "devices": [
            {"name": "one", "containerEdits": edits},
            {"name": "hooked", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}},
        ],
    }
    path.write_text(json.dumps(specification))
    yield specification["kind"]  # type: ignore[misc]
    path.unlink()
    if not there:
        with contextlib.suppress(OSError):
            directory.rmdir()


@pytest.mark.parametrize("rule", ["", "c 1:11 rwm", "c 1:* w", "a *:* rwm"])
def test_a_rule_opens_a_device(engine: RunningEngine, rule: str) -> None:
    options = ("--device-cgroup-rule", rule) if rule else ()
    done = engine.bireme("run", "--rm", "--userns", "host", *options, "busybox", "sh", "-c", KMSG)
    assert (done.stdout == "opened\n") is bool(rule), done


def test_rules_that_are_none(engine: RunningEngine) -> None:
    client = engine.client()
    try:
        with pytest.raises(Exception, match="invalid device cgroup rule format: 'c 1 r'"):
            client.call(
                "POST", "/containers/create", {}, {"Image": "busybox", "HostConfig": {"DeviceCgroupRules": ["c 1 r"]}}
            )
    finally:
        client.close()


def test_a_device_by_name(engine: RunningEngine, kind: str) -> None:
    script = "echo $THING; head -c 2 /dev/thing | wc -c; cat /thing"
    done = engine.bireme("run", "--rm", "--device", f"{kind}=one", "busybox", "sh", "-c", script)
    hostname = pathlib.Path("/etc/hostname").read_text()
    assert (done.returncode, done.stdout) == (0, f"1\n2\n{hostname}"), done
    assert os.path.exists("/etc/hostname")


def test_devices_that_cannot_be_had(engine: RunningEngine, kind: str) -> None:
    for name, message in (
        (f"{kind}=two", f"CDI device injection failed: unresolvable CDI devices {kind}=two"),
        (f"{kind}=hooked", f"CDI device {kind}=hooked needs hooks"),
    ):
        done = engine.bireme("run", "--rm", "--device", name, "busybox", "true")
        assert done.returncode == 125
        assert message in done.stderr
