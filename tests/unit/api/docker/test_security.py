"""Capabilities, security options, namespaces."""

from __future__ import annotations

import pytest

from bireme.api.docker.bodies import HostConfig
from bireme.api.docker.security import CAPABILITIES, namespaces_of, security_of
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import Namespaces, Security


def test_capabilities() -> None:
    assert len(CAPABILITIES) == 41
    found = security_of(HostConfig(CapAdd=["net_admin", "CAP_SYS_TIME", "NET_ADMIN"], CapDrop=["all"]))
    assert found.cap_add == ("CAP_NET_ADMIN", "CAP_SYS_TIME")
    assert found.cap_drop == ("ALL",)
    for name in ("", "CAP_", "CAP_CAP_CHOWN", "ROOT"):
        with pytest.raises(Invalid, match="invalid CapDrop: unknown capability"):
            security_of(HostConfig(CapDrop=[name]))
    with pytest.raises(Invalid, match=r"HostConfig\.Capabilities"):
        security_of(HostConfig(Capabilities=["CAP_CHOWN"]))


def test_security_options() -> None:
    assert security_of(HostConfig()) == Security()
    for option in ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:1"):
        assert security_of(HostConfig(SecurityOpt=[option])).no_new_privileges
    assert not security_of(HostConfig(SecurityOpt=["no-new-privileges=false"])).no_new_privileges
    assert security_of(HostConfig(SecurityOpt=["seccomp=unconfined"])).seccomp == "unconfined"
    assert security_of(HostConfig(SecurityOpt=["seccomp=builtin"])).seccomp == ""
    profile = '{"defaultAction":"SCMP_ACT_ALLOW"}'
    assert security_of(HostConfig(SecurityOpt=[f"seccomp={profile}"])).seccomp == profile
    assert security_of(HostConfig(SecurityOpt=["apparmor=unconfined", "label:disable"])) == Security()


@pytest.mark.parametrize("option", ["what", "what=x", "no-new-privileges=maybe", "seccomp={", "seccomp=[]"])
def test_bad_security_options(option: str) -> None:
    with pytest.raises(Invalid):
        security_of(HostConfig(SecurityOpt=[option]))


def test_paths() -> None:
    found = security_of(HostConfig(Privileged=True, MaskedPaths=[], ReadonlyPaths=["/proc/sys"]))
    assert (found.privileged, found.masked_paths, found.readonly_paths) == (True, (), ("/proc/sys",))


def test_namespaces() -> None:
    assert namespaces_of(HostConfig()) == Namespaces()
    assert namespaces_of(HostConfig(IpcMode="private", CgroupnsMode="private")) == Namespaces()
    assert namespaces_of(HostConfig(IpcMode="shareable")) == Namespaces(ipc="shareable")
    assert namespaces_of(HostConfig(IpcMode="none")) == Namespaces(ipc="none")
    host = HostConfig(UsernsMode="host", PidMode="host", IpcMode="host", UTSMode="host", CgroupnsMode="host")
    assert namespaces_of(host) == Namespaces(user="host", pid="host", ipc="host", uts="host", cgroup="host")
    assert namespaces_of(HostConfig(PidMode="container:a", IpcMode="container:b")) == Namespaces(
        pid="container:a", ipc="container:b"
    )


@pytest.mark.parametrize(
    ("host", "message"),
    [
        (HostConfig(PidMode="x"), "invalid PID mode: x"),
        (HostConfig(PidMode="container:"), "invalid PID mode: container:"),
        (HostConfig(IpcMode="x"), "invalid IPC mode: x"),
        (HostConfig(UTSMode="container:a"), "invalid UTS mode: container:a"),
        (HostConfig(UsernsMode="x"), "invalid user namespace mode: x"),
        (HostConfig(CgroupnsMode="x"), "invalid cgroup namespace mode: x"),
    ],
)
def test_bad_namespaces(host: HostConfig, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        namespaces_of(host)


def test_namespaces_not_there_yet() -> None:
    with pytest.raises(Unsupported):
        namespaces_of(HostConfig(Cgroup="container:x"))
