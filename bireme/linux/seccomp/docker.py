"""Docker's profile format, and the default profile.

Docker's JSON says more than OCI's: rules that hold only with or without a capability, on an architecture or from a
kernel version on (`includes`, `excludes`). Before a start they are decided for one container, which leaves a plain OCI
`linux.seccomp` object. The default profile is kept as lists in default.json and brought into the same form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from bireme.errors import Invalid
from bireme.linux.libc import MACHINE
from bireme.linux.seccomp import table

_ALLOW = "SCMP_ACT_ALLOW"
_KEYS = frozenset({"names", "name", "action", "errnoRet", "args", "comment", "includes", "excludes"})


def docker_profile_to_oci(
    profile: Mapping[str, object], caps: Iterable[str], arch: str = MACHINE, kernel: str = ""
) -> dict[str, Any]:
    """The OCI `linux.seccomp` object for a container with capabilities `caps` ("CAP_X").

    Raises Invalid when the profile is not one. `kernel` is a release such as "6.1.0" (default: this machine's).
    """
    if not isinstance(profile, Mapping):
        raise Invalid("a seccomp profile is an object", place="seccomp")
    if "archMap" in profile and profile.get("architectures"):
        raise Invalid("'architectures' and 'archMap' were specified in the seccomp profile, use either of them")
    holder = _Holder(frozenset(caps), table.DOCKER_NAMES.get(arch, arch), _version(kernel or os.uname().release))
    rules = profile.get("syscalls")
    if rules is not None and not isinstance(rules, list):
        raise Invalid("syscalls is not a list", place="seccomp.syscalls")
    result: dict[str, Any] = {
        "defaultAction": profile.get("defaultAction"),
        "architectures": _architectures(profile, arch),
        "syscalls": [
            converted
            for position, rule in enumerate(rules or ())
            if (converted := _convert(rule, f"seccomp.syscalls[{position}]", holder)) is not None
        ],
    }
    for key in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
        if profile.get(key) is not None:
            result[key] = profile[key]
    return result


class _Holder:
    """Whom a profile is decided for."""

    def __init__(self, caps: frozenset[str], arch: str, kernel: tuple[int, int]) -> None:
        self.caps = caps
        self.arch = arch
        self.kernel = kernel

    def fits(self, given: Mapping[str, object]) -> bool:
        """All of `includes`: every capability, one of the architectures, the kernel."""
        return (
            self.caps.issuperset(_strings(given, "caps"))
            and (not _strings(given, "arches") or self.arch in _strings(given, "arches"))
            and (not given.get("minKernel") or self.kernel >= _version(given["minKernel"]))
        )

    def excluded(self, given: Mapping[str, object]) -> bool:
        """Any of `excludes`."""
        return (
            any(cap in self.caps for cap in _strings(given, "caps"))
            or self.arch in _strings(given, "arches")
            or bool(given.get("minKernel") and self.kernel >= _version(given["minKernel"]))
        )


def _strings(given: Mapping[str, object], key: str) -> list[str]:
    value = given.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Invalid(f"{key} is not a list of names", place=f"seccomp.{key}")
    return value


def _version(text: object) -> tuple[int, int]:
    parts = str(text).split("-")[0].split(".")
    if len(parts) < 2 or not parts[0].isdecimal() or not parts[1].isdecimal():
        raise Invalid(f"{text!r} is not a kernel version such as 4.8", place="seccomp.minKernel")
    return int(parts[0]), int(parts[1])


def _architectures(profile: Mapping[str, object], arch: str) -> list[str]:
    mapped = profile.get("archMap")
    if mapped is None:
        return _strings(profile, "architectures")
    if not isinstance(mapped, list) or not all(isinstance(entry, dict) for entry in mapped):
        raise Invalid("archMap is not a list of objects", place="seccomp.archMap")
    for entry in mapped:
        name = entry.get("architecture")
        if table.ARCHITECTURES.get(str(name)) == arch:
            return [str(name), *_strings(entry, "subArchitectures")]
    return []


def _convert(rule: object, place: str, holder: _Holder) -> dict[str, object] | None:
    if not isinstance(rule, dict):
        raise Invalid("a rule is an object", place=place)
    unknown = set(rule) - _KEYS
    if unknown:
        raise Invalid(f"unknown key {min(unknown)!r} in a seccomp rule", place=place)
    if rule.get("name") and rule.get("names"):
        raise Invalid("'name' and 'names' were specified in the seccomp profile, use either of them", place=place)
    if holder.excluded(rule.get("excludes") or {}) or not holder.fits(rule.get("includes") or {}):
        return None
    converted: dict[str, object] = {"names": rule.get("names") or [rule.get("name")], "action": rule.get("action")}
    if rule.get("errnoRet") is not None:
        converted["errnoRet"] = rule["errnoRet"]
    if rule.get("args"):
        converted["args"] = rule["args"]
    return converted


def parse_docker_profile(text: str) -> dict[str, Any]:
    """JSON text of a profile; Invalid with Docker's words when it is not JSON."""
    try:
        profile: Any = json.loads(text)
    except ValueError as error:
        raise Invalid(f"Decoding seccomp profile failed: {error}", place="seccomp") from error
    if not isinstance(profile, dict):
        raise Invalid("Decoding seccomp profile failed: it is not an object", place="seccomp")
    return profile


def default_profile() -> dict[str, Any]:
    """The default profile, in Docker's format: for one container, pass it through `docker_profile_to_oci`."""
    data: dict[str, Any] = table.read_data("default.json")
    rules: list[dict[str, object]] = [{"names": data["always"], "action": _ALLOW}]
    rules += [_allow_if(entry["call"], entry) for entry in data["conditions"]]
    rules += [
        {"names": names, "action": _ALLOW, "includes": {"arches": [arch]}}
        for arch, names in data["architecture"].items()
    ]
    rules += [
        {"names": names, "action": _ALLOW, "includes": {"caps": [cap]}} for cap, names in data["capability"].items()
    ]
    for cap, calls in data["without"].items():
        for name, entry in calls.items():
            rule = _allow_if(name, entry)
            if "errno" in entry:
                rule = {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": entry["errno"]}
            rules.append({**rule, "excludes": {"caps": [cap]}})
    spelled = {arch: name for name, arch in table.ARCHITECTURES.items()}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": data["errno"],
        "archMap": [
            {"architecture": spelled[arch], "subArchitectures": list(names)}
            for arch, names in table.SUB_ARCHITECTURES.items()
        ],
        "syscalls": rules,
    }


def _allow_if(name: str, entry: Mapping[str, object]) -> dict[str, object]:
    if "argument" not in entry:
        return {}
    condition = {"index": entry["argument"], "op": entry["op"], "value": entry["value"]}
    if "valueTwo" in entry:
        condition["valueTwo"] = entry["valueTwo"]
    return {"names": [name], "action": _ALLOW, "args": [condition]}
