"""kernel add, ls, rm and default: what machines boot."""

from __future__ import annotations

import os

from bireme.cli.errors import CommandFailed, UsageError
from bireme.cli.listing import Listing
from bireme.cli.many import each
from bireme.cli.option import FORMAT_TABLE, UNLIMITED, Option, Verb
from bireme.cli.progress import show_progress
from bireme.cli.units import ago, human_size, parse_time
from bireme.client.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bireme.cli.invocation import Invocation
    from bireme.cli.listing import Field

    Kernel = dict[str, Any]

FLAVOURS = ("cloud", "generic")
_SIZE = 256 << 10
_NOT_NEEDED = ("build", "source")


def add_kernel(invocation: Invocation) -> int:
    args = invocation.args
    words: list[str] = args.rest
    if len(words) == 1 and words[0] in FLAVOURS:
        if args["modules"]:
            raise UsageError("--modules goes with the path of a kernel")
        response = invocation.engine.add_kernel(words[0], args["name"])
    else:
        files = list(_files(words, args["modules"]))
        response = invocation.engine.load_kernel(_archive(files), args["name"])
    with response:
        added = show_progress(response.values(), 1, quiet=args["quiet"])
    if args["quiet"]:
        invocation.out(str(added.get("id", "")))
    return 0


def _files(words: list[str], modules: str) -> Iterator[tuple[str, str]]:
    """(name in the archive, path here) of everything the engine needs."""
    for number, path in enumerate(words):
        if not os.path.isfile(path):
            known = " or ".join(FLAVOURS)
            raise CommandFailed(
                f"bireme: {path}: no such file\nHint: give {known}, or the path of a package or vmlinuz"
            )
        if path.endswith(".deb"):
            yield f"{number}.deb", path
            continue
        yield "vmlinuz", path
        directory, name = os.path.split(path)
        config = os.path.join(directory, name.replace("vmlinuz", "config", 1))
        if name.startswith("vmlinuz-") and os.path.isfile(config):
            yield "config", config
    if modules:
        if not os.path.isfile(os.path.join(modules, "modules.builtin")):
            raise CommandFailed(f"bireme: {modules} has no modules.builtin\nHint: --modules /lib/modules/RELEASE")
        yield from _tree(modules)


def _tree(modules: str) -> Iterator[tuple[str, str]]:
    for directory, names, files in os.walk(modules):
        if directory == modules:
            names[:] = [name for name in names if name not in _NOT_NEEDED]
        for name in files:
            if ".ko" in name or name == "modules.builtin":
                path = os.path.join(directory, name)
                yield f"modules/{os.path.relpath(path, modules)}", path


def _archive(files: list[tuple[str, str]]) -> Iterator[bytes]:
    from tarfile import GNU_FORMAT, TarInfo

    for name, path in files:
        try:
            with open(path, "rb") as file:
                entry = TarInfo(name)
                entry.size = left = os.fstat(file.fileno()).st_size
                yield entry.tobuf(GNU_FORMAT)
                while left and (data := file.read(min(_SIZE, left))):
                    left -= len(data)
                    yield data
        except OSError as error:
            raise CommandFailed(f"bireme: {path}: {(error.strerror or '').lower()}") from None
        if left:
            raise CommandFailed(f"bireme: {path} changed while it was read")
        yield bytes(-entry.size % 512)
    yield bytes(1024)


def _package(kernel: Kernel) -> str:
    packages = kernel.get("packages") or []
    return " ".join(f"{package['name']}={package['version']}" for package in packages)


def _listing(full: bool) -> Listing:
    fields: dict[str, tuple[str, Field]] = {
        "Added": ("ADDED", lambda k: ago(parse_time(str(k["added"])))),
        "Default": ("DEFAULT", lambda k: "*" if k.get("default") else ""),
        "Format": ("FORMAT", lambda k: str(k.get("format") or "")),
        "ID": ("KERNEL ID", lambda k: str(k["id"]) if full else str(k["id"]).removeprefix("sha256:")[:12]),
        "Layers": ("LAYERS", lambda k: str(k.get("layers") or "")),
        "Names": ("NAMES", lambda k: ",".join(k.get("names") or [])),
        "Package": ("PACKAGE", _package),
        "Release": ("RELEASE", lambda k: str(k["release"])),
        "Size": ("SIZE", lambda k: human_size(int(k.get("size_bytes") or 0), 3)),
    }
    return Listing(fields, ["Release", "Names", "Default", "ID", "Added", "Size"])


def list_kernels(invocation: Invocation) -> int:
    args = invocation.args
    form = "{{.ID}}" if args["quiet"] and args["format"] in ("", "table") else args["format"]
    for line in _listing(args["no-trunc"]).lines(invocation.engine.kernels(), form):
        invocation.out(line)
    return 0


def remove_kernels(invocation: Invocation) -> int:
    engine, force = invocation.engine, invocation.args["force"]

    def one(name: str) -> str:
        return str(engine.own("DELETE", f"/kernels/{quote(name, ':')}", {"force": force})["release"])

    return 1 if each(invocation, invocation.args.rest, one) else 0


def choose_default(invocation: Invocation) -> int:
    if not invocation.args.rest:
        kernels = invocation.engine.kernels()
        chosen = [str(kernel["release"]) for kernel in kernels if kernel.get("default")]
        if not chosen:
            remedy = "default KERNEL" if kernels else "add cloud"
            raise CommandFailed(f"bireme: no kernel is the default\nHint: bireme kernel {remedy}")
        invocation.out(chosen[0])
        return 0
    name = invocation.args.rest[0]
    invocation.engine.own("POST", f"/kernels/{quote(name, ':')}/default")
    invocation.out(name)
    return 0


VERBS = {
    "kernel add": Verb(
        add_kernel,
        "[OPTIONS] cloud|generic|PATH.deb...|VMLINUZ",
        "Add a kernel for machines",
        (
            Option("modules", "string", "Directory with the modules of a VMLINUZ (/lib/modules/RELEASE)"),
            Option("name", "string", "Name to give it (default: cloud, generic, or the kernel's release)"),
            Option("quiet", "bool", "Suppress the progress output, print the id", "q"),
        ),
        args=(1, UNLIMITED),
        details=(
            "cloud     the distribution's kernel for virtual machines: small, boots fastest\n"
            "generic   the distribution's kernel for everything\n"
            "PATH.deb  a kernel package; with a second one if its modules are in a package of their own\n"
            "VMLINUZ   a bzImage or vmlinux; needs --modules unless everything is built in"
        ),
        complete="cloud generic",
    ),
    "kernel ls": Verb(
        list_kernels,
        "[OPTIONS]",
        "List kernels",
        (
            Option("format", "string", FORMAT_TABLE),
            Option("no-trunc", "bool", "Don't truncate output"),
            Option("quiet", "bool", "Only show kernel IDs", "q"),
        ),
        aliases=("kernel ls", "kernel list"),
    ),
    "kernel rm": Verb(
        remove_kernels,
        "[OPTIONS] KERNEL [KERNEL...]",
        "Remove one or more kernels",
        (Option("force", "bool", "Remove it although machines were created with it", "f"),),
        args=(1, UNLIMITED),
        aliases=("kernel rm", "kernel remove"),
        complete="kernels",
    ),
    "kernel default": Verb(
        choose_default,
        "[KERNEL]",
        "Show or choose the kernel that machines get who ask for none",
        args=(0, 1),
        complete="kernels",
    ),
}
