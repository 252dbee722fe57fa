"""Contexts as docker keeps them: named addresses of engines, in a directory that both programs use.

    CONFIG/contexts/meta/ID/meta.json        {"Name":.., "Metadata":{..}, "Endpoints":{"docker":{"Host":..}}}
    CONFIG/contexts/tls/ID/docker/*.pem      ca.pem, cert.pem, key.pem

ID is the SHA-256 of the name. Endpoints of other programs in a context are left as they are.
"""

from __future__ import annotations

import os

from bireme.cli.invocation import DEFAULT_CONTEXT
from bireme.client.jsontext import dumps, loads
from bireme.errors import Invalid, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_CHARACTERS = _FIRST.union("_.+-")


def check_name(name: str) -> None:
    """Invalid for a name that docker's store does not take."""
    if name == DEFAULT_CONTEXT:
        raise Invalid('"default" is a reserved context name', subject=name)
    if len(name) < 2 or name[0] not in _FIRST or not _CHARACTERS.issuperset(name):
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"
        raise Invalid(f'context name "{name}" is invalid, names are validated against regexp "{pattern}"', subject=name)


class ContextStore:
    """The contexts below a configuration directory."""

    def __init__(self, directory: str) -> None:
        self._root = os.path.join(directory, "contexts")

    def meta_path(self, name: str) -> str:
        return os.path.join(self._root, "meta", _identity(name))

    def tls_path(self, name: str) -> str:
        return os.path.join(self._root, "tls", _identity(name))

    def read(self, name: str) -> dict[str, Any]:
        """What is kept of a context; NotFound with docker's words."""
        path = os.path.join(self.meta_path(name), "meta.json")
        try:
            return _read(path)
        except FileNotFoundError:
            text = f'context "{name}": context not found: open {path}: no such file or directory'
            raise NotFound(text, subject=name) from None

    def exists(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.meta_path(name), "meta.json"))

    def names(self) -> list[str]:
        """The names of all contexts."""
        base = os.path.join(self._root, "meta")
        try:
            entries = os.listdir(base)
        except FileNotFoundError:
            return []
        found = []
        for entry in entries:
            try:
                found.append(str(_read(os.path.join(base, entry, "meta.json")).get("Name") or ""))
            except FileNotFoundError:
                continue
        return list(filter(None, found))

    def write(self, name: str, meta: dict[str, Any]) -> None:
        directory = self.meta_path(name)
        os.makedirs(directory, 0o755, exist_ok=True)
        write_file(os.path.join(directory, "meta.json"), dumps(meta).encode(), 0o644)

    def tls_files(self, name: str) -> dict[str, str]:
        """Paths of the TLS files there are, by name."""
        directory = os.path.join(self.tls_path(name), "docker")
        paths = {file: os.path.join(directory, file) for file in TLS_FILES}
        return {file: path for file, path in paths.items() if os.path.exists(path)}

    def write_tls(self, name: str, contents: dict[str, bytes]) -> None:
        """Replace the TLS files of the engine's endpoint."""
        directory = os.path.join(self.tls_path(name), "docker")
        _remove_tree(directory)
        if not contents:
            return
        os.makedirs(self._root, 0o755, exist_ok=True)
        for path in (os.path.dirname(self.tls_path(name)), self.tls_path(name), directory):
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
        for file, data in contents.items():
            write_file(os.path.join(directory, file), data, 0o600)

    def remove(self, name: str) -> None:
        _remove_tree(self.meta_path(name))
        _remove_tree(self.tls_path(name))


def _identity(name: str) -> str:
    from hashlib import sha256

    return sha256(name.encode()).hexdigest()


def _remove_tree(path: str) -> None:
    if os.path.isdir(path):
        from shutil import rmtree

        rmtree(path, ignore_errors=True)


def endpoint(meta: dict[str, Any]) -> dict[str, Any]:
    """The engine's endpoint of a context."""
    endpoints = meta.get("Endpoints")
    found = endpoints.get("docker") if isinstance(endpoints, dict) else None
    return found if isinstance(found, dict) else {}


def write_file(path: str, data: bytes, mode: int) -> None:
    """Whole or not at all: a new file under another name, then a rename."""
    fresh = f"{path}.tmp{os.getpid()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            meta = loads(file.read())
    except NotADirectoryError:
        raise FileNotFoundError(path) from None
    except Invalid as error:
        raise Invalid(f"parsing {path}: {error.message}", subject=path) from None
    if not isinstance(meta, dict):
        raise Invalid(f"parsing {path}: not a JSON object", subject=path)
    return meta


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts as people count: 2 before 10."""
    parts: list[tuple[int, int, str]] = []
    at = 0
    while at < len(name):
        end = at + 1
        digits = name[at].isdecimal()
        while end < len(name) and name[end].isdecimal() is digits:
            end += 1
        parts.append((0, int(name[at:end]), "") if digits else (1, 0, name[at:end]))
        at = end
    return parts
