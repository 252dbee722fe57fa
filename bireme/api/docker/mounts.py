"""Binds, Mounts and Tmpfs of a create request."""

from __future__ import annotations

import os
import posixpath

from bireme.api.docker import bodies
from bireme.api.docker.sizes import parse_size
from bireme.errors import Invalid, Unsupported
from bireme.instance.spec import Mount

_PROPAGATION = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_MODE_GROUPS = (
    frozenset({"rw", "ro"}),
    frozenset({"z", "Z"}),
    _PROPAGATION,
    frozenset({"nocopy"}),
    frozenset({"consistent", "cached", "delegated", "default"}),
)
_TMPFS_FLAGS = frozenset(
    "ro rw exec noexec suid nosuid dev nodev sync async dirsync atime noatime diratime nodiratime relatime norelatime "
    "strictatime nostrictatime mand nomand uid gid nr_inodes nr_blocks mpol".split()
)


def mounts_of(host: bodies.HostConfig) -> tuple[Mount, ...]:
    """Every mount, in the order asked; Invalid with dockerd's words, also for two at one place."""
    found = [_bind(text) for text in host.Binds]
    found += [_mount(mount) for mount in host.Mounts]
    found += [_tmpfs(target, options) for target, options in host.Tmpfs.items()]
    targets: set[str] = set()
    for mount in found:
        if mount.target in targets:
            raise Invalid(f"Duplicate mount point: {mount.target}", subject=mount.target)
        targets.add(mount.target)
    return tuple(found)


def make_sources(host: bodies.HostConfig) -> None:
    """Make the host directories that `-v` (and CreateMountpoint) name and that are missing, as dockerd does."""
    wanted = [text.split(":")[0] for text in host.Binds if text.startswith("/") and ":" in text]
    wanted += [m.Source for m in host.Mounts if m.BindOptions is not None and m.BindOptions.CreateMountpoint]
    for path in wanted:
        if os.path.lexists(path):
            continue
        try:
            os.makedirs(path, 0o755, exist_ok=True)
        except OSError as error:
            raise Invalid(f"error while creating mount source path '{path}': {error.strerror}", subject=path) from error


def check_anonymous(place: str) -> None:
    """A place of Config.Volumes; Invalid when it is none."""
    wrong = f"invalid volume specification: '{place}'"
    if not place or ":" in place:
        raise Invalid(wrong, subject=place)
    _check_target(place, f'{wrong}: invalid mount config for type "volume": ')


def check_volumes_from(text: str) -> None:
    """`ID` or `ID:MODE`; nothing but reading and writing may be asked for."""
    if not text:
        raise Invalid("volumes-from specification cannot be an empty string")
    _, _, mode = text.partition(":")
    options = set(mode.split(","))
    if not _valid_mode(mode) or options & (_PROPAGATION | {"nocopy"}):
        raise Invalid(f"invalid mode: {mode}", subject=text)


def _bind(text: str) -> Mount:
    parts = text.split(":", 3)
    wrong = f"invalid volume specification: '{text}'"
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and _valid_mode(parts[1])):
        raise Invalid(wrong, subject=text)
    if len(parts) == 1:
        check_anonymous(text)
        return Mount(kind="volume", target=_clean(text), anonymous=True)
    source, target, mode = parts[0], parts[1], parts[2] if len(parts) == 3 else ""
    if not _valid_mode(mode):
        raise Invalid(f"invalid mode: {mode}", subject=text)
    _check_target(target, f"{wrong}: ")
    options = set(mode.split(","))
    if not source.startswith("/"):
        if options & _PROPAGATION:
            raise Invalid(
                f'{wrong}: invalid mount config for type "volume": field BindOptions must not be specified',
                subject=text,
            )
        return Mount(
            kind="volume",
            volume=source,
            target=_clean(target),
            read_only="ro" in options,
            no_copy="nocopy" in options,
            shown_mode=mode or "z",
        )
    if "nocopy" in options:
        raise Invalid(
            f'{wrong}: invalid mount config for type "bind": field VolumeOptions must not be specified', subject=text
        )
    return Mount(
        kind="bind",
        source=_clean(source),
        target=_clean(target),
        read_only="ro" in options,
        propagation=next(iter(options & _PROPAGATION), "rprivate"),
    )


def _clean(path: str) -> str:
    """Without `.`, `..` and doubled slashes (normpath keeps two at the start)."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _valid_mode(mode: str) -> bool:
    if not mode:
        return True
    counts = [0] * len(_MODE_GROUPS)
    for option in mode.split(","):
        group = next((n for n, names in enumerate(_MODE_GROUPS) if option in names), -1)
        if group < 0:
            return False
        counts[group] += 1
    return max(counts) <= 1


def _mount(mount: bodies.Mount) -> Mount:
    kind = mount.Type
    for name, belongs in (("BindOptions", "bind"), ("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs")):
        if getattr(mount, name) is not None and kind != belongs:
            raise Invalid(f'{name} must not be specified on mount type "{kind}"')
    wrong = f'invalid mount config for type "{kind}": '
    if not mount.Target:
        raise Invalid(wrong + "field Target must not be empty")
    _check_target(mount.Target, wrong)
    if kind == "bind":
        return _bind_mount(mount, wrong)
    if kind == "tmpfs":
        return _tmpfs_mount(mount, wrong)
    if kind == "volume":
        return _volume_mount(mount, wrong)
    if kind in ("image", "cluster", "npipe"):
        raise Unsupported(f"mounts of type {kind} are not supported yet")
    raise Invalid(wrong + "mount type unknown")


def _check_target(target: str, wrong: str) -> None:
    if _clean("/" + target) == "/":
        raise Invalid(wrong + "invalid specification: destination can't be '/'", subject=target)
    if not target.startswith("/"):
        raise Invalid(f"{wrong}invalid mount path: '{target}' mount path must be absolute", subject=target)


def _bind_mount(mount: bodies.Mount, wrong: str) -> Mount:
    if not mount.Source:
        raise Invalid(wrong + "field Source must not be empty")
    if not mount.Source.startswith("/"):
        raise Invalid(f"{wrong}invalid mount path: '{mount.Source}' mount path must be absolute", subject=mount.Source)
    options = mount.BindOptions or bodies.BindOptions()
    if options.Propagation and options.Propagation not in _PROPAGATION:
        raise Invalid(f"{wrong}invalid propagation mode: {options.Propagation}")
    if options.ReadOnlyNonRecursive and mount.ReadOnly:
        raise Unsupported("ReadOnlyNonRecursive is not supported: read-only binds are recursively read-only")
    if not options.CreateMountpoint and not os.path.lexists(mount.Source):
        raise Invalid(f"{wrong}bind source path does not exist: {mount.Source}", subject=mount.Source)
    return Mount(
        kind="bind",
        source=_clean(mount.Source),
        target=_clean(mount.Target),
        read_only=mount.ReadOnly,
        recursive=not options.NonRecursive,
        propagation=options.Propagation or "rprivate",
    )


def _volume_mount(mount: bodies.Mount, wrong: str) -> Mount:
    options = mount.VolumeOptions or bodies.VolumeOptions()
    driver = options.DriverConfig or bodies.DriverConfig()
    if options.Subpath:
        if not mount.Source:
            raise Invalid(wrong + "must not set Subpath when using anonymous volumes")
        if not _is_local(options.Subpath):
            raise Invalid(wrong + "subpath must be a relative path within the volume", subject=options.Subpath)
    if mount.ReadOnly and not mount.Source:
        raise Invalid(wrong + "must not set ReadOnly mode when using anonymous volumes")
    return Mount(
        kind="volume",
        volume=mount.Source,
        anonymous=not mount.Source,
        target=_clean(mount.Target),
        read_only=mount.ReadOnly,
        no_copy=options.NoCopy,
        subpath=options.Subpath and posixpath.normpath(options.Subpath),
        shown_mode="z",
        driver=driver.Name,
        driver_options=driver.Options,
        labels=options.Labels,
    )


def _is_local(path: str) -> bool:
    """Relative, and within its beginning."""
    return not path.startswith("/") and posixpath.normpath(path).split("/")[0] != ".."


def _tmpfs_mount(mount: bodies.Mount, wrong: str) -> Mount:
    if mount.Source:
        raise Invalid(wrong + "field Source must not be specified")
    options = mount.TmpfsOptions or bodies.TmpfsOptions()
    if options.SizeBytes < 0:
        raise Invalid(f"{wrong}invalid size {options.SizeBytes}")
    flags: list[str] = []
    for option in options.Options:
        if len(option) not in (1, 2):
            raise Invalid(wrong + "invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise Invalid(f"{wrong}invalid option: {option[0]}")
        flags.append("=".join(option))
    return Mount(
        kind="tmpfs",
        target=_clean(mount.Target),
        read_only=mount.ReadOnly,
        size_bytes=options.SizeBytes,
        mode=options.Mode or None,
        options=tuple(flags),
    )


def _tmpfs(target: str, text: str) -> Mount:
    _check_target(target, "")
    size, mode, read_only = 0, None, False
    flags: list[str] = []
    for option in filter(None, text.split(",")):
        name, equals, value = option.partition("=")
        if name == "size":
            size = parse_size(value)
        elif name == "mode":
            mode = _octal(value)
        elif name == "ro" and not equals:
            read_only = True
        elif name in _TMPFS_FLAGS:
            flags.append(option)
        else:
            raise Invalid(f'invalid tmpfs option ["{option}"]', subject=option)
    return Mount(
        kind="tmpfs",
        target=_clean(target),
        read_only=read_only,
        size_bytes=size,
        mode=mode,
        options=tuple(flag for flag in flags if flag != "rw"),
    )


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise Invalid(f"invalid tmpfs option mode={text}", subject=text)
    return mode
