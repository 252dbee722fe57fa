"""What a microVM cannot do that a container can: each is refused when the instance is created, with a hint.

docs/scope.md lists them.
"""

from __future__ import annotations

from bireme.drivers.microvm.limits import check_limits
from bireme.errors import Unsupported
from bireme.instance.spec import InstanceSpec, Mount
from bireme.vmm.plan import MAX_DISKS

_NO_SHARING = "a machine shares nothing with the host"


def check_spec(spec: InstanceSpec) -> None:
    """Raise for the first option that is not there."""
    _check_sharing(spec)
    _check_security(spec)
    for mount in spec.mounts:
        _check_mount(mount)
    check_limits(spec.limits)


def check_layers(count: int) -> None:
    """Each layer is a disk; one more is the writable one."""
    if count > MAX_DISKS - 1:
        raise Unsupported(
            f"images of more than {MAX_DISKS - 1} layers are not supported with isolation microvm, this one has {count}"
        )


def _check_sharing(spec: InstanceSpec) -> None:
    for kind in ("user", "pid", "ipc", "uts", "cgroup"):
        value = getattr(spec.namespaces, kind)
        if value not in ("", "private", "shareable"):
            raise _refused(f"--{kind} {value}", _NO_SHARING)
    if spec.network.name not in ("bridge", "none", "default"):
        raise _refused(f"--network {spec.network.name}", "use bridge or none")
    if spec.devices or spec.cdi_devices or spec.device_rules:
        raise _refused("--device", _NO_SHARING)
    if spec.volumes_from:
        raise _refused("--volumes-from", _NO_SHARING)
    if spec.cgroup_parent:
        raise _refused("--cgroup-parent", "")


def _check_security(spec: InstanceSpec) -> None:
    security = spec.security
    if security.privileged:
        raise _refused("--privileged", "--cap-add ALL gives every right inside; the host's devices are not there")
    if security.seccomp not in ("", "unconfined"):
        raise _refused("a seccomp profile", "nothing is filtered inside: the machine is the boundary")
    for paths, word in ((security.masked_paths, "masked"), (security.readonly_paths, "read-only")):
        if paths:
            raise _refused(f"a list of {word} paths", "/proc and /sys are those of the machine's own kernel")


def _check_mount(mount: Mount) -> None:
    if mount.kind == "bind":
        raise _refused(f"the bind mount {mount.source}:{mount.target}", "put the files into the image, or use --tmpfs")
    if mount.kind == "volume":
        raise _refused(f"the volume at {mount.target}", f"{_NO_SHARING}; what is written there stays on its own disk")
    if mount.options or mount.read_only:
        given = ",".join((*mount.options, *(("ro",) if mount.read_only else ())))
        raise _refused(f"the tmpfs option {given}", "size and mode are known")


def _refused(what: str, hint: str) -> Unsupported:
    return Unsupported(f"{what} is not supported with isolation microvm", subject=what, hint=hint)
