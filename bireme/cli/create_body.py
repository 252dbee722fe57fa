"""From the options of run and create to the body of POST /containers/create.

Only what was asked for is sent: a field that is missing means Docker's default, and a small body is quicker on both
sides. Files named by options (--env-file, --label-file, seccomp profiles) are read here: the engine may be elsewhere.
"""

from __future__ import annotations

import os

from bireme.cli.errors import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from bireme.cli.option import Arguments


def read_lines(path: str, what: str, environ: Mapping[str, str]) -> list[str]:
    """The entries of an --env-file or --label-file, without comments; a bare name is looked up in `environ`."""
    try:
        with open(path, encoding="utf-8-sig") as source:
            lines = source.read().split("\n")
    except OSError as error:
        raise BadValue(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise BadValue(f"invalid {what} file ({path}): invalid utf8 bytes") from None
    entries = []
    for line in lines:
        text = line.rstrip("\r").lstrip()
        if not text or text.startswith("#"):
            continue
        name, equals, _ = text.partition("=")
        if not name.strip():
            raise BadValue(f"invalid {what} file ({path}): no variable name on line '{text}'")
        if any(char in name for char in " \t"):
            raise BadValue(f"invalid {what} file ({path}): variable '{name}' contains whitespaces")
        if equals:
            entries.append(text)
        elif name in environ:
            entries.append(f"{name}={environ[name]}")
    return entries


def environment(args: Arguments, environ: Mapping[str, str]) -> list[str]:
    """--env-file, then -e; `-e NAME` passes on our own variable, and says nothing where it is not set."""
    entries = [entry for path in args["env-file"] for entry in read_lines(path, "env", environ)]
    for entry in args["env"]:
        if "=" in entry:
            entries.append(entry)
        elif entry in environ:
            entries.append(f"{entry}={environ[entry]}")
        else:
            entries.append(entry)
    return entries


def pairs(entries: list[str]) -> dict[str, str]:
    """`key=value` texts as a mapping; the last one wins, a bare key has the value ""."""
    return {key: value for key, _, value in (entry.partition("=") for entry in entries)}


def _capabilities(names: list[str]) -> list[str]:
    spelled = {name.strip().upper() for name in names}
    return sorted(name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in spelled)


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    source, target, mode = parts[0], parts[0], "rwm"
    if len(parts) > 3 or not source:
        raise BadValue(f"invalid device specification: {text}")
    if len(parts) == 3:
        target, mode = parts[1], parts[2]
        if not mode or set(mode) - set("rwm") or len(set(mode)) != len(mode):
            raise BadValue(f"bad mode specified: {mode}")
    elif len(parts) == 2 and parts[1]:
        if set(parts[1]) <= set("rwm") and len(set(parts[1])) == len(parts[1]):
            mode = parts[1]
        else:
            target = parts[1]
    for path in (source, target):
        if not path.startswith("/"):
            raise BadValue(f"{path} is not an absolute path")
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}


def _rule(text: str) -> str:
    words = text.split(" ")
    numbers = words[1].split(":") if len(words) == 3 else []
    good = len(numbers) == 2 and words[0] in ("a", "b", "c") and all(n == "*" or n.isdecimal() for n in numbers)
    if not good or not words[2] or len(words[2]) > 3 or set(words[2]) - set("rwm"):
        raise BadValue(f"invalid device cgroup format '{text}'")
    return text


def _security(options: list[str]) -> tuple[list[str], bool]:
    """The --security-opt list with profiles read in, and whether systempaths=unconfined was among them."""
    kept, bare_paths = [], False
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and key != "no-new-privileges":
            key, colon, value = option.partition(":")
            if not colon:
                raise BadValue(f'Invalid --security-opt: "{option}"')
        if key == "systempaths" and value == "unconfined":
            bare_paths = True
        elif key == "seccomp" and value not in ("", "unconfined", "builtin"):
            kept.append(f"seccomp={_profile(value)}")
        else:
            kept.append(option)
    return kept, bare_paths


def _profile(path: str) -> str:
    from bireme.client import jsontext
    from bireme.errors import Invalid

    try:
        with open(path, encoding="utf-8") as source:
            return jsontext.dumps(jsontext.loads(source.read()))
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise BadValue(f"opening seccomp profile ({path}) failed: open {path}: {reason}") from None
    except Invalid as error:
        raise BadValue(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def restart_policy(text: str, remove: bool) -> dict[str, Any]:
    name, colon, count = text.partition(":")
    if remove and name not in ("", "no"):
        raise BadValue("conflicting options: cannot specify both --restart and --rm")
    if not name and colon:
        raise BadValue("invalid restart policy format: no policy provided before colon")
    if colon and not count.removeprefix("-").isdecimal():
        raise BadValue("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count)} if colon else {"Name": name}


_HEALTH = (
    ("health-interval", "Interval"),
    ("health-timeout", "Timeout"),
    ("health-start-period", "StartPeriod"),
    ("health-start-interval", "StartInterval"),
    ("health-retries", "Retries"),
)


def _health(args: Arguments) -> dict[str, Any]:
    given = [name for name in ("health-cmd", *(row[0] for row in _HEALTH)) if args[name]]
    if args["no-healthcheck"]:
        if given:
            raise BadValue("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return {}
    health: dict[str, Any] = {}
    if args["health-cmd"]:
        health["Test"] = ["CMD-SHELL", args["health-cmd"]]
    for name, key in _HEALTH:
        if args[name] < 0:
            raise BadValue(f"--{name} cannot be negative")
        if args[name]:
            health[key] = args[name]
    return health


def _binds(args: Arguments) -> tuple[list[str], dict[str, Any]]:
    """-v: host paths and names as Binds, a path alone as an anonymous volume."""
    binds: list[str] = []
    volumes: dict[str, Any] = {}
    for text in args["volume"]:
        source, colon, rest = text.partition(":")
        if not text or not source:
            raise BadValue(
                f"invalid spec: {text}: empty section between colons" if text else "invalid empty volume spec"
            )
        if not colon:
            volumes[text] = {}
        elif source == "." or source.startswith(("./", "..")):
            binds.append(f"{os.path.abspath(source)}:{rest}")
        else:
            binds.append(text)
    return binds, volumes


def _check_mac(text: str) -> str:
    octets = text.replace("-", ":").split(":")
    hexadecimal = set("0123456789abcdefABCDEF")
    if len(octets) != 6 or not all(len(octet) == 2 and set(octet) <= hexadecimal for octet in octets):
        raise BadValue(f"{text} is not a valid mac address")
    return text


def _private(name: str) -> bool:
    return name in ("host", "none", "bridge") or name.startswith("container:")


def _networks(args: Arguments) -> tuple[str, dict[str, Any]]:
    """NetworkMode and EndpointsConfig."""
    wanted = [dict(network) for network in args["network"] + args["net"]] or [{"name": "default"}]
    aliases = args["network-alias"] + args["net-alias"]
    first = wanted[0]
    for option, key in (("network-alias", "alias"), ("ip", "ip"), ("ip6", "ip6"), ("mac-address", "mac-address")):
        value = aliases if option == "network-alias" else args[option]
        if value and first.get(key):
            what = "per-network alias" if key == "alias" else f"per-network {'IPv4 address' if key == 'ip' else key}"
            raise BadValue(f"conflicting options: cannot specify both --{option} and {what}")
        if value:
            first[key] = value
    if args["link"] and first["name"] != "default" and not _private(str(first["name"])):
        first["links"] = args["link"]
    if args["link-local-ip"]:
        first["link-local-ip"] = args["link-local-ip"]
    mode = str(first["name"])
    if len(wanted) > 1 and any(_private(str(network["name"])) and network["name"] != "bridge" for network in wanted):
        raise BadValue("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    endpoints = {}
    for network in wanted:
        endpoint = _endpoint(network)
        if endpoint or len(wanted) > 1:
            endpoints[str(network["name"])] = endpoint
    return mode, endpoints


def _endpoint(network: dict[str, Any]) -> dict[str, Any]:
    endpoint: dict[str, Any] = {}
    addresses = {
        "IPv4Address": network.get("ip"),
        "IPv6Address": network.get("ip6"),
        "LinkLocalIPs": network.get("link-local-ip"),
    }
    addresses = {key: value for key, value in addresses.items() if value}
    if addresses:
        endpoint["IPAMConfig"] = addresses
    for key, field in (("links", "Links"), ("alias", "Aliases"), ("driver-opt", "DriverOpts")):
        if network.get(key):
            endpoint[field] = network[key]
    if network.get("mac-address"):
        endpoint["MacAddress"] = _check_mac(network["mac-address"])
    if network.get("gw-priority"):
        endpoint["GwPriority"] = network["gw-priority"]
    return endpoint


_MODES = (
    ("pid", "PidMode", "PID", True),
    ("uts", "UTSMode", "UTS", False),
    ("userns", "UsernsMode", "USER", False),
    ("cgroupns", "CgroupnsMode", "CGROUP", False),
)


def _modes(args: Arguments) -> dict[str, str]:
    modes = {}
    for option, field, word, joinable in _MODES:
        value = args[option]
        allowed = ("", "host", "private") if option == "cgroupns" else ("", "host")
        if value not in allowed and not (joinable and value.startswith("container:") and len(value) > 10):
            raise BadValue(f"--{option}: invalid {word} mode")
        modes[field] = value
    modes["IpcMode"] = args["ipc"]
    return modes


def _limits(args: Arguments) -> dict[str, Any]:
    swappiness = args["memory-swappiness"]
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise BadValue(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    limits: dict[str, Any] = {field: args[option] for option, field in LIMIT_FIELDS}
    if swappiness != -1:
        limits["MemorySwappiness"] = swappiness
    if args["oom-kill-disable"]:
        limits["OomKillDisable"] = True
    weights = args["blkio-weight-device"]
    limits["BlkioWeightDevice"] = [{"Path": path, "Weight": weight} for path, weight in weights]
    for option, field in _THROTTLES:
        limits[field] = [{"Path": path, "Rate": rate} for path, rate in args[option]]
    limits["Ulimits"] = [{"Name": name, "Soft": soft, "Hard": hard} for name, soft, hard in _ulimits(args["ulimit"])]
    limits["Devices"] = [_device(text) for text in args["device"] if "=" not in text]
    limits["DeviceRequests"] = _device_requests(args["device"])
    limits["DeviceCgroupRules"] = [_rule(text) for text in args["device-cgroup-rule"]]
    return limits


def _device_requests(devices: list[str]) -> list[dict[str, Any]]:
    names = [text for text in devices if "=" in text and not text.startswith("/")]
    return [{"Driver": "cdi", "DeviceIDs": names}] if names else []


def _ulimits(limits: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The last of each name, in the order of their names."""
    return sorted({limit[0]: limit for limit in limits}.values())


LIMIT_FIELDS = (
    ("blkio-weight", "BlkioWeight"),
    ("cgroup-parent", "CgroupParent"),
    ("cpu-period", "CpuPeriod"),
    ("cpu-quota", "CpuQuota"),
    ("cpu-rt-period", "CpuRealtimePeriod"),
    ("cpu-rt-runtime", "CpuRealtimeRuntime"),
    ("cpu-shares", "CpuShares"),
    ("cpus", "NanoCpus"),
    ("cpuset-cpus", "CpusetCpus"),
    ("cpuset-mems", "CpusetMems"),
    ("memory", "Memory"),
    ("memory-reservation", "MemoryReservation"),
    ("memory-swap", "MemorySwap"),
    ("pids-limit", "PidsLimit"),
)
_THROTTLES = (
    ("device-read-bps", "BlkioDeviceReadBps"),
    ("device-read-iops", "BlkioDeviceReadIOps"),
    ("device-write-bps", "BlkioDeviceWriteBps"),
    ("device-write-iops", "BlkioDeviceWriteIOps"),
)
_PLAIN_HOST_FIELDS = (
    ("rm", "AutoRemove"),
    ("cidfile", "ContainerIDFile"),
    ("volumes-from", "VolumesFrom"),
    ("volume-driver", "VolumeDriver"),
    ("dns", "Dns"),
    ("dns-option", "DnsOptions"),
    ("dns-search", "DnsSearch"),
    ("add-host", "ExtraHosts"),
    ("group-add", "GroupAdd"),
    ("isolation", "Isolation"),
    ("link", "Links"),
    ("mount", "Mounts"),
    ("oom-score-adj", "OomScoreAdj"),
    ("privileged", "Privileged"),
    ("publish-all", "PublishAllPorts"),
    ("read-only", "ReadonlyRootfs"),
    ("runtime", "Runtime"),
    ("shm-size", "ShmSize"),
    ("init", "Init"),
)


def _logging(args: Arguments) -> dict[str, Any]:
    if args["log-driver"] == "none" and args["log-opt"]:
        raise BadValue("invalid logging opts for driver none")
    return {"Type": args["log-driver"], "Config": pairs(args["log-opt"])}


def _storage_options(args: Arguments) -> dict[str, str]:
    if any("=" not in text for text in args["storage-opt"]):
        raise BadValue("invalid storage option")
    options = pairs(args["storage-opt"])
    if args["disk-size"]:
        if "size" in options:
            raise BadValue("conflicting options: cannot specify both --disk-size and --storage-opt size")
        options["size"] = args["disk-size"]
    return options


def _annotations(args: Arguments) -> dict[str, str]:
    annotations = pairs(args["annotation"])
    if args["kernel"]:
        if "io.bireme.kernel" in annotations:
            raise BadValue("conflicting options: cannot specify both --kernel and the annotation io.bireme.kernel")
        annotations["io.bireme.kernel"] = args["kernel"]
    return annotations


def _host_config(args: Arguments, mode: str, bindings: dict[str, Any], console: tuple[int, int]) -> dict[str, Any]:
    config = {field: args[option] for option, field in _PLAIN_HOST_FIELDS}
    config |= _modes(args) | _limits(args)
    config["NetworkMode"] = mode
    config["PortBindings"] = bindings
    config["LogConfig"] = _logging(args)
    if not any(config["LogConfig"].values()):
        del config["LogConfig"]
    config["Binds"], _ = _binds(args)
    config["Tmpfs"] = {path: options for path, _, options in (text.partition(":") for text in args["tmpfs"])}
    config["CapAdd"], config["CapDrop"] = _capabilities(args["cap-add"]), _capabilities(args["cap-drop"])
    config["SecurityOpt"], bare_paths = _security(args["security-opt"])
    config["Sysctls"] = pairs(args["sysctl"])
    config["StorageOpt"] = _storage_options(args)
    config["Annotations"] = _annotations(args)
    config["RestartPolicy"] = restart_policy(args["restart"], args["rm"])
    if console != (0, 0):
        config["ConsoleSize"] = list(console)
    config = _without_zeros(config)
    if bare_paths:
        config |= {"MaskedPaths": [], "ReadonlyPaths": []}
    if "init" in args.given:
        config["Init"] = args["init"]
    return config


def _without_zeros(values: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if value or (value == 0 and key == "MemorySwappiness")}
    if kept.get("RestartPolicy") == {"Name": "no"}:
        del kept["RestartPolicy"]
    if kept.get("NetworkMode") == "default":
        del kept["NetworkMode"]
    return kept


def _streams(args: Arguments, detached: bool) -> dict[str, Any]:
    """What to attach, and the terminal; values that are false are dropped later."""
    wanted = args["attach"]
    stdin = args["interactive"] or "stdin" in wanted
    streams: dict[str, Any] = {
        "AttachStdin": stdin,
        "AttachStdout": not wanted or "stdout" in wanted,
        "AttachStderr": not wanted or "stderr" in wanted,
        "OpenStdin": args["interactive"],
        "StdinOnce": args["interactive"] and stdin,
        "Tty": args["tty"],
    }
    if detached:
        streams |= {"AttachStdin": False, "AttachStdout": False, "AttachStderr": False, "StdinOnce": False}
    return streams


def create_body(
    args: Arguments, environ: Mapping[str, str], *, detached: bool = False, console: tuple[int, int] = (0, 0)
) -> dict[str, Any]:
    """The body of POST /containers/create; BadValue in Docker's words for what no option table can check."""
    ports, port_bindings = _ports(args)
    mode, endpoints = _networks(args)
    config: dict[str, Any] = {
        "Image": args.rest[0],
        "Cmd": args.rest[1:],
        "Hostname": args["hostname"],
        "Domainname": args["domainname"],
        "User": args["user"],
        "Env": environment(args, environ),
        "WorkingDir": args["workdir"],
        "ExposedPorts": ports,
        "Volumes": _binds(args)[1],
        "Labels": pairs([e for path in args["label-file"] for e in read_lines(path, "label", {})] + args["label"]),
        "StopSignal": args["stop-signal"],
        "Healthcheck": _health(args),
    }
    config = _without_zeros(config | _streams(args, detached))
    if "entrypoint" in args.given:
        config["Entrypoint"] = [args["entrypoint"]]
    if "stop-timeout" in args.given:
        config["StopTimeout"] = args["stop-timeout"]
    config["HostConfig"] = _host_config(args, mode, port_bindings, console)
    if endpoints:
        config["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return config


def _ports(args: Arguments) -> tuple[dict[str, Any], dict[str, Any]]:
    if not args["publish"] and not args["expose"]:
        return {}, {}
    from bireme.cli.ports import publish

    return publish(args["publish"], args["expose"])
