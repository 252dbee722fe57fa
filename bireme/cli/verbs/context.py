"""context create, rm, update and use: names for engines, in docker's own store."""

from __future__ import annotations

import os

from bireme.cli.contextstore import TLS_FILES, ContextStore, check_name, endpoint, write_file
from bireme.cli.errors import BadValue, CommandFailed
from bireme.cli.invocation import DEFAULT_CONTEXT, read_settings
from bireme.cli.kinds import parse_bool
from bireme.cli.many import each
from bireme.cli.option import UNLIMITED, Option, Verb
from bireme.client.jsontext import dumps_indented
from bireme.client.transport import parse_host
from bireme.errors import Invalid, NotFound, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bireme.cli.invocation import Invocation

DEFAULT_DESCRIPTION = "Current DOCKER_HOST based configuration"
_KEYS = ("from", "host", "ca", "cert", "key", "skip-tls-verify")


def store_of(invocation: Invocation) -> ContextStore:
    return ContextStore(invocation.directory)


def default_meta(invocation: Invocation) -> dict[str, Any]:
    """The context that options and environment make up."""
    from bireme.cli.target import resolve
    from bireme.client.transport import choose_host

    host, tls = resolve(invocation, DEFAULT_CONTEXT, choose_host(invocation.option_host(), invocation.environ))
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": tls is not None and not tls.verify}}
    return {"Name": DEFAULT_CONTEXT, "Metadata": {}, "Endpoints": endpoints}


def read_context(invocation: Invocation, name: str) -> dict[str, Any]:
    return default_meta(invocation) if name == DEFAULT_CONTEXT else store_of(invocation).read(name)


def material_of(invocation: Invocation, name: str) -> dict[str, bytes]:
    """The TLS files of a context."""
    if name == DEFAULT_CONTEXT:
        from bireme.cli.target import resolve
        from bireme.client.transport import choose_host

        _, tls = resolve(invocation, name, choose_host(invocation.option_host(), invocation.environ))
        paths = [tls.ca, tls.certificate, tls.key] if tls is not None else []
    else:
        files = store_of(invocation).tls_files(name)
        paths = [files.get(file, "") for file in TLS_FILES]
    return {file: _contents(path) for file, path in zip(TLS_FILES, paths, strict=False) if path}


def _contents(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise Invalid(f"open {path}: {(error.strerror or str(error)).lower()}", subject=path) from error


def _asked(invocation: Invocation) -> dict[str, str]:
    found: dict[str, str] = {}
    for pairs in invocation.args["docker"]:
        found.update(pairs)
    for key in found:
        if key not in _KEYS:
            raise CommandFailed(f"unable to create docker endpoint config: unrecognized config key: {key}")
    return found


def _endpoint(invocation: Invocation, asked: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The endpoint that --docker describes, and its TLS files."""
    if asked.get("from"):
        return endpoint(read_context(invocation, asked["from"])), material_of(invocation, asked["from"])
    try:
        named = zip(TLS_FILES, ("ca", "cert", "key"), strict=True)
        material = {file: _contents(asked[key]) for file, key in named if key in asked}
    except Invalid as error:
        raise CommandFailed(f"unable to create docker endpoint config: {error.message}") from None
    found: dict[str, Any] = {"SkipTLSVerify": _skips(asked.get("skip-tls-verify", "false"))}
    if asked.get("host"):
        _check_host(asked["host"])
        found = {"Host": asked["host"], **found}
    return found, material


def _skips(text: str) -> bool:
    try:
        return parse_bool(text)
    except BadValue:
        complaint = f'skip-tls-verify: parsing "{text}": invalid syntax'
        raise CommandFailed(f"unable to create docker endpoint config: {complaint}") from None


def _check_host(host: str) -> None:
    try:
        parse_host(host)
    except Unsupported:
        if not host.startswith("ssh://"):  # what docker alone can reach may be kept
            raise
    except Invalid as error:
        raise CommandFailed(
            "unable to create docker endpoint config: unable to apply docker endpoint options: " + error.message
        ) from None


def _save(invocation: Invocation, name: str, meta: dict[str, Any], material: dict[str, bytes] | None) -> None:
    store = store_of(invocation)
    try:
        if material is not None:
            store.write_tls(name, material)
        store.write(name, meta)
    except OSError as error:
        raise CommandFailed(f"bireme: cannot write {error.filename}: {error.strerror}") from error


def create(invocation: Invocation) -> int:
    args, name = invocation.args, invocation.args.rest[0]
    check_name(name)
    if store_of(invocation).exists(name):
        raise CommandFailed(f'context "{name}" already exists')
    asked = _asked(invocation)
    description = args["description"]
    if args["from"] and asked:
        raise CommandFailed("bireme: --from and --docker both name an endpoint: give only one of them")
    if not asked:
        origin = args["from"] or invocation.context()
        source = read_context(invocation, origin)
        description = description or description_of(source)
        found, material = endpoint(source), material_of(invocation, origin)
    else:
        found, material = _endpoint(invocation, asked)
    metadata = {"Description": description} if description else {}
    _save(invocation, name, {"Name": name, "Metadata": metadata, "Endpoints": {"docker": found}}, material)
    invocation.out(name)
    invocation.err(f'Successfully created context "{name}"')
    return 0


def description_of(meta: dict[str, Any]) -> str:
    if meta.get("Name") == DEFAULT_CONTEXT:
        return DEFAULT_DESCRIPTION
    return str((meta.get("Metadata") or {}).get("Description") or "")


def update(invocation: Invocation) -> int:
    args, name = invocation.args, invocation.args.rest[0]
    check_name(name)
    meta = store_of(invocation).read(name)
    if args["description"]:
        meta["Metadata"] = {**(meta.get("Metadata") or {}), "Description": args["description"]}
    material = None
    asked = _asked(invocation)
    if asked:
        found, material = _endpoint(invocation, asked)
        meta["Endpoints"] = {**(meta.get("Endpoints") or {}), "docker": found}
    _save(invocation, name, meta, material)
    invocation.out(name)
    invocation.err(f'Successfully updated context "{name}"')
    return 0


def warn_of_environment(invocation: Invocation, which: str) -> None:
    for name in ("BIREME_HOST", "DOCKER_HOST"):
        if invocation.environ.get(name):
            invocation.err(
                f"Warning: {name} environment variable overrides the active context. To use {which}, either set the "
                f"global --context flag, or unset {name} environment variable."
            )
            return


def remove(invocation: Invocation) -> int:
    store, force, current = store_of(invocation), invocation.args["force"], invocation.context()

    def one(name: str) -> str:
        if name == DEFAULT_CONTEXT:
            raise Invalid('context "default" cannot be removed')
        if not force and not store.exists(name):
            raise NotFound(f'context "{name}" does not exist')
        if name == current:
            if not force:
                raise Invalid(f'context "{name}" is in use, set -f flag to force remove')
            _choose(invocation, "")
        store.remove(name)
        return name

    return 1 if each(invocation, invocation.args.rest, one) else 0


def use(invocation: Invocation) -> int:
    name = invocation.args.rest[0]
    if name != DEFAULT_CONTEXT:
        check_name(name)
        store_of(invocation).read(name)
    _choose(invocation, "" if name == DEFAULT_CONTEXT else name)
    invocation.out(name)
    invocation.err(f'Current context is now "{name}"')
    if name != DEFAULT_CONTEXT:
        warn_of_environment(invocation, f'"{name}"')
    return 0


def _choose(invocation: Invocation, name: str) -> None:
    """Write the choice into config.json; everything else in it stays."""
    path = os.path.realpath(os.path.join(invocation.directory, "config.json"))
    try:
        settings = read_settings(path)
    except Invalid as error:
        raise CommandFailed(f"bireme: {path} is not changed: {error.message}") from None
    if str(settings.get("currentContext") or "") == name:
        return
    settings.setdefault("auths", {})
    settings.pop("currentContext", None)
    if name:
        settings["currentContext"] = name
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o600
        write_file(path, dumps_indented(settings, "\t").encode(), mode)
    except OSError as error:
        raise CommandFailed(f"bireme: cannot write {path}: {error.strerror}") from error


_ENDPOINT = Option("docker", "stringToString", "set the docker endpoint", shown_default="[]")
_DESCRIPTION = Option("description", "string", "Description of the context")
_DETAILS = """Docker endpoint config:

NAME                DESCRIPTION
from                Copy named context's Docker endpoint configuration
host                Docker endpoint on which to connect
ca                  Trust certs signed only by this CA
cert                Path to TLS certificate file
key                 Path to TLS key file
skip-tls-verify     Skip TLS certificate validation"""

VERBS = {
    "context create": Verb(
        create,
        "[OPTIONS] CONTEXT",
        "Create a context",
        (_DESCRIPTION, _ENDPOINT, Option("from", "string", "create context from a named context")),
        args=(1, 1),
        details=_DETAILS,
    ),
    "context rm": Verb(
        remove,
        "CONTEXT [CONTEXT...]",
        "Remove one or more contexts",
        (Option("force", "bool", "Force the removal of a context in use", "f"),),
        args=(1, UNLIMITED),
        aliases=("context rm", "context remove"),
        complete="contexts",
    ),
    "context update": Verb(
        update,
        "[OPTIONS] CONTEXT",
        "Update a context",
        (_DESCRIPTION, _ENDPOINT),
        args=(1, 1),
        details=_DETAILS,
        complete="contexts",
    ),
    "context use": Verb(use, "CONTEXT", "Set the current docker context", args=(1, 1), complete="contexts"),
}
