"""Capabilities, security options and namespaces of a create request."""

from __future__ import annotations

import msgspec

from bireme.api.docker.bodies import HostConfig
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import Namespaces, Security

CAPABILITIES = frozenset(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)


def security_of(host: HostConfig) -> Security:
    """Privileges asked for; Invalid with dockerd's words, Unsupported for labels of security modules."""
    if host.Capabilities:
        raise Invalid(
            "the HostConfig.Capabilities field is not supported by this daemon; use CapAdd and CapDrop to set "
            "capabilities"
        )
    seccomp, no_new_privileges = "", False
    for option in host.SecurityOpt:
        name, value = _split(option)
        if name == "no-new-privileges":
            no_new_privileges = _boolean(value, option)
        elif name == "seccomp":
            seccomp = _seccomp(value)
        elif name == "apparmor":
            if value != "unconfined":
                raise Unsupported(f"AppArmor profiles are not supported: {option}", subject=option)
        elif name == "label":
            if value != "disable":
                raise Unsupported(f"SELinux labels are not supported: {option}", subject=option)
        elif name in ("writable-cgroups", "systempaths"):
            raise Unsupported(f"security option {name} is not supported", subject=option)
        else:
            raise Invalid(f'invalid --security-opt 2: "{option}"', subject=option)
    return Security(
        privileged=host.Privileged,
        cap_add=_capabilities(host.CapAdd, "CapAdd"),
        cap_drop=_capabilities(host.CapDrop, "CapDrop"),
        seccomp=seccomp,
        no_new_privileges=no_new_privileges,
        masked_paths=None if host.MaskedPaths is None else tuple(host.MaskedPaths),
        readonly_paths=None if host.ReadonlyPaths is None else tuple(host.ReadonlyPaths),
    )


def _split(option: str) -> tuple[str, str]:
    if option == "no-new-privileges":
        return option, "true"
    name, equals, value = option.partition("=")
    if not equals:
        name, equals, value = option.partition(":")
    if not equals:
        raise Invalid(f'invalid --security-opt 1: "{option}"', subject=option)
    return name, value


def _boolean(text: str, option: str) -> bool:
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise Invalid(f'invalid --security-opt 2: "{option}"', subject=option)


def _seccomp(value: str) -> str:
    if value == "builtin":
        return ""
    if value == "unconfined":
        return value
    try:
        if not isinstance(msgspec.json.decode(value), dict):
            raise Invalid("Decoding seccomp profile failed: not an object")
    except msgspec.DecodeError as error:
        raise Invalid(f"Decoding seccomp profile failed: {error}") from error
    return value


def _capabilities(names: list[str], field: str) -> tuple[str, ...]:
    found = []
    for name in names:
        text = name.upper()
        if text == "ALL":
            found.append(text)
            continue
        text = text if text.startswith("CAP_") else f"CAP_{text}"
        if text not in CAPABILITIES:
            raise Invalid(f'invalid {field}: unknown capability: "{text}"', subject=name)
        found.append(text)
    return tuple(dict.fromkeys(found))


def namespaces_of(host: HostConfig) -> Namespaces:
    if host.Cgroup:
        raise Unsupported(f"the Cgroup option is not supported: {host.Cgroup}")
    ipc = host.IpcMode
    return Namespaces(
        user=_mode(host.UsernsMode, "user namespace", ("", "private"), joinable=False),
        pid=_mode(host.PidMode, "PID", ("", "private")),
        ipc=ipc if ipc in ("none", "shareable") else _mode(ipc, "IPC", ("", "private")),
        uts=_mode(host.UTSMode, "UTS", ("", "private"), joinable=False),
        cgroup=_mode(host.CgroupnsMode, "cgroup namespace", ("", "private"), joinable=False),
    )


def _mode(mode: str, what: str, private: tuple[str, ...], *, joinable: bool = True) -> str:
    if mode in private:
        return ""
    if mode == "host":
        return mode
    if joinable and mode.startswith("container:") and len(mode) > len("container:"):
        return mode
    wording = f"invalid {what} mode: {mode}"
    raise Invalid(wording, subject=mode)
