"""Values of --mount, --network and --tmpfs that have fields of their own."""

from __future__ import annotations

import os

from bireme.cli.errors import BadValue
from bireme.cli.kinds import parse_bool, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROPAGATION = ("private", "rprivate", "shared", "rshared", "slave", "rslave")


def split_fields(text: str) -> list[str]:
    """One line of comma-separated values; a field may be quoted."""
    fields, field, quoted = [], "", False
    index = 0
    while index < len(text):
        char = text[index]
        if char == '"' and (quoted or not field):
            if quoted and text[index + 1 : index + 2] == '"':
                field += '"'
                index += 1
            else:
                quoted = not quoted
        elif char == "," and not quoted:
            fields.append(field)
            field = ""
        else:
            field += char
        index += 1
    if quoted:
        raise BadValue(f'extraneous or missing " in {text}')
    return [*fields, field]


def _switch(key: str, text: str) -> bool:
    try:
        return parse_bool(text)
    except BadValue:
        raise BadValue(f"invalid value for {key}: {text}") from None


class _Mount:
    """Collects the fields of one --mount, keeping the options of each type apart."""

    def __init__(self) -> None:
        self.mount: dict[str, Any] = {"Type": "volume"}
        self.bind: dict[str, Any] = {}
        self.tmpfs: dict[str, Any] = {}
        self.volume: dict[str, Any] = {}

    def set(self, key: str, value: str, has_value: bool) -> None:
        if key in ("readonly", "ro"):
            self.mount["ReadOnly"] = _switch(key, value) if has_value else True
        elif key == "volume-nocopy":
            self.volume["NoCopy"] = _switch(key, value) if has_value else True
        elif key == "bind-create-src":
            self.bind["CreateMountpoint"] = _switch(key, value) if has_value else True
        elif not has_value:
            raise BadValue(f"invalid field '{key}' must be a key=value pair")
        elif key == "type":
            self.mount["Type"] = value.lower()
        elif key in ("source", "src"):
            relative = value == "." or value.startswith(("./", "../"))
            self.mount["Source"] = os.path.abspath(value) if relative else value
        elif key in ("target", "dst", "destination"):
            self.mount["Target"] = value
        elif key == "consistency":
            self.mount["Consistency"] = value.lower()
        else:
            self._set_typed(key, value)

    def _set_typed(self, key: str, value: str) -> None:
        if key == "bind-propagation":
            self.bind["Propagation"] = value.lower()
        elif key == "bind-nonrecursive":
            self.bind["NonRecursive"] = _switch(key, value)
        elif key == "bind-recursive":
            self._set_recursive(value)
        elif key == "volume-driver":
            self.volume.setdefault("DriverConfig", {})["Name"] = value
        elif key == "volume-subpath":
            self.volume["Subpath"] = value
        elif key in ("volume-label", "volume-opt"):
            name, _, text = value.partition("=")
            parent = self.volume if key == "volume-label" else self.volume.setdefault("DriverConfig", {})
            parent.setdefault("Labels" if key == "volume-label" else "Options", {})[name] = text
        elif key == "tmpfs-size":
            try:
                self.tmpfs["SizeBytes"] = parse_size(value)
            except BadValue:
                raise BadValue(f"invalid value for {key}: {value}") from None
        elif key == "tmpfs-mode":
            try:
                self.tmpfs["Mode"] = int(value, 8)
            except ValueError:
                raise BadValue(f"invalid value for {key}: {value}") from None
        else:
            raise BadValue(f"unexpected key '{key}' in '{key}={value}'")

    def _set_recursive(self, value: str) -> None:
        if value == "disabled":
            self.bind["NonRecursive"] = True
        elif value == "writable":
            self.bind["ReadOnlyNonRecursive"] = True
        elif value == "readonly":
            self.bind["ReadOnlyForceRecursive"] = True
        elif value != "enabled":
            raise BadValue(
                f'invalid value for bind-recursive: {value} (must be "enabled", "disabled", "writable", or "readonly")'
            )

    def finish(self) -> dict[str, Any]:
        kind = self.mount["Type"]
        if kind == "":
            raise BadValue("type is required")
        if not self.mount.get("Target"):
            raise BadValue("target is required")
        for name, options, owner in (
            ("volume", self.volume, "Volume"),
            ("bind", self.bind, "Bind"),
            ("tmpfs", self.tmpfs, "Tmpfs"),
        ):
            if options and kind != name:
                raise BadValue(f"cannot mix '{name}-*' options with mount type '{kind}'")
            if options:
                self.mount[f"{owner}Options"] = options
        return self.mount


def parse_mount(text: str) -> dict[str, Any]:
    """A Mount of the API from `type=bind,source=/a,target=/b,readonly`."""
    mount = _Mount()
    if not text.strip():
        raise BadValue("value is empty")
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        mount.set(key.strip().lower(), value, bool(equals))
    return mount.finish()


def parse_network(text: str) -> dict[str, Any]:
    """`name`, or `name=...,alias=...,ip=...,driver-opt=k=v` as a mapping with the keys of that long form."""
    if "=" not in text:
        return {"name": text}
    network: dict[str, Any] = {"name": "", "alias": [], "link-local-ip": [], "driver-opt": {}}
    for field in split_fields(text):
        key, equals, value = field.partition("=")
        key, value = key.strip().lower(), value.strip()
        if not equals:
            raise BadValue(f"invalid field {field}: must be a key=value pair")
        if key in ("alias", "link-local-ip"):
            network[key].append(value)
        elif key in ("name", "ip", "ip6", "mac-address"):
            network[key] = value
        elif key == "driver-opt":
            name, pair, option = value.partition("=")
            if not pair:
                raise BadValue("invalid key value pair format in driver options")
            network[key][name] = option
        elif key == "gw-priority":
            if not value.removeprefix("-").isdecimal():
                raise BadValue(f'invalid gw-priority: strconv.Atoi: parsing "{value}": invalid syntax')
            network[key] = int(value)
        else:
            raise BadValue(f"invalid field key {key}")
    if not network["name"]:
        raise BadValue("network name/id is not specified")
    return network
